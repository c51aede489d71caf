"""A training job of many ranks and workers in one process: to test what each of them reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from aiolit.streaming.epoch import Streamable
from aiolit.streaming.run import Readers, Run
from aiolit.streaming.topology import Topology

Batch = list[Any]
MakeDataset = Callable[[], Streamable]


class TrainingJob:
    """Ranks that read a data set in step, one after the other in this process.

    Args:
        make: Makes the data set; called once for each rank.
        ranks: How many ranks read different data.
        workers: Loader workers of each rank.
        batch_size: Samples in a batch of a rank, or one number for each member of a mixture.
        state: A state that every rank goes on with.
        epoch: The epoch to begin with.

    Attributes:
        num_batches: How many batches every rank reads.
        epoch: The epoch they are of: not that of the state if it leaves no batch to these readers.
    """

    def __init__(
        self,
        make: MakeDataset,
        *,
        ranks: int = 1,
        workers: int = 1,
        batch_size: int | Sequence[int] = 1,
        state: dict[str, Any] | None = None,
        epoch: int | None = None,
    ) -> None:
        self._datasets = [make() for _ in range(ranks)]
        self._taken = 0
        biggest = batch_size if isinstance(batch_size, int) else max(batch_size)
        self._runs: list[Run] = []
        for rank, dataset in enumerate(self._datasets):
            dataset.set_batch_size(batch_size)
            dataset.set_num_workers(workers)
            if state is not None:
                dataset.load_state_dict(state)
            if epoch is not None:
                dataset.set_epoch(epoch)
            self._runs.append(dataset.begin(Readers(Topology(rank, ranks), workers, biggest)))
        self._batches = [
            _in_turn([dataset.batches(run, worker) for worker in range(workers)])
            for dataset, run in zip(self._datasets, self._runs, strict=True)
        ]
        counts = {run.num_batches for run in self._runs}
        assert len(counts) == 1, f"the ranks read different numbers of batches: {sorted(counts)}"
        self.num_batches = counts.pop()
        self.epoch = self._runs[0].position.epoch

    def take(self, steps: int) -> list[list[Batch]]:
        """Return the batches of the next steps: for each step, one of every rank."""
        self._taken += steps
        return [[next(batches) for batches in self._batches] for _ in range(steps)]

    def rest(self) -> list[list[Batch]]:
        """Return the batches of all steps that are left, and check that there are no more."""
        found = self.take(self.num_batches - self._taken)
        for rank, batches in enumerate(self._batches):
            left = sum(1 for _ in batches)
            assert not left, f"rank {rank} reads {left} batches more than was said"
        return found

    def state(self) -> dict[str, Any]:
        """Return the state behind the last step, which is the same on every rank and survives
        JSON."""
        states = [
            dataset.save_run(run, self._taken)
            for dataset, run in zip(self._datasets, self._runs, strict=True)
        ]
        assert all(state == states[0] for state in states), "the ranks save different states"
        found: dict[str, Any] = json.loads(json.dumps(states[0]))
        assert found == states[0], "the state is not the same behind JSON"
        return found


def samples_of(steps: Sequence[Sequence[Batch]]) -> list[Any]:
    """Return all samples of some steps."""
    return [sample for step in steps for batch in step for sample in batch]


def assert_resumable(
    make: MakeDataset,
    *,
    ranks: int = 1,
    workers: int = 1,
    batch_size: int | Sequence[int] = 1,
    every: int = 1,
) -> None:
    """Check that an epoch goes on with the very batches that were left, wherever it is stopped.

    Args:
        make: Makes the data set.
        ranks: How many ranks read different data.
        workers: Loader workers of each rank.
        batch_size: Samples in a batch of a rank, or one number for each member of a mixture.
        every: Stop behind every so many steps.

    Raises:
        AssertionError: It does not; the message says where.
    """

    def job(state: dict[str, Any] | None = None) -> TrainingJob:
        return TrainingJob(make, ranks=ranks, workers=workers, batch_size=batch_size, state=state)

    whole = job().rest()
    for taken in range(1, len(whole), every):
        stopped = job()
        begun = stopped.take(taken)
        assert _plain(begun) == _plain(whole[:taken]), (
            f"the first {taken} steps are not the same each time"
        )
        rest = job(stopped.state()).rest()
        assert _plain(rest) == _plain(whole[taken:]), f"stopped behind step {taken}"


def assert_nothing_lost(
    whole: Sequence[Any], parts: Sequence[Any], *, dropped: int = 0, repeated: int = 0
) -> None:
    """Check that parts hold every sample of a whole once.

    Args:
        whole: All samples.
        parts: The samples that were read.
        dropped: So many may be missing.
        repeated: So many may come once more.

    Raises:
        AssertionError: More are missing or come more than once.
    """
    wanted, found = Counter(map(repr, whole)), Counter(map(repr, parts))
    lost, more = wanted - found, found - wanted
    assert lost.total() <= dropped, f"{lost.total()} samples are lost: {sorted(lost)[:10]}"
    assert more.total() <= repeated, f"{more.total()} samples come twice: {sorted(more)[:10]}"


def _in_turn(workers: list[Iterator[Batch]]) -> Iterator[Batch]:
    """Take the workers in turn, as torch's ``DataLoader`` does, until all have ended."""
    turn, left = 0, dict(enumerate(workers))
    while left:
        worker = turn % len(workers)
        turn += 1
        if worker not in left:
            continue
        try:
            yield next(left[worker])
        except StopIteration:
            del left[worker]


def _plain(steps: list[list[Batch]]) -> list[list[list[str]]]:
    return [[[repr(sample) for sample in batch] for batch in step] for step in steps]
