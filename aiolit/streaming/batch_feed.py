"""What the workers of a loader iterate, and the board on which they write what they have done."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from aiolit.runtime import tracing
from aiolit.runtime.ahead import Ahead
from aiolit.runtime.memory import keep_freed_memory
from aiolit.runtime.stats import LEVELS, Counters
from aiolit.runtime.transit import Transit
from aiolit.streaming.epoch import Streamable, applied
from aiolit.streaming.run import Run

Collate = Callable[[list[Any]], Any]

_NAMES = list(Counters().as_dict())
_IS_LEVEL = np.array([name in LEVELS for name in _NAMES])
_KEPT_BYTES = 32 << 20  # by a worker, of a batch that is gone, for the next
_EVERY_S = 0.05  # all figures are written so often, and at the end


class Board:
    """What each worker has done in an iteration, a row each, written by the workers themselves.

    Args:
        workers: How many there are.
        shared: Whether they are processes.
    """

    def __init__(self, workers: int, *, shared: bool) -> None:
        self._rows = torch.zeros((workers, len(_NAMES) + 1), dtype=torch.float64)
        if shared:
            self._rows.share_memory_()  # type: ignore[no-untyped-call]

    def count(self, worker: int, made: int) -> None:
        """Write how many batches a worker has made."""
        self._rows.numpy()[worker, -1] = made

    def write(self, worker: int, figures: Any, *, ended: bool = False) -> None:
        """Write a worker's figures, in the order of ``Counters``; once it has ended, nothing is
        ahead any more."""
        self._rows.numpy()[worker, :-1] = np.where(_IS_LEVEL, 0, figures) if ended else figures

    def add_to(self, counters: Counters) -> None:
        """Add what all workers have done."""
        for row in self._rows.tolist():
            counters.merge(Counters.from_dict(dict(zip(_NAMES, row[:-1], strict=True))))

    def move_to(self, counters: Counters) -> None:
        """Add what all workers have done so far, and count from zero again."""
        for worker, row in enumerate(self._rows.numpy()):
            self.write(worker, row[:-1], ended=True)
        self.add_to(counters)
        self._rows.zero_()

    @property
    def made(self) -> int:
        """How many batches all workers have made in this iteration."""
        return int(self._rows[:, -1].sum())


class BatchFeed(IterableDataset[Any]):
    """Yields a worker's batches, collated; each iteration is an epoch.

    Args:
        source: Whose batches.
        run: The first epoch.
        collate: Makes a batch of a list of samples; None is torch's ``default_collate``.
        board: Where it is written what was done.
        threads: Threads that make batches ahead; 0 makes each when it is asked for.
        ahead: How many batches they may be ahead.
        transit: How workers hand large values over; None is as torch does.
    """

    def __init__(
        self,
        source: Streamable,
        run: Run,
        collate: Collate | None,
        board: Board,
        *,
        threads: int,
        ahead: int,
        transit: Transit | None = None,
    ) -> None:
        self._transit = transit
        self._source, self._next, self._collate = source, run, collate
        self._threads, self._ahead = threads, ahead
        self.board, self._trace = board, tracing.config()
        self._before: Any = None  # figures at the start of an iteration in this process
        self._making: Ahead[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        run, self._next = self._next, following(self._source, self._next)
        info = get_worker_info()
        if info is None:
            self._before = _figures(self._source)
            batches = self._source.collated(run, 0, self._collate)
        else:
            if not gc.get_freeze_count():
                # What a worker was born with stays: to look through it again and again costs a
                # tenth of a second each time, and copies pages that it shares with its parent.
                gc.freeze()
                keep_freed_memory(_KEPT_BYTES)
            tracing.join(self._trace, process=f"loader worker {info.id}")
            batches = self._noted(run, info.id)
        if self._threads:
            one_by_one = (batch for batch in batches)
            self._making = Ahead(one_by_one, threads=self._threads, depth=self._ahead)
            batches = iter(self._making)
        if info is None or self._transit is None:
            return batches
        # Behind the threads: what they have made and nobody takes must not keep its slot.
        return applied(partial(self._transit.parcel, info.id), batches)

    @property
    def ready(self) -> int:
        """How many batches the threads of this process have made that are not taken."""
        return 0 if self._making is None else self._making.ready

    def note(self) -> None:
        """Write what this process has done in the iteration; workers do so by themselves.

        It is left to whoever wants to know: small batches cost little more than writing figures.
        """
        if self._before is not None:
            self.board.write(0, _figures(self._source) - self._before)

    def end(self) -> None:
        """Take note that the iteration in this process has ended."""
        if self._before is not None:
            self.board.write(0, _figures(self._source) - self._before, ended=True)
            self._before = self._making = None

    def _noted(self, run: Run, worker: int) -> Iterator[Any]:
        """Yield batches, and write now and then what has been done for them."""
        source, board = self._source, self.board
        before, numbers, due = _figures(source), count(1), 0.0

        def noted(batch: Any) -> Any:
            nonlocal due
            board.count(worker, next(numbers))
            if (now := time.perf_counter()) >= due:
                board.write(worker, _figures(source) - before)
                due = now + _EVERY_S
            return batch

        try:
            yield from applied(noted, source.collated(run, worker, self._collate))
        finally:
            board.write(worker, _figures(source) - before, ended=True)


def _figures(source: Streamable) -> Any:
    found: Sequence[Sequence[float]] = [counters.values() for counters in source.counters()]
    return np.sum(found, axis=0) if found else np.zeros(len(_NAMES))


def following(source: Streamable, run: Run) -> Run:
    """Return the run of the next epoch, read by the same readers."""
    return source.begin(run.readers, source.next_position(run))
