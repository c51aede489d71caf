"""What the workers of a loader iterate, and the board on which they write what they have done."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from aiolit.runtime import tracing
from aiolit.runtime.ahead import Ahead
from aiolit.runtime.stats import LEVELS, Counters
from aiolit.streaming.epoch import Run, Streamable

Collate = Callable[[list[Any]], Any]

_NAMES = list(Counters().as_dict())
_IS_LEVEL = np.array([name in LEVELS for name in _NAMES])
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

    def row(self, worker: int) -> Any:
        """Return a worker's figures, in the order of ``Counters``, and the batches it has made."""
        return self._rows.numpy()[worker]

    def add_to(self, counters: Counters) -> None:
        """Add what all workers have done."""
        for row in self._rows.tolist():
            counters.merge(Counters.from_dict(dict(zip(_NAMES, row[:-1], strict=True))))

    def move_to(self, counters: Counters) -> None:
        """Add what all workers have done so far, and count from zero again."""
        self._rows[:, :-1][:, torch.from_numpy(_IS_LEVEL)] = 0
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
    ) -> None:
        self._source, self._next, self._collate = source, run, collate
        self._threads, self._ahead = threads, ahead
        self.board, self._trace = board, tracing.config()

    def __iter__(self) -> Iterator[Any]:
        run, self._next = self._next, following(self._source, self._next)
        info = get_worker_info()
        if info is not None:
            tracing.join(self._trace, process=f"loader worker {info.id}")
        batches = self._counted(run, 0 if info is None else info.id)
        if not self._threads:
            return batches
        return iter(Ahead(batches, threads=self._threads, depth=self._ahead))

    def _counted(self, run: Run, worker: int) -> Generator[Any, None, None]:
        """Yield batches, and write now and then what has been done for them."""
        source, row, due = self._source, self.board.row(worker), 0.0
        before = np.where(_IS_LEVEL, 0, _figures(source))
        try:
            for made, batch in enumerate(source.collated(run, worker, self._collate), 1):
                row[-1], now = made, time.perf_counter()
                if now >= due:
                    row[:-1], due = _figures(source) - before, now + _EVERY_S
                yield batch
        finally:
            row[:-1] = np.where(_IS_LEVEL, 0, _figures(source) - before)


def _figures(source: Streamable) -> Any:
    found: Sequence[Sequence[float]] = [counters.values() for counters in source.counters()]
    return np.sum(found, axis=0) if found else np.zeros(len(_NAMES))


def following(source: Streamable, run: Run) -> Run:
    """Return the run of the next epoch, read by the same readers."""
    return source.begin(run.readers, source.next_position(run))
