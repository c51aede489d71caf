"""`optimize` with real worker processes: the same data set whatever the number of workers."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from aiolit.errors import ConfigError, OptimizeError, SchemaError
from aiolit.format.index import parse_index
from aiolit.format.loader import TokensLoader
from aiolit.processing.functions import optimize
from aiolit.processing.summary import Summary
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import read_dataset

Options = dict[str, Any]


def write(fn: Callable[..., Any], inputs: Any, output_dir: Path, **options: Any) -> Summary:
    given: Options = {"num_workers": 2, "verbose": False, **options}
    if "chunk_bytes" not in given:
        given.setdefault("chunk_size", 7)
    return optimize(fn, inputs, str(output_dir), **given)


def workers() -> list[str]:
    """Return the names of this process's workers; multiprocessing keeps children of its own."""
    names = [child.name() for child in psutil.Process().children()]
    return [name for name in names if name.startswith("aiolit-worker")]


def digest(folder: Path) -> str:
    """Return a hash of everything in the folder but the time in the index."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes()
        if path.name == "index.json":
            index = json.loads(data)
            assert float(index.pop("updated_at")) > 0
            data = json.dumps(index).encode()
        total.update(f"{path.name} {len(data)}".encode() + data)
    return total.hexdigest()


def record(index: int) -> dict[str, Any]:
    return {"index": index, "half": index / 2, "text": "x" * (index % 13)}


def arrays(index: int) -> Any:
    return None if index % 3 == 0 else (index, np.full(index % 50, index, dtype=np.int32))


def some(index: int) -> Iterator[tuple[int, int]]:
    for k in range(index % 4):
        yield index, k


def scaled(factor: int, value: int) -> int:
    return factor * value


class Adder:
    def __init__(self, term: int) -> None:
        self.term = term

    def __call__(self, value: int) -> int:
        return value + self.term


FUNCTIONS: dict[str, tuple[Callable[..., Any], Any, list[Any]]] = {
    "function": (record, range(100), [record(i) for i in range(100)]),
    "generator": (some, list(range(50)), [pair for i in range(50) for pair in some(i)]),
    "partial": (partial(scaled, 3), tuple(range(40)), [3 * i for i in range(40)]),
    "object": (Adder(5), range(40), [i + 5 for i in range(40)]),
    "lambda": (lambda i: -i, range(20), [-i for i in range(20)]),
    "None drops": (lambda i: i if i % 2 else None, range(20), list(range(1, 20, 2))),
    "one input": (lambda i: i, [7], [7]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kind_of_function_gives_the_same_for_any_workers(name: str, tmp_path: Path) -> None:
    fn, inputs, expected = FUNCTIONS[name]
    digests = set()
    for num_workers in (1, 2, 3):
        folder = tmp_path / str(num_workers)
        summary = write(fn, inputs, folder, num_workers=num_workers)
        assert summary.samples == len(expected)
        assert summary.inputs == len(inputs)
        digests.add(digest(folder))
    assert read_dataset(folder) == expected
    assert len(digests) == 1


def test_arrays_closures_and_sizes(tmp_path: Path) -> None:
    """A closure over an array; chunks cut by bytes; slow and fast inputs mixed."""
    table = np.arange(1000)

    def look_up(index: int) -> dict[str, Any]:
        return {"row": table[index : index + 5], "random": random.Random(index).random()}

    for num_workers in (1, 3):
        write(look_up, range(300), tmp_path / str(num_workers), chunk_bytes="2KB")
    assert digest(tmp_path / "1") == digest(tmp_path / "3")
    samples = read_dataset(tmp_path / "1")
    assert len(samples) == 300
    assert samples[10]["row"].tolist() == [10, 11, 12, 13, 14]


class Sized:
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> int:
        if index >= 30:
            raise IndexError(index)
        return index


async def counted() -> AsyncIterator[int]:
    for i in range(30):
        yield i


SOURCES: dict[str, Callable[[], Any]] = {
    "generator": lambda: (i for i in range(30)),
    "iterator": lambda: iter(range(30)),
    "set": lambda: set(range(30)),
    "dict": lambda: dict.fromkeys(range(30)),
    "array": lambda: np.arange(30),
    "map": lambda: map(int, range(30)),
    "getitem": Sized,
    "async generator": counted,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_inputs(name: str, tmp_path: Path) -> None:
    summary = write(lambda i: int(i), SOURCES[name](), tmp_path / "out")
    assert summary.inputs == 30
    assert read_dataset(tmp_path / "out") == list(range(30))


@pytest.mark.keeps_open("environment", reason="torch handles SIGCHLD once it had a worker")
@pytest.mark.parametrize(("num_workers", "ordered"), [(0, True), (2, False), (2, True)])
def test_a_data_loader_as_inputs(num_workers: int, ordered: bool, tmp_path: Path) -> None:
    """Every batch comes once; workers of the loader are forked while ours are started."""
    write(lambda i: i, range(100), tmp_path / "first")
    loader = StreamingDataLoader(
        StreamingDataset(str(tmp_path / "first")),
        batch_size=7,
        num_workers=num_workers,
        collate_fn=list,
        multiprocessing_context="fork" if num_workers else None,
    )
    batches = [tuple(batch) for batch in loader]
    summary = write(
        lambda batch: iter(batch),
        loader,
        tmp_path / "second",
        num_workers=3,
        keep_data_ordered=ordered,
    )
    assert summary.inputs == len(batches) == 15
    found = read_dataset(tmp_path / "second")
    assert sorted(found) == list(range(100))
    if ordered:
        assert found == [i for batch in batches for i in batch]


def test_inputs_are_pulled_in_the_thread_of_the_caller(tmp_path: Path) -> None:
    threads = set()

    def source() -> Iterator[int]:
        for i in range(5):
            threads.add(threading.current_thread())
            yield i

    write(lambda i: i, source(), tmp_path / "out")
    assert threads == {threading.current_thread()}


def test_an_endless_source_is_read_no_further_than_needed(tmp_path: Path) -> None:
    def source() -> Iterator[int]:
        i = 0
        while True:
            yield i
            i += 1

    summary = write(lambda i: i, source(), tmp_path / "out", fast_dev_run=25)
    assert summary.inputs == 25
    assert read_dataset(tmp_path / "out") == list(range(25))


def test_unordered_has_every_sample_once(tmp_path: Path) -> None:
    write(record, range(200), tmp_path / "out", num_workers=3, keep_data_ordered=False)
    assert sorted(sample["index"] for sample in read_dataset(tmp_path / "out")) == list(range(200))


def test_batches_weights_and_reader(tmp_path: Path) -> None:
    class Reader:
        def remap_items(self, items: list[int], num_workers: int) -> list[int]:
            return [item * 10 for item in items]

        def read(self, item: list[int]) -> int:
            return sum(item)

    write(
        lambda total: total,
        list(range(10)),
        tmp_path / "out",
        batch_size=4,
        weights=list(range(10)),
        reader=Reader(),
        fast_dev_run=False,
    )
    assert read_dataset(tmp_path / "out") == [60, 220, 170]


def test_tokens(tmp_path: Path) -> None:
    def tokens(index: int) -> Any:
        return np.arange(index * 10, index * 10 + 10, dtype=np.int32)

    for num_workers in (1, 2):
        folder = tmp_path / str(num_workers)
        write(
            tokens,
            range(20),
            folder,
            chunk_size=50,
            item_loader=TokensLoader(block_size=10),
            num_workers=num_workers,
        )
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    index = parse_index((folder / "index.json").read_bytes(), source="")
    assert [chunk.dim for chunk in index.chunks] == [50, 50, 50, 50]
    assert index.config.item_loader == "TokensLoader"


@pytest.mark.parametrize(
    "options",
    [{"compression": "zstd"}, {"compression": "zstd:7", "compression_level": "batch"}],
    ids=["whole", "frames"],
)
def test_compression(options: Options, tmp_path: Path) -> None:
    write(record, range(50), tmp_path / "out", **options)
    names = sorted(path.name for path in tmp_path.glob("out/chunk*"))
    assert names[0] == ("chunk-0-0.zstd.bin" if len(options) == 1 else "chunk-0-0.bin")
    for path in tmp_path.glob("out/*.zstd.bin"):
        assert path.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def shuffled_keys(index: int) -> dict[str, Any]:
    items = [("a", index), ("b", f"{index}"), ("deep", {"x": index / 2, "y": [index, "z"]})]
    random.Random(index).shuffle(items)
    made = dict(items)
    if index % 3:
        made["deep"] = dict(reversed(made["deep"].items()))  # type: ignore[attr-defined]
    return made


def test_the_order_of_keys_is_that_of_the_first_sample(tmp_path: Path) -> None:
    """Each worker meets another first sample; the data set is the same."""
    for num_workers in (1, 3):
        write(shuffled_keys, range(100), tmp_path / str(num_workers), num_workers=num_workers)
    assert digest(tmp_path / "1") == digest(tmp_path / "3")
    samples = read_dataset(tmp_path / "3")
    assert samples == [shuffled_keys(i) for i in range(100)]
    assert {tuple(sample) for sample in samples} == {tuple(shuffled_keys(0))}


class TestModes:
    def test_a_data_set_that_is_there_is_refused(self, tmp_path: Path) -> None:
        write(lambda i: i, range(10), tmp_path / "out")
        before = digest(tmp_path / "out")
        with pytest.raises(ConfigError, match="mode='append'"):
            write(lambda i: i, range(10), tmp_path / "out")
        with pytest.raises(ConfigError, match="mode='append'"):
            write(lambda i: i, iter(range(10_000)), tmp_path / "out")
        assert digest(tmp_path / "out") == before

    def test_append(self, tmp_path: Path) -> None:
        write(lambda i: (i, i**2), range(10), tmp_path / "out")
        write(lambda i: (i, i**2), range(10, 25), tmp_path / "out", mode="append")
        assert read_dataset(tmp_path / "out") == [(i, i**2) for i in range(25)]
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == [f"chunk-0-{n}.bin" for n in range(5)] + ["index.json"]

    def test_append_of_other_samples_leaves_the_old_whole(self, tmp_path: Path) -> None:
        write(lambda i: {"a": i}, range(10), tmp_path / "out")
        before = digest(tmp_path / "out")
        with pytest.raises(SchemaError, match="'b' is missing in the data set there"):
            write(lambda i: {"a": i, "b": i}, range(40), tmp_path / "out", mode="append")
        assert digest(tmp_path / "out") == before

    def test_append_with_other_options_is_refused(self, tmp_path: Path) -> None:
        write(lambda i: i, range(10), tmp_path / "out")
        with pytest.raises(ConfigError, match="compression=None"):
            write(lambda i: i, range(10), tmp_path / "out", mode="append", compression="zstd")

    def test_overwrite(self, tmp_path: Path) -> None:
        write(lambda i: i, range(50), tmp_path / "out")
        write(lambda i: str(i), range(5), tmp_path / "out", mode="overwrite")
        assert read_dataset(tmp_path / "out") == [str(i) for i in range(5)]
        assert len(list((tmp_path / "out").iterdir())) == 2

    def test_a_failed_overwrite_leaves_the_old_whole(self, tmp_path: Path) -> None:
        write(lambda i: i, range(50), tmp_path / "out")
        before = digest(tmp_path / "out")
        with pytest.raises(ZeroDivisionError):
            write(lambda i: 1 // (i - 90), range(100), tmp_path / "out", mode="overwrite")
        assert digest(tmp_path / "out") == before

    def test_two_jobs_that_append_at_once(self, tmp_path: Path) -> None:
        """The second to end finds another index than it began with."""
        write(lambda i: i, range(10), tmp_path / "out")

        def inputs() -> Iterator[int]:
            yield 10
            write(lambda i: i, range(10, 20), tmp_path / "out", mode="append")
            yield 11

        with pytest.raises(OptimizeError, match="another job changed"):
            write(lambda i: i, inputs(), tmp_path / "out", mode="append")

    def test_a_mode_needs_no_data_set(self, tmp_path: Path) -> None:
        write(lambda i: i, range(5), tmp_path / "a", mode="append")
        write(lambda i: i, range(5), tmp_path / "b", mode="overwrite")
        assert read_dataset(tmp_path / "a") == read_dataset(tmp_path / "b") == list(range(5))


class OwnError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def fail_with(error: Callable[[], BaseException], index: int) -> int:
    if index == 60:
        raise error()
    return index


class TestFailures:
    @pytest.mark.parametrize("num_workers", [1, 3])
    def test_the_original_exception_names_its_input(self, num_workers: int, tmp_path: Path) -> None:
        fn = partial(fail_with, partial(OwnError, "no good", 7))
        with pytest.raises(OwnError, match="no good") as caught:
            write(fn, range(500), tmp_path / "out", num_workers=num_workers)
        assert caught.value.code == 7
        notes = "\n".join(caught.value.__notes__)
        assert "while working on input 60: 60" in notes
        assert "in fail_with" in notes
        assert list(tmp_path.rglob("*.bin")) == []
        assert workers() == []

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (StopIteration, StopIteration),
            (StopAsyncIteration, StopAsyncIteration),
            (SystemExit, OptimizeError),
            (KeyboardInterrupt, OptimizeError),
            (Unpicklable, RuntimeError),
        ],
    )
    def test_exceptions_that_travel_badly(
        self, error: Callable[[], BaseException], kind: type[Exception], tmp_path: Path
    ) -> None:
        with pytest.raises(kind) as caught:
            write(partial(fail_with, error), range(100), tmp_path / "out")
        assert error.__name__ in "".join([str(caught.value), *caught.value.__notes__])

    def test_a_failure_after_chunks_were_stored_removes_them(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            write(lambda i: 1 // (i - 900), range(1000), tmp_path / "out", chunk_size=1)
        assert list(tmp_path.rglob("*.*")) == []

    def test_a_generator_that_fails(self, tmp_path: Path) -> None:
        def half(index: int) -> Iterator[int]:
            yield index
            if index == 5:
                raise LookupError("half way")

        with pytest.raises(LookupError, match="half way"):
            write(half, range(10), tmp_path / "out")

    def test_a_source_that_fails(self, tmp_path: Path) -> None:
        def source() -> Iterator[int]:
            yield from range(5)
            raise LookupError("source")

        with pytest.raises(LookupError, match="source"):
            write(lambda i: i, source(), tmp_path / "out")
        assert list(tmp_path.rglob("*.*")) == []

    @pytest.mark.parametrize("num_workers", [1, 2, 3])
    def test_another_schema_names_the_leaf(self, num_workers: int, tmp_path: Path) -> None:
        def mixed(index: int) -> Any:
            return {"a": index, "deep": [{"b": 1.0 if index < 150 else "text"}]}

        with pytest.raises(SchemaError, match=r"deep\[0\]\.b"):
            write(mixed, range(300), tmp_path / "out", num_workers=num_workers)
        assert not (tmp_path / "out" / "index.json").exists()

    def test_skip(self, tmp_path: Path) -> None:
        summary = write(lambda i: 10 // (i % 5), range(20), tmp_path / "out", on_error="skip")
        assert read_dataset(tmp_path / "out") == [10, 5, 3, 2] * 4
        assert [skipped.index for skipped in summary.skipped] == [0, 5, 10, 15]
        assert summary.skipped[1].input == "5"
        assert "ZeroDivisionError" in summary.skipped[1].error
        assert "4 inputs were skipped" in str(summary)

    def test_a_function_decides(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []

        def decide(index: int, value: int, error: BaseException) -> None:
            assert isinstance(error, ZeroDivisionError)
            seen.append((index, value))
            if index == 6:
                raise LookupError("enough")

        with pytest.raises(LookupError, match="enough"):
            write(
                lambda i: 10 // (i % 3),
                range(9),
                tmp_path / "out",
                on_error=decide,
                num_workers=1,
            )
        assert seen == [(0, 0), (3, 3), (6, 6)]

    def test_not_a_single_sample(self, tmp_path: Path) -> None:
        with pytest.raises(OptimizeError, match="not a single sample"):
            write(lambda i: None, range(5), tmp_path / "out")

    def test_what_cannot_be_pickled_is_said(self, tmp_path: Path) -> None:
        lock = threading.Lock()
        with pytest.raises(ConfigError, match="cannot be pickled"):
            write(lambda i: lock.locked(), range(5), tmp_path / "out")

    def test_a_leaf_stored_by_pickle_is_named_once(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="'odd'") as caught:
            write(lambda i: {"a": i, "odd": {1, i}}, range(5), tmp_path / "out")
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_no_side_effects(tmp_path: Path) -> None:
    """Random state, signal handlers, the environment: the fixtures look at the rest."""
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    handler = signal.getsignal(signal.SIGINT)
    write(record, range(50), tmp_path / "out", verbose=True)
    after = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    assert before == after
    assert signal.getsignal(signal.SIGINT) is handler
    assert workers() == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
