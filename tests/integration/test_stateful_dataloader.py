"""torchdata's StatefulDataLoader asks the data set in each worker for a state of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Any

import pytest

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataset,
)
from aiolit.errors import StateError

torchdata = pytest.importorskip(
    "torchdata.stateful_dataloader", reason="pip install torchdata to run this"
)

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.keeps_open("environment", reason="torch sets its SIGCHLD handler for good"),
    # torchdata's own, of what it uses of torch
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    # one epoch each, or workers that persist
    pytest.mark.filterwarnings("ignore:torch's DataLoader starts new workers"),
]

Make = Callable[[], Any]
BATCH = 3


@pytest.fixture(params=["one", "combined", "per_stream", "parallel", "endless"])
def make(request: pytest.FixtureRequest, write_dataset: Any) -> Make:
    one = write_dataset(range(47), chunk_size=5)
    two = write_dataset(range(1000, 1022), chunk_size=4, name="other")

    def members() -> list[StreamingDataset]:
        return [StreamingDataset(one, shuffle=True), StreamingDataset(two)]

    def per_stream() -> CombinedStreamingDataset:
        made = CombinedStreamingDataset(members(), batching_method="per_stream")
        made.set_batch_size(BATCH)
        return made

    return {
        "one": lambda: members()[0],
        "combined": lambda: CombinedStreamingDataset(members()),
        "per_stream": per_stream,
        "parallel": lambda: ParallelStreamingDataset(members(), length=40),
        "endless": lambda: ParallelStreamingDataset(members(), length=math.inf),
    }[request.param]


def loader_of(make: Make, workers: int, **options: Any) -> Any:
    return torchdata.StatefulDataLoader(make(), batch_size=BATCH, num_workers=workers, **options)


def plain(batches: Iterable[Any]) -> list[Any]:
    return [
        [column.tolist() for column in batch] if isinstance(batch, list) else batch.tolist()
        for batch in batches
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_taken_at_any_batch_goes_on_with_the_next(make: Make, workers: int) -> None:
    whole = plain(islice(loader_of(make, workers), 60))
    for taken in (4, len(whole) - 1):
        loader = loader_of(make, workers)
        batches = iter(loader)
        begun = plain(next(batches) for _ in range(taken))
        state = copy.deepcopy(loader.state_dict())
        del batches, loader
        again = loader_of(make, workers)
        again.load_state_dict(state)
        assert begun + plain(islice(again, len(whole) - taken)) == whole


def test_the_epoch_goes_on_where_workers_persist(write_dataset: Any) -> None:
    folder = write_dataset(range(47), chunk_size=5)
    loader = loader_of(lambda: StreamingDataset(folder, shuffle=True), 2, persistent_workers=True)
    first, second = plain(loader), plain(loader)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(47))


def test_a_workers_state_is_refused_elsewhere(write_dataset: Any) -> None:
    folder = write_dataset(range(20), chunk_size=5)
    dataset = StreamingDataset(folder)
    state = {**dataset.state_dict(), "worker": [1, 2]}
    dataset.load_state_dict(state)
    with pytest.raises(StateError, match="worker 1 of 2"):
        next(iter(dataset))


def test_a_workers_state_is_refused_on_another_topology(write_dataset: Any) -> None:
    folder = write_dataset(range(20), chunk_size=5)
    deal = {"ranks": 2, "workers": 1, "batch_size": 1, "canonical": 2, "drop_last": True}
    dataset = StreamingDataset(folder)
    state = {**dataset.state_dict(), "own": 2, "counted": deal, "worker": [0, 1]}
    dataset.load_state_dict(state)
    with pytest.raises(StateError, match="the same ranks"):
        next(iter(dataset))
    same = StreamingDataset(folder, rank=1, world_size=2)
    same.load_state_dict(state)
    assert list(same) == list(range(12, 20))
