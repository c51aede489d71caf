"""A run that is saved at every step and goes on anywhere: nothing twice, nothing lost.

The ranks and workers of a training job are played in one process, each with a data set of its own,
as torch would: the workers of a rank in turn, all ranks in step. Every step takes the state of
every rank through JSON. The machine interrupts the job and goes on with another number of ranks and
workers and another batch size; what an epoch has given at its end is compared with the data set.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.run import Readers
from aiolit.streaming.topology import Topology
from aiolit.testing.datasets import write_dataset

State = dict[str, Any]

COUNT = 61


class Rank:
    """One rank of the job: its data set, and its workers in turn."""

    def __init__(self, folder: Path, options: State, readers: Readers, state: State | None) -> None:
        self._dataset = StreamingDataset(
            folder,
            rank=readers.topology.rank,
            world_size=readers.topology.world_size,
            **options,
        )
        if state is not None:
            self._dataset.load_state_dict(state)
        self._readers = readers
        self._run = self._dataset.begin(readers)
        self.taken = 0
        self._batches = self._in_turn()

    @property
    def left(self) -> int:
        return self._run.num_batches - self.taken

    @property
    def epoch(self) -> int:
        return self._run.position.epoch

    def next(self) -> list[int]:
        self.taken += 1
        return next(self._batches)

    def rest(self) -> list[list[int]]:
        return list(self._batches)

    def save(self) -> State:
        state: State = json.loads(json.dumps(self._dataset.save_run(self._run, self.taken)))
        return state

    def _in_turn(self) -> Iterator[list[int]]:
        workers = [
            self._dataset.batches(self._run, worker) for worker in range(self._readers.workers)
        ]
        missing = object()
        for turn in zip_longest(*workers, fillvalue=missing):
            for batch in turn:
                if batch is not missing:
                    yield [one["n"] for one in batch]

    def close(self) -> None:
        self._batches.close()  # type: ignore[attr-defined]


class Training(RuleBasedStateMachine):
    """A job that is interrupted again and again."""

    folder: Path

    @initialize(
        shuffle=st.booleans(),
        window=st.integers(1, 40),
        seed=st.integers(0, 5),
        data=st.data(),
    )
    def start(self, shuffle: bool, window: int, seed: int, data: st.DataObject) -> None:
        self.folder = Path(tempfile.mkdtemp())
        write_dataset(self.folder, ({"n": n} for n in range(COUNT)), chunk_size=7)
        self.options = {"shuffle": shuffle, "seed": seed, "shuffle_window": window}
        self.ranks: list[Rank] = []
        self.state: State | None = None
        self.seen: Counter[int] = Counter()
        self.epoch = 1
        self._go_on(data)

    def _go_on(self, data: st.DataObject) -> None:
        ranks, workers, batch_size = (data.draw(st.integers(1, 3)) for _ in range(3))
        self.drop_last = data.draw(st.booleans())
        self._open([Readers(Topology(rank, ranks), workers, batch_size) for rank in range(ranks)])

    def _open(self, readers: list[Readers]) -> None:
        for rank in self.ranks:
            rank.close()
        self.readers = readers
        options = {**self.options, "drop_last": self.drop_last}
        self.ranks = [Rank(self.folder, options, one, self.state) for one in readers]
        if self.ranks[0].epoch != self.epoch:  # what was left holds no batch for these readers
            self._ended()
            self.state = self.ranks[0].save()  # the older one may hold a batch for others

    @precondition(lambda self: self.ranks[0].left)
    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(min(steps, self.ranks[0].left)):
            sizes = set()
            for rank in self.ranks:
                batch = rank.next()
                sizes.add(len(batch))
                self.seen.update(batch)
            assert len(sizes) == 1
            states = [rank.save() for rank in self.ranks]
            assert states == [states[0]] * len(states)
            self.state = states[0]
        if not self.ranks[0].left:
            assert [rank.rest() for rank in self.ranks] == [[]] * len(self.ranks)
            self._ended()
            self._open(self.readers)

    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        """Go on elsewhere; rank 0's state is enough for all."""
        self._go_on(data)

    @rule()
    def interrupt_and_compare(self) -> None:
        """Go on with as many: the rest is the same sequence on every rank."""
        before = self.ranks
        self.ranks = []
        self._open(self.readers)
        copies, self.ranks = self.ranks, []
        assert [rank.rest() for rank in copies] == [rank.rest() for rank in before]
        self._open(self.readers)

    @invariant()
    def a_state_is_small(self) -> None:
        state: State | None = getattr(self, "state", None)
        if state is not None:
            assert len(json.dumps(state)) < 400 + 120 * len(state["legs"])

    def _ended(self) -> None:
        """Check what an epoch has given, once it is over on the readers of now."""
        ranks, batch = len(self.readers), self.readers[0].batch_size
        assert self.seen.keys() <= set(range(COUNT))
        if self.drop_last:
            assert max(self.seen.values(), default=1) == 1
            assert COUNT - len(self.seen) < ranks * batch
        else:
            assert len(self.seen) == COUNT
            assert self.seen.total() - COUNT < ranks
        self.seen.clear()
        self.epoch += 1

    def teardown(self) -> None:
        for rank in getattr(self, "ranks", []):
            rank.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


TestTraining = Training.TestCase
TestTraining.settings = settings(
    settings.get_profile("dev"), max_examples=40, stateful_step_count=25
)
