"""A run that is saved at every step, and goes on on any number of ranks and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataset,
    train_test_split,
)
from aiolit.streaming.epoch import Streamable
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import TrainingJob, samples_of

SIZES = (53, 30, 17)
FAR = 1000
Topology = tuple[int, int, int]
topologies = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("composed")
    return [
        write_dataset(root / str(m), range(m * FAR, m * FAR + size), chunk_size=5 + m)
        for m, size in enumerate(SIZES)
    ]


def kinds(folders: list[Path]) -> dict[str, Callable[[], Streamable]]:
    def opened(*members: int, shuffle: bool = True) -> list[Streamable]:
        return [StreamingDataset(folders[m], shuffle=shuffle, shuffle_window=11) for m in members]

    def weighted(*members: int, **options: Any) -> CombinedStreamingDataset:
        return CombinedStreamingDataset(
            opened(*members), weights=range(1, len(members) + 1), iterate_over_all=False, **options
        )

    return {
        "one": lambda: opened(0)[0],
        "unshuffled": lambda: opened(0, shuffle=False)[0],
        "part": lambda: train_test_split(StreamingDataset(folders[0]), [0.6, 0.4])[0],
        "upsampled": lambda: StreamingDataset(folders[2], subsample=2.6, shuffle=True),
        "all": lambda: CombinedStreamingDataset(opened(0, 1, 2)),
        "weighted": lambda: weighted(0, 1, 2),
        "scheduled": lambda: CombinedStreamingDataset(
            opened(0, 1, 2),
            weight_schedule=[(0, [1, 0, 0]), (20, [1, 1, 0]), (45, [1, 1, 1])],
            iterate_over_all=False,
        ),
        "parallel": lambda: ParallelStreamingDataset(opened(0, 1, shuffle=False)),
        "cycled": lambda: ParallelStreamingDataset(opened(2), length=13),
        "nested": lambda: CombinedStreamingDataset(
            [weighted(0, 1), CombinedStreamingDataset(opened(2, 1))]
        ),
        "mixture of tuples": lambda: CombinedStreamingDataset(
            [ParallelStreamingDataset(opened(0, 1, shuffle=False)), *opened(2)]
        ),
    }


KINDS = sorted(kinds([]))


class Run(RuleBasedStateMachine):
    """The model is the multiset of the epoch's samples, less what was read.

    Repeats and drops are reckoned once, on the topology that ends the epoch: nothing is dropped
    here, and the last step may repeat up to ``ranks - 1`` samples.
    """

    folders: list[Path]

    @initialize(kind=st.sampled_from(KINDS), topology=topologies)
    def begin(self, kind: str, topology: Topology) -> None:
        made = kinds(self.folders)[kind]

        def make() -> Streamable:
            dataset = made()
            dataset.set_drop_last(False)
            return dataset

        self.make, self.kind = make, kind
        self.epoch_state: dict[str, Any] | None = None
        self.begin_epoch(topology)

    def begin_epoch(self, topology: Topology) -> None:
        # One rank repeats nothing. The length of a cycle is each rank's, so it needs them all.
        alone = topology if self.kind == "cycled" else (1, 1, 1)
        whole = samples_of(self.job_on(alone, self.epoch_state).rest())
        self.left = Counter(map(repr, whole))
        self.job = self.job_on(topology, self.epoch_state)
        self.ranks, self.taken, self.legs = topology[0], 0, 1
        self.topology = topology

    def job_on(self, topology: Topology, state: dict[str, Any] | None) -> TrainingJob:
        ranks, workers, size = topology
        return TrainingJob(self.make, ranks=ranks, workers=workers, batch_size=size, state=state)

    def take_off(self, samples: list[Any], *, last: bool) -> None:
        read = Counter(map(repr, samples))
        more = read - self.left
        assert more.total() <= (self.ranks - 1 if last else 0), f"read twice: {more}"
        self.left -= read

    @property
    def remaining(self) -> int:
        return self.job.num_batches - self.taken

    @precondition(lambda self: self.remaining > 1)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        steps = data.draw(st.integers(1, min(5, self.remaining - 1)))
        self.take_off(samples_of(self.job.take(steps)), last=False)
        self.taken += steps

    @precondition(lambda self: self.taken > 0)
    @rule()
    def restart_on_the_same_topology(self) -> None:
        old, remaining = self.job, self.remaining
        self.job = self.job_on(self.topology, old.state())
        assert self.job.num_batches == remaining
        self.taken = 0
        check = self.job_on(self.topology, old.state())
        assert repr(check.rest()) == repr(old.rest())

    @precondition(lambda self: self.taken > 0 and self.legs < 4)
    @rule(topology=topologies)
    def restart_on_another_topology(self, topology: Topology) -> None:
        self.job = self.job_on(topology, self.job.state())
        self.topology, self.ranks, self.taken = topology, topology[0], 0
        self.legs += 1

    @rule(topology=topologies)
    def end_the_epoch(self, topology: Topology) -> None:
        self.take_off(samples_of(self.job.rest()), last=True)
        assert not self.left, f"lost: {self.left}"
        self.epoch_state = self.job.state()
        self.begin_epoch(topology)


def test_composed_resume(folders: list[Path]) -> None:
    class Here(Run):
        pass

    Here.folders = folders
    Here.TestCase.settings = settings(max_examples=60, stateful_step_count=14)
    Here.TestCase("runTest").runTest()
