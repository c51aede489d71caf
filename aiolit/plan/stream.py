"""What one worker reads: its pieces in the order to fetch them, its batches in the order to yield.

A *piece* is a run of one chunk within one window of one lane: the unit that is fetched, kept while
its window is read, and let go. Pieces are numbered in fetching order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aiolit.plan.order import Dealt, Lane, repeats
from aiolit.plan.runs import Ints, Runs


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive batches of one worker.

    Attributes:
        piece: For each sample, the number of its piece; batch after batch.
        sample: For each sample, its index in its chunk.
        batches: How many batches these are.
        ends: Where each batch ends in ``piece`` and ``sample``.
        finished: Ranges of pieces that no later block needs.
    """

    piece: Ints
    sample: Ints
    ends: Ints
    finished: tuple[range, ...]

    @property
    def batches(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, slots=True)
class _Window:
    """A window of one of the worker's lanes, and the numbers its pieces have."""

    lane: int
    number: int
    skip: int
    runs: Runs
    first_piece: int


class WorkerStream:
    """The share of one worker of one rank in a dealt epoch.

    Args:
        dealt: The epoch's deal.
        taken: Batches every rank has already been given.
        rank: This rank.
        worker: This worker, as torch numbers it; it plays role ``(worker + taken) mod W``.
        own: Batches that this worker alone has yielded beyond ``taken``.
    """

    def __init__(self, dealt: Dealt, taken: int, rank: int, worker: int, own: int = 0) -> None:
        deal = dealt.deal
        self._deal = deal
        role = (worker + taken) % deal.workers
        self._turns = range(taken + worker, dealt.num_batches, deal.workers)[own:]
        numbers = [node * deal.workers + role for node in range(rank, deal.canonical, deal.ranks)]
        self._lanes = [dealt.lane(number) for number in numbers]
        self._skips = [dealt.consumed(number, taken) + own * deal.share for number in numbers]
        self._skips = [
            min(skip, len(lane.runs)) for skip, lane in zip(self._skips, self._lanes, strict=True)
        ]
        extra = repeats(dealt, rank)
        has_last = bool(self._turns) and self._turns[-1] == dealt.num_batches - 1
        if len(extra) and has_last:
            self._append_repeats(dealt.pool.slice(0, len(dealt.pool)), extra)
        self._last_is_short = has_last and self._left() < len(self._turns) * deal.batch_size
        self._windows = self._plan_windows()
        self.pieces = Runs.concat([window.runs for window in self._windows])

    @property
    def num_batches(self) -> int:
        """How many batches this worker yields."""
        return len(self._turns)

    @property
    def widest_window(self) -> int:
        """The most pieces that one window, in all lanes together, has."""
        widest = max((window.runs.num_runs for window in self._windows), default=0)
        return widest * len(self._lanes)

    @property
    def num_samples(self) -> int:
        """How many samples this worker yields."""
        return self._left()

    def blocks(self, samples: int = 4096) -> Iterator[Block]:
        """Yield the worker's batches in order, several at a time.

        Args:
            samples: About how many samples a block should have; at least one batch is in it.
        """
        full = self.num_batches - self._last_is_short
        step = max(1, samples // self._deal.batch_size)
        cursors = self._cursors()
        for first in range(0, full, step):
            count = min(step, full - first)
            yield _gather(cursors, [count * self._deal.share] * len(cursors), count)
        if self._last_is_short:
            yield _gather(cursors, [cursor.left for cursor in cursors], 1)

    def _left(self) -> int:
        lengths = (len(lane.runs) for lane in self._lanes)
        return sum(length - skip for length, skip in zip(lengths, self._skips, strict=True))

    def _append_repeats(self, pool: Runs, positions: Ints) -> None:
        lane = self._lanes[-1]
        runs = Runs.concat([lane.runs, Runs.of_samples(*pool.samples_at(positions))])
        self._lanes[-1] = Lane(runs, (*lane.bounds, len(runs)), lane.words, lane.shuffle)

    def _plan_windows(self) -> list[_Window]:
        found = []
        for index, (lane, skip) in enumerate(zip(self._lanes, self._skips, strict=True)):
            first = lane.window_at(skip) if skip < len(lane.runs) else len(lane.bounds) - 1
            for number in range(first, len(lane.bounds) - 1):
                begun = max(0, skip - lane.bounds[number])
                turn = max(0, lane.bounds[number] - skip) // self._deal.share
                found.append((turn, index, number, begun, lane.window(number)))
        found.sort(key=lambda entry: entry[:3])
        windows, pieces = [], 0
        for _, index, number, begun, runs in found:
            windows.append(_Window(index, number, begun, runs, pieces))
            pieces += runs.num_runs
        return windows

    def _cursors(self) -> list[_Cursor]:
        return [
            _Cursor(lane, [window for window in self._windows if window.lane == index])
            for index, lane in enumerate(self._lanes)
        ]


class _Cursor:
    """A reading position in a lane."""

    def __init__(self, lane: Lane, windows: list[_Window]) -> None:
        self._lane = lane
        self._windows = iter(windows)
        self.left = sum(len(window.runs) - window.skip for window in windows)
        self._piece = self._sample = np.zeros(0, np.int64)
        self._held: range = range(0)

    def take(self, count: int, finished: list[range]) -> tuple[Ints, Ints]:
        """Return the next ``count`` samples; windows that end with them are added to finished."""
        self.left -= count
        pieces, samples = [], []
        while count:
            if not len(self._piece):
                self._open_next()
            pieces.append(self._piece[:count])
            samples.append(self._sample[:count])
            count -= len(pieces[-1])
            self._piece = self._piece[len(pieces[-1]) :]
            self._sample = self._sample[len(samples[-1]) :]
            if not len(self._piece):
                finished.append(self._held)
        if len(pieces) == 1:
            return pieces[0], samples[0]
        none = [np.zeros(0, np.int64)]
        return np.concatenate(pieces or none), np.concatenate(samples or none)

    def _open_next(self) -> None:
        window = next(self._windows)
        run, sample = window.runs.expand()
        order = self._lane.order(window.number)
        if order is not None:
            run, sample = run[order], sample[order]
        self._piece, self._sample = run[window.skip :] + window.first_piece, sample[window.skip :]
        self._held = range(window.first_piece, window.first_piece + window.runs.num_runs)


def _gather(cursors: list[_Cursor], counts: list[int], batches: int) -> Block:
    """Take from every lane and lay the samples out batch after batch."""
    finished: list[range] = []
    taken = [cursor.take(count, finished) for cursor, count in zip(cursors, counts, strict=True)]
    total = sum(counts)
    ends = np.arange(1, batches + 1, dtype=np.int64) * (total // batches)
    if len(taken) == 1:
        return Block(*taken[0], ends, tuple(finished))
    shares = [part.reshape(batches, -1) for pair in taken for part in pair]
    piece = np.concatenate(shares[0::2], axis=1).reshape(-1)
    return Block(piece, np.concatenate(shares[1::2], axis=1).reshape(-1), ends, tuple(finished))
