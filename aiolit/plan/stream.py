"""What is read of some lanes: pieces in the order to fetch them, samples in the order to yield.

A *piece* is what one window of one lane wants of one chunk: the unit that is fetched, kept while
its window is read, and let go. Pieces are numbered in fetching order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aiolit.plan.lanes import Lane
from aiolit.plan.runs import Ints, Runs

# Fewer than one in so many samples of a range are wanted: they are fetched one by one.
_SPARSE = 4

# Samples of a window that is not permuted are written out so many at a time: a chunk may be said to
# hold a billion samples, and whether that is true is known only once it is opened.
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of one chunk.

    Attributes:
        chunk: The chunk.
        start: The first sample that is wanted.
        stop: One past the last sample that is wanted.
        samples: The samples, where so few of those from ``start`` to ``stop`` are wanted that
            they had better be fetched one by one; None is (nearly) all of them.
        count: How many are wanted.
    """

    chunk: int
    start: int
    stop: int
    samples: tuple[int, ...] | None
    count: int

    @property
    def fetched(self) -> int:
        """How many samples' bytes are fetched for it."""
        return self.stop - self.start if self.samples is None else self.count


@dataclass(frozen=True, slots=True)
class Taken:
    """Consecutive samples of a lane.

    Attributes:
        piece: For each, the number of its piece.
        sample: For each, its index in its chunk.
        finished: Ranges of pieces that are not read again.
    """

    piece: Ints
    sample: Ints
    finished: list[range]


@dataclass(frozen=True, slots=True)
class _Window:
    """A window of one of the lanes, and the numbers its pieces have."""

    lane: int
    number: int
    skip: int
    runs: Runs
    piece: Ints  # of each run
    pieces: range


class LaneStream:
    """Lanes that are read side by side.

    Args:
        lanes: The lanes.
        skips: How many samples of each were read before.
    """

    def __init__(self, lanes: Sequence[Lane], skips: Sequence[int]) -> None:
        self._lanes, self._skips = lanes, skips
        self.pieces: list[Piece] = []
        self._windows = self._plan_windows()
        self._cursors = [
            _Cursor(lane, [window for window in self._windows if window.lane == index])
            for index, lane in enumerate(lanes)
        ]

    @property
    def num_samples(self) -> int:
        """How many samples are left to read, in all lanes together."""
        return sum(cursor.left for cursor in self._cursors)

    @property
    def widest_window(self) -> int:
        """The most pieces that one window, in all lanes together, has."""
        return max((len(window.pieces) for window in self._windows), default=0) * len(self._lanes)

    def left(self, lane: int) -> int:
        """How many samples of a lane are left to read."""
        return self._cursors[lane].left

    def take(self, lane: int, count: int) -> Taken:
        """Return the next ``count`` samples of a lane, by its place in the list of lanes."""
        return self._cursors[lane].take(count)

    def window(self, lane: int) -> Taken:
        """Return the next samples of the window that a lane is read in, without taking them: all
        that are left of it where it is permuted, else some."""
        return self._cursors[lane].window()

    def _plan_windows(self) -> list[_Window]:
        found = []
        for index, (lane, skip) in enumerate(zip(self._lanes, self._skips, strict=True)):
            first = lane.window_at(skip) if skip < len(lane.runs) else len(lane.bounds) - 1
            for number in range(first, len(lane.bounds) - 1):
                begun = max(0, skip - lane.bounds[number])
                turn = max(0, lane.bounds[number] - skip)
                found.append((turn, index, number, begun, lane.window(number)))
        found.sort(key=lambda entry: entry[:3])
        windows = []
        for _, index, number, begun, runs in found:
            rank, groups = _by_chunk(runs.chunk)
            base = len(self.pieces)
            pieces = range(base, base + len(groups))
            windows.append(_Window(index, number, begun, runs, rank + base, pieces))
            self.pieces.extend(_piece(runs, group) for group in groups)
        return windows


class _Cursor:
    """A reading position in a lane."""

    def __init__(self, lane: Lane, windows: list[_Window]) -> None:
        self._lane = lane
        self._windows = iter(windows)
        self.left = sum(len(window.runs) - window.skip for window in windows)
        self._piece = self._sample = np.zeros(0, np.int64)
        self._held: range = range(0)
        self._open: _Window | None = None  # of which samples are still to be written out,
        self._at = 0  # from this position on

    def take(self, count: int) -> Taken:
        """Return the next ``count`` samples."""
        if count > self.left:
            raise IndexError(f"{count} samples asked for and {self.left} left")
        self.left -= count
        pieces, samples, finished = [], [], []
        while count:
            if not len(self._piece):
                self._write_out()
            pieces.append(self._piece[:count])
            samples.append(self._sample[:count])
            count -= len(pieces[-1])
            self._piece = self._piece[len(pieces[-1]) :]
            self._sample = self._sample[len(samples[-1]) :]
            if not len(self._piece) and self._open is None:
                finished.append(self._held)
        if len(pieces) == 1:
            return Taken(pieces[0], samples[0], finished)
        none = [np.zeros(0, np.int64)]
        return Taken(np.concatenate(pieces or none), np.concatenate(samples or none), finished)

    def window(self) -> Taken:
        """Return the next samples of the open window, as far as they are written out."""
        return Taken(self._piece, self._sample, [])

    def _write_out(self) -> None:
        """Write out the next window, or the next part of one that is read as it lies."""
        window = self._open
        if window is None:
            window = next(self._windows)
            self._held, self._at = window.pieces, window.skip
        size = len(window.runs)
        order = self._lane.order(window.number)
        if order is not None:
            wanted = order[self._at :]
            if window.runs.num_runs == 1:  # nothing to look up
                self._piece = np.broadcast_to(window.piece, wanted.shape)
                self._sample = wanted + window.runs.start[0]
                return
            run, sample = window.runs.expand()
            self._piece, self._sample = window.piece[run[wanted]], sample[wanted]
            return
        stop = min(self._at + _AT_ONCE, size)
        run, self._sample = window.runs.expand(self._at, stop)
        self._piece, self._at = window.piece[run], stop
        self._open = window if stop < size else None


def _by_chunk(chunks: Ints) -> tuple[Ints, list[Ints]]:
    """Group runs by their chunk, in the order in which the chunks first come.

    Returns:
        The group of each run, and the runs of each group.
    """
    _, first, inverse = np.unique(chunks, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))  # of each distinct chunk among the first ones
    rank = place[inverse]
    order = np.argsort(rank, kind="stable")
    return rank, np.split(order, np.flatnonzero(np.diff(rank[order])) + 1)


def _piece(runs: Runs, group: Ints) -> Piece:
    """Make a piece of some runs, which are of one chunk."""
    start, stop = runs.start[group], runs.stop[group]
    first, last, count = int(start.min()), int(stop.max()), int((stop - start).sum())
    samples = None
    if count * _SPARSE < last - first:
        wanted = (np.arange(*run) for run in zip(start.tolist(), stop.tolist(), strict=True))
        samples = tuple(np.concatenate(list(wanted)).tolist())
    return Piece(int(runs.chunk[group[0]]), first, last, samples, count)
