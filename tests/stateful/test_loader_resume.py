"""The loader's state with real worker processes: prefetched batches do not count, epochs do."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
)
from aiolit.errors import StateError
from aiolit.streaming.epoch import Streamable
from aiolit.testing.datasets import write_dataset

pytestmark = [
    pytest.mark.keeps_open("environment", reason="torch sets its SIGCHLD handler for good"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on few cores
]

SIZES = (47, 22)
BATCH = 4
Make = Callable[[], Streamable]

# A job that is killed behind a batch; what it prefetched is lost with it.
KILLED = """
import json, os, signal, sys
from aiolit import StreamingDataLoader, StreamingDataset

if __name__ == "__main__":
    folder, out, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
    loader = StreamingDataLoader(
        StreamingDataset(folder, shuffle=True), batch_size=4, num_workers=2
    )
    for number, batch in enumerate(loader, 1):
        with open(out, "a") as file:
            file.write(json.dumps([batch.tolist(), loader.state_dict()]) + "\\n")
            file.flush()
        if number == stop:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("loader")
    return [
        write_dataset(root / str(m), range(m * 1000, m * 1000 + size), chunk_size=6)
        for m, size in enumerate(SIZES)
    ]


@pytest.fixture(params=["one", "per_stream", "parallel"])
def make(request: pytest.FixtureRequest, folders: list[Path]) -> Make:
    def members() -> list[StreamingDataset]:
        return [StreamingDataset(folder, shuffle=True) for folder in folders]

    return {
        "one": lambda: members()[0],
        "per_stream": lambda: CombinedStreamingDataset(
            members(),
            weights=[2, 1],
            iterate_over_all=False,
            batching_method="per_stream",
        ),
        "parallel": lambda: ParallelStreamingDataset(members(), length=30),
    }[request.param]


def plain(batch: Any) -> Any:
    return [one.tolist() for one in batch] if isinstance(batch, list) else batch.tolist()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_workers": 2},
    {"num_workers": 3, "prefetch_factor": 4},
    {"num_workers": 2, "persistent_workers": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "0")
def test_a_state_of_any_epoch_goes_on_with_the_next_batch(
    make: Make, options: dict[str, Any]
) -> None:
    """Peer A.2, theme 2: batches that were prefetched, the short last one, later epochs, and a
    ``break`` before."""

    def loader() -> StreamingDataLoader:
        return StreamingDataLoader(make(), batch_size=BATCH, **options)

    one = loader()
    epochs = [[plain(batch) for batch in one] for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    last = len(epochs[1]) - 1
    for taken in (1, last):
        two = loader()
        for _ in islice(two, 3):  # epoch 1, left early
            pass
        batches = iter(two)
        begun = [plain(next(batches)) for _ in range(taken)]
        state = json.loads(json.dumps(two.state_dict()))
        assert len(json.dumps(state)) < 2000
        del batches, two
        again = loader()
        again.load_state_dict(state)
        assert len(again) == len(epochs[1]) - taken
        assert begun + [plain(batch) for batch in again] == epochs[1]
        assert [plain(batch) for batch in again] == epochs[2]


def test_a_state_is_kept_until_iteration_begins(make: Make) -> None:
    loader = StreamingDataLoader(make(), batch_size=BATCH)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    again = StreamingDataLoader(make(), batch_size=BATCH)
    again.load_state_dict(state)
    assert again.state_dict() == state
    rest = iter(again)
    assert again.state_dict() == state
    again.set_epoch(9)  # what is pending goes first
    expected = [plain(batch) for batch in batches]
    assert [plain(batch) for batch in rest] == expected


def test_behind_the_last_batch_the_next_epoch_begins(make: Make) -> None:
    one = StreamingDataLoader(make(), batch_size=BATCH)
    first, second = ([plain(batch) for batch in one] for _ in range(2))
    two = StreamingDataLoader(make(), batch_size=BATCH)
    batches = iter(two)
    for _ in first:
        next(batches)
    for loader in (two, one):
        loader.state_dict()
    again = StreamingDataLoader(make(), batch_size=BATCH)
    again.load_state_dict(two.state_dict())
    assert [plain(batch) for batch in again] == second


@pytest.mark.slow
def test_a_job_that_was_killed(run_python: Any, folders: list[Path], tmp_path: Path) -> None:
    """P4: after a ``kill -9``, on another number of workers and with another batch size."""
    out = tmp_path / "steps.jsonl"
    finished = run_python(KILLED, str(folders[0]), str(out), "7")
    assert finished.returncode == -9, finished.stderr
    steps = [json.loads(line) for line in out.read_text().splitlines()]
    begun = [sample for batch, _ in steps for sample in batch]
    again = StreamingDataLoader(StreamingDataset(folders[0], shuffle=True), batch_size=5)
    again.load_state_dict(steps[-1][1])
    rest = [sample for batch in again for sample in plain(batch)]
    assert sorted(begun + rest) == list(range(SIZES[0]))


@pytest.mark.parametrize("set_size", [1, 4])
def test_a_state_within_a_batch(folders: list[Path], set_size: int) -> None:
    """The data set itself, iterated: its state is exact at every sample."""

    def opened() -> StreamingDataset:
        dataset = StreamingDataset(folders[0], shuffle=True)
        dataset.set_batch_size(set_size)
        return dataset

    whole = list(opened())
    for taken in range(1, len(whole)):
        dataset = opened()
        samples = iter(dataset)
        begun = [next(samples) for _ in range(taken)]
        again = opened()
        again.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
        assert begun + list(again) == whole


def test_litdatas_way_of_asking_a_data_set(folders: list[Path]) -> None:
    """Peer A.1: the caller counts: ``state_dict(num_samples_yielded, num_workers, batch_size)``."""
    loader = StreamingDataLoader(StreamingDataset(folders[0], shuffle=True), batch_size=BATCH)
    whole = [plain(batch) for batch in loader]
    asked = StreamingDataset(folders[0], shuffle=True)
    state = asked.state_dict(num_samples_yielded=5 * BATCH, num_workers=0, batch_size=BATCH)
    again = StreamingDataLoader(StreamingDataset(folders[0], shuffle=True), batch_size=BATCH)
    again.load_state_dict({"dataset": state})
    assert [plain(batch) for batch in again] == whole[5:]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 7}, "seed was 42 and is 7"),
        ({"shuffle": False}, "shuffle was True and is False"),
        ({"subsample": 0.5}, "fingerprint"),
        ({"shuffle_window": 3}, "window"),
    ],
)
def test_what_changed_is_named_in_this_process(
    folders: list[Path], change: dict[str, Any], named: str
) -> None:
    """Peer A.2: a ValueError in the worker, wrapped by torch."""
    state = StreamingDataLoader(StreamingDataset(folders[0], shuffle=True)).state_dict()
    options = {"shuffle": True, **change}
    with pytest.raises(StateError, match=named):
        StreamingDataLoader(StreamingDataset(folders[0], **options)).load_state_dict(state)
    forced = StreamingDataLoader(
        StreamingDataset(folders[0], force_override_state_dict=True, **options)
    )
    with pytest.warns(UserWarning, match=named):
        forced.load_state_dict(state)
    assert list(forced)


def test_set_epoch_gives_each_epoch_its_order(folders: list[Path]) -> None:
    def epoch(number: int) -> list[int]:
        dataset = StreamingDataset(folders[0], shuffle=True)
        dataset.set_epoch(number)
        return list(dataset)

    orders = [epoch(number) for number in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    fresh = StreamingDataset(folders[0], shuffle=True)
    assert [list(fresh) for _ in range(3)] == orders[1:]
    with pytest.raises(ValueError, match="epoch"):
        fresh.set_epoch(-1)
    with pytest.raises(ValueError, match="epoch"):
        fresh.set_epoch(1.5)  # type: ignore[arg-type]
