"""Head and nodes without Ray between them: nodes of this process, lost at any of their words."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiolit.errors import SchemaError, WorkerDiedError
from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.groups import single_error
from aiolit.processing import functions
from aiolit.processing.arguments import MapArguments, OptimizeArguments
from aiolit.processing.failure import plain_errors
from aiolit.processing.head import NodeHandle, NodeLostError
from aiolit.processing.journal import FOLDER, Covered, Progress, merge_ranges, within
from aiolit.processing.node import Node
from aiolit.processing.planning import plan_map, plan_optimize
from aiolit.processing.regions import Handed, Regions
from aiolit.processing.runs import Run
from aiolit.processing.several_nodes import map_on_nodes, optimize_on_nodes
from aiolit.processing.stretches import Stretches
from aiolit.processing.summary import MapSummary, Summary
from aiolit.runtime.tasks import finish


class Fragile:
    """A node that is lost on some call: before it was heard, or before its answer was."""

    def __init__(self, node: Node, calls: int, *, is_heard: bool) -> None:
        self._node = node
        self._left = calls
        self._is_heard = is_heard

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            self._left -= 1
            if self._left > 0:
                return await getattr(self._node, name)(*args)
            if self._left == 0 and self._is_heard:
                await getattr(self._node, name)(*args)
            await self._node.stop()
            raise NodeLostError("a test lost it")

        return call


class OneProcess:
    """A cluster in this process; `losses` says after how many calls each node is lost."""

    def __init__(self, losses: Iterator[tuple[int, bool]]) -> None:
        self._losses = losses

    @asynccontextmanager
    async def node(self, setup: bytes) -> AsyncIterator[NodeHandle]:
        node = Node(setup)
        calls, is_heard = next(self._losses, (1 << 30, False))
        with single_error():
            async with asyncio.TaskGroup() as group:
                running = group.create_task(node.run())
                try:
                    yield Fragile(node, calls, is_heard=is_heard)
                finally:
                    await finish(end(node, running))


async def end(node: Node, running: asyncio.Task[None]) -> None:
    await node.stop()
    await asyncio.wait([running])


@asynccontextmanager
async def one_process(*losses: tuple[int, bool]) -> AsyncIterator[OneProcess]:
    yield OneProcess(iter(losses))


def filled(kind: type, function: Any, given: dict[str, Any]) -> Any:
    """Return the arguments of a function as a value: those given, and its defaults."""
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: given.get(name, defaults.get(name)) for name in names})


async def optimize(*losses: tuple[int, bool], **given: Any) -> Summary:
    options = {"num_nodes": 2, "num_workers": 1, "chunk_size": 7, "verbose": False}
    arguments = filled(OptimizeArguments, functions.optimize, options | given)
    plan = plan_optimize(arguments, on_loop=True)
    assert plan.nodes is not None
    with plain_errors():
        return (await optimize_on_nodes(plan.job, plan.nodes, one_process(*losses)))[0]


async def map_files(*losses: tuple[int, bool], **given: Any) -> MapSummary:
    options = {"num_nodes": 2, "num_workers": 1, "verbose": False}
    arguments = filled(MapArguments, functions.map, options | given)
    plan = plan_map(arguments, on_loop=True)
    assert plan.nodes is not None
    with plain_errors():
        return await map_on_nodes(plan.job, plan.nodes, one_process(*losses))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return what an unfinished job has written down, up to the first gap."""
    found: list[dict[str, Any]] = []
    while (path := folder / FOLDER / f"{kind}-{len(found):08d}.json").exists():
        found.append(json.loads(path.read_text()))
    return found


def chunks_written_down(folder: Path) -> set[str]:
    return {record["chunk"]["filename"] for record in records(folder, "chunk")}


def read(folder: Path) -> list[Any]:
    index = parse_index((folder / "index.json").read_bytes(), source=str(folder))
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source=str(folder))
    samples: list[Any] = []
    for chunk in index.chunks:
        data = memoryview((folder / chunk.filename).read_bytes())
        reader = loader.open(data, chunk, chunk.filename)
        samples += [reader.sample(number) for number in range(chunk.num_items)]
    assert names(folder) == {"index.json", *(chunk.filename for chunk in index.chunks)}
    return samples


def uneven(index: int) -> Iterator[tuple[int, int]]:
    """Give no sample for some inputs, and more than a chunk has for others."""
    for part in range(index * index % 11):
        yield index, part


SAMPLES = [sample for index in range(120) for sample in uneven(index)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
async def test_nodes_may_be_lost_at_any_time(seed: int, ordered: bool, tmp_path: Path) -> None:
    words = random.Random(seed)
    losses = [(words.randint(1, 30), words.random() < 0.5) for _ in range(3)]
    done = await optimize(
        *losses,
        fn=uneven,
        inputs=list(range(120)),
        output_dir=tmp_path / "out",
        keep_data_ordered=ordered,
    )
    samples = read(tmp_path / "out")
    assert (samples if ordered else sorted(samples)) == SAMPLES
    assert (done.samples, done.inputs) == (len(SAMPLES), 120)


async def arriving(count: int) -> AsyncIterator[int]:
    for index in range(count):
        yield index


INPUTS: dict[str, Callable[[int], Any]] = {
    "iterator": lambda count: iter(range(count)),
    "async iterator": arriving,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", INPUTS)
async def test_nodes_keep_the_order_of_what_is_no_list(
    seed: int, kind: str, tmp_path: Path
) -> None:
    words = random.Random(seed)
    losses = [(words.randint(1, 30), words.random() < 0.5) for _ in range(3)]
    inputs = INPUTS[kind](120)
    done = await optimize(*losses, fn=uneven, inputs=inputs, output_dir=tmp_path / "out")
    assert read(tmp_path / "out") == SAMPLES
    assert (done.samples, done.inputs) == (len(SAMPLES), 120)


async def test_chunks_of_an_iterator_are_full_but_for_the_first(tmp_path: Path) -> None:
    inputs = iter(range(7000))
    done = await optimize(
        fn=lambda i: i, inputs=inputs, output_dir=tmp_path / "out", chunk_size=100
    )
    assert read(tmp_path / "out") == list(range(7000))
    # 70 chunks, and the short ones of stretches that began before a chunk was stored.
    assert done.chunks < 70 + 30


async def test_an_ordered_job_on_an_iterator_goes_on(tmp_path: Path) -> None:
    def failing(index: int) -> Iterator[tuple[int, int]]:
        if index == 90:
            raise ZeroDivisionError
        yield from uneven(index)

    options: dict[str, Any] = {"output_dir": tmp_path / "out", "use_checkpoint": True}
    kept: set[str] = set()
    while not kept:  # it may fail before a chunk is written down
        with pytest.raises(ZeroDivisionError):
            await optimize(fn=failing, inputs=iter(range(120)), **options)
        kept = chunks_written_down(tmp_path / "out")
    await optimize((9, True), fn=uneven, num_nodes=3, inputs=iter(range(120)), **options)
    assert read(tmp_path / "out") == SAMPLES
    assert kept <= names(tmp_path / "out")


async def test_chunks_are_full_but_for_the_last_of_each_region(tmp_path: Path) -> None:
    done = await optimize(fn=lambda i: i, inputs=range(700), output_dir=tmp_path / "out")
    assert read(tmp_path / "out") == list(range(700))
    # 100 chunks, a short one for each of two regions, and for what was taken over at the end.
    assert done.chunks < 100 + 2 + 20


async def test_a_job_goes_on_after_its_head_was_ended(tmp_path: Path) -> None:
    """All samples once and in order, with what the first attempt had stored."""
    arguments: dict[str, Any] = {
        "inputs": list(range(120)),
        "output_dir": tmp_path / "out",
        "use_checkpoint": True,
    }

    def failing(index: int) -> Iterator[tuple[int, int]]:
        if index == 30:
            raise ZeroDivisionError
        yield from uneven(index)

    kept: set[str] = set()
    while not kept:  # it may fail before a chunk is written down
        with pytest.raises(ZeroDivisionError):
            await optimize(fn=failing, **arguments)
        kept = chunks_written_down(tmp_path / "out")
    assert "index.json" not in names(tmp_path / "out")
    await optimize((9, True), fn=uneven, num_nodes=3, **arguments)
    assert read(tmp_path / "out") == SAMPLES
    assert kept <= names(tmp_path / "out")


async def test_a_data_set_is_added_to_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    await optimize(fn=lambda i: i, inputs=list(range(50)), output_dir=out)
    await optimize(
        (9, True), fn=lambda i: i, inputs=list(range(50, 99)), output_dir=out, mode="append"
    )
    assert read(out) == list(range(99))
    await optimize(fn=lambda i: -i, inputs=list(range(50)), output_dir=out, mode="overwrite")
    assert read(out) == [-i for i in range(50)]


async def test_nodes_write_the_leaves_in_one_order(tmp_path: Path) -> None:
    def keys(index: int) -> Any:
        return {"a": index, "b": -index} if index < 50 else {"b": -index, "a": index}

    await optimize(fn=keys, inputs=list(range(100)), output_dir=tmp_path / "out")
    assert read(tmp_path / "out") == [{"a": index, "b": -index} for index in range(100)]


async def test_other_leaves_on_another_node_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"leaf '[ab]' is .* node \d|keys differ"):
        await optimize(
            fn=lambda i: {"a": i} if i < 50 else {"b": i},
            inputs=list(range(100)),
            output_dir=tmp_path / "out",
        )
    assert names(tmp_path / "out") == set()


async def test_on_error_is_called_with_the_input(tmp_path: Path) -> None:
    seen: list[Any] = []

    def fails(index: int) -> int:
        if index % 50 == 10:
            raise ZeroDivisionError("of mine")
        return index

    done = await optimize(
        fn=fails,
        inputs=list(range(100, 200)),
        output_dir=tmp_path / "out",
        on_error=lambda index, value, error: seen.append((index, value, type(error))),
    )
    assert sorted(seen, key=str) == [(10, 110, ZeroDivisionError), (60, 160, ZeroDivisionError)]
    assert [(each.index, each.input) for each in done.skipped] == [(10, "110"), (60, "160")]
    assert read(tmp_path / "out") == [i for i in range(100, 200) if i % 50 != 10]


async def test_nodes_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError, match=r"nodes were lost|no node could start"):
        await optimize(
            *[(1, False)] * 20, fn=abs, inputs=list(range(100)), output_dir=tmp_path / "out"
        )
    assert names(tmp_path / "out") == set()


async def test_a_map_goes_on_after_its_head_was_ended(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"

    def write(index: int, output_dir: str) -> None:
        if index == 50 and not log.exists():
            raise ZeroDivisionError
        (Path(output_dir) / f"{index}.txt").write_text("x" * index)
        if log.exists():
            with log.open("a") as file:
                file.write(f"{index}\n")

    arguments = {"fn": write, "inputs": list(range(60)), "output_dir": out, "use_checkpoint": True}
    finished: set[int] = set()
    while not finished:  # it may fail before an input is written down
        with pytest.raises(ZeroDivisionError):
            await map_files(**arguments)
        finished = {index for record in records(out, "map") for index, _ in record["made"]}
    log.write_text("")
    done = await map_files((9, True), **arguments)
    assert sizes(out) == {f"{index}.txt": index for index in range(60)}
    assert len(done.files) == 60
    assert {int(line) for line in log.read_text().split()} == set(range(60)) - finished


@settings(max_examples=100)
@given(
    total=st.integers(1, 60),
    done=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=3),
    takes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=60),
)
def test_regions_hand_out_each_input_once(
    total: int, done: list[tuple[int, int]], takes: list[tuple[int, int]]
) -> None:
    ranges = merge_ranges((start, start + n) for start, n in done if start + n <= total)
    regions = Regions(list(range(total)), 3, progress=Progress(done=ranges))
    handed: list[int] = []
    for node, most in [*takes, *[(0, 1)] * total]:
        if (run := regions.take(node, most)) is not None:
            assert len(run.inputs) <= most
            assert list(run.inputs) == list(range(run.first, run.stop))
            handed += run.inputs
    assert sorted(handed) == [index for index in range(total) if not within(ranges, index)]
    assert regions.is_empty


@settings(max_examples=100)
@given(
    blocks=st.lists(st.integers(1, 90), max_size=9),
    asks=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=60),
    stored=st.integers(0, 40),
)
def test_stretches_hand_out_each_input_once(
    blocks: list[int], asks: list[tuple[int, int]], stored: int
) -> None:
    """And one after the other to each node, but where a stretch ends."""
    stretches, came, handed = Stretches(3), 0, list[tuple[int, Run]]()
    stretches.stored(stored)

    def take(node: int, most: int, *, is_end: bool) -> None:
        nonlocal came
        if not is_end and stretches.starves(node) and blocks:
            count = min(blocks.pop(), stretches.wanted(node))
            stretches.add([Run(0, came, range(came, came + count), skip=came)], count)
            came += count
        if (run := stretches.take(node, most, is_end=is_end)) is not None:
            handed.append((node, run))

    for node, most in asks:
        take(node, most, is_end=False)
    for node, most in [*asks, *[(0, 1)] * came]:
        take(node, most, is_end=True)
    inputs = [index for _, run in handed for index in run.inputs]
    assert sorted(inputs) == list(range(came))
    assert all(list(run.inputs) == list(range(run.first, run.stop)) for _, run in handed)
    # Whatever a run was cut off, the samples to skip are those of its own first input.
    assert all(run.skip in (0, run.first) for _, run in handed)


@given(
    runs=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    covered=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=5),
)
def test_the_rest_of_a_lost_node_is_what_was_not_covered(
    runs: list[int], covered: list[tuple[int, int]]
) -> None:
    handed, first = Handed(), 0
    for size in runs:
        handed.add(Run(0, first, range(first, first + size)))
        first += size
    kept = [(start, start + n) for start, n in covered if start + n <= first]
    complete = sum(handed.cover(Covered(done=(each,))) for each in kept)
    rest = [index for run in handed.rest() for index in run.inputs]
    assert rest == [index for index in range(first) if not within(merge_ranges(kept), index)]
    assert complete == first - len(rest)


@pytest.mark.parametrize("seed", range(2))
async def test_map_with_a_buffer_that_is_written_by_the_last_input(
    seed: int, tmp_path: Path
) -> None:
    words = random.Random(seed)
    losses = [(words.randint(1, 9), words.random() < 0.5) for _ in range(3)]

    class Buffered:
        def __init__(self) -> None:
            self.waiting: list[int] = []

        def __call__(self, index: int, output_dir: str, is_last: bool) -> None:
            self.waiting.append(index)
            if is_last or len(self.waiting) == 5:
                for each in self.waiting:
                    (Path(output_dir) / f"{each}.txt").write_text("x" * each)
                self.waiting.clear()

    out = tmp_path / "out"
    done = await map_files(*losses, fn=Buffered(), inputs=list(range(90)), output_dir=out)
    assert sizes(out) == {f"{index}.txt": index for index in range(90)}
    assert len(done.files) == 90
