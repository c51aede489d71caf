"""Lanes: a pool of samples, cut into the parts that different readers read.

Inside a lane, consecutive runs form windows, and a shuffled epoch permutes the samples of each
window. Everything here is a function of its arguments; nothing depends on time, on files or on what
a cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from aiolit.plan.permute import permutation
from aiolit.plan.runs import Ints, Runs

# Unshuffled lanes are cut into windows of whole runs; tiny runs share one so that a data set of
# single-sample runs does not pay for a window per sample.
_PLAIN_WINDOW = 256

# An index may declare more samples than there are, so what a plan takes must not grow with them.
# Writing out a window takes some fifty bytes a sample, and planning it about a kilobyte.
_MOST_MIXED = 1 << 21  # samples in a default window
_MOST_WINDOWS = 1 << 14  # of a lane, unless its runs are as many

# Which permutation a key belongs to, so that no two uses of one seed are correlated.
_CHUNK_ORDER, _WINDOW_ORDER = 1, 2


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """What fixes the order of an epoch besides the data set and the topology.

    Attributes:
        shuffle: Whether chunks, and samples inside windows, are permuted.
        seed: The seed of all permutations.
        window: Samples that are mixed with each other, the shuffle's radius.
        ramp: How many windows at the start of a lane are smaller, each half of the next, so that
            the first batches of an epoch do not wait for a whole window's chunks.
    """

    shuffle: bool = False
    seed: int = 42
    window: int = 1
    ramp: int = 0


@dataclass(frozen=True, slots=True)
class Lane:
    """The samples of one lane, and where its windows end."""

    runs: Runs
    bounds: tuple[int, ...]
    words: tuple[int, ...]
    shuffle: bool

    def window(self, number: int) -> Runs:
        """Return the runs of a window, in fetching order."""
        return self.runs.slice(self.bounds[number], self.bounds[number + 1])

    def order(self, number: int) -> Ints | None:
        """Return the permutation of a window's samples; None is the order they lie in."""
        if not self.shuffle:
            return None
        return permutation(self.bounds[number + 1] - self.bounds[number], *self.words, number)

    def window_at(self, position: int) -> int:
        """Return the number of the window that holds a position of the lane."""
        return int(np.searchsorted(self.bounds, position, side="right")) - 1


class Pool:
    """Samples to deal: runs, some of them still to be worked out. Slices are exact."""

    def __init__(self, parts: Sequence[Runs | _Rest]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def slice(self, lo: int, hi: int) -> Runs:
        """Return the samples at positions ``[lo, hi)``."""
        first = int(np.searchsorted(self._ends, lo, side="right"))
        found = []
        for number in range(first, len(self._parts)):
            part, end = self._parts[number], int(self._ends[number])
            begin = end - len(part)
            if begin >= hi:
                break
            runs = part if isinstance(part, Runs) else part.runs
            found.append(runs.slice(lo - begin, hi - begin))
        return Runs.concat(found)


@dataclass
class _Rest:
    """What is left of a window of which ``taken`` samples were read; worked out when needed."""

    lane: Lane
    number: int
    taken: int

    def __len__(self) -> int:
        return self.lane.bounds[self.number + 1] - self.lane.bounds[self.number] - self.taken

    @cached_property
    def runs(self) -> Runs:
        window, order = self.lane.window(self.number), self.lane.order(self.number)
        if order is None:
            return window.slice(self.taken, len(window))
        run, sample = window.expand()
        left = np.sort(order[self.taken :])
        return Runs.of_samples(window.chunk[run[left]], sample[left])


@dataclass
class Lanes:
    """A pool, cut into lanes of given lengths; what is behind the last lane is not dealt.

    Attributes:
        pool: The samples.
        lengths: Of the lanes, in samples.
        options: How the samples of a lane are mixed.
        words: What sets the permutations of these lanes apart from those of others.
    """

    pool: Pool
    lengths: Ints
    options: OrderOptions
    words: tuple[int, ...]
    offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)))

    def lane(self, number: int) -> Lane:
        """Return a lane."""
        runs = self.pool.slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        words = (_WINDOW_ORDER, self.options.seed, *self.words, number)
        return Lane(runs, window_bounds(runs, self.options), words, self.options.shuffle)

    def rest(self, consumed: Ints) -> Pool:
        """Return the pool of what is left once so many samples of each lane were read, with the
        samples that were not dealt at its end."""
        parts: list[Runs | _Rest] = []
        for number in range(len(self.lengths)):
            taken = int(consumed[number])
            if taken >= self.lengths[number]:
                continue
            lane = self.lane(number)
            window = lane.window_at(taken)
            inside = taken - lane.bounds[window]
            if inside:
                parts.append(_Rest(lane, window, inside))
                taken = lane.bounds[window + 1]
            parts.append(lane.runs.slice(taken, len(lane.runs)))
        parts.append(self.pool.slice(int(self.offsets[-1]), len(self.pool)))
        return Pool(parts)


def window_bounds(runs: Runs, options: OrderOptions) -> tuple[int, ...]:
    """Cut a lane into windows of about ``options.window`` samples.

    Shuffled: a bound is moved to the end of a run where one is near, so that a chunk is mixed, and
    kept, in one window. Not shuffled: a window is the next runs, whole. Windows of a long lane are
    larger than asked for, at least a 16,384th of it.
    """
    total, bounds = len(runs), [0]
    target = max(1, options.window if options.shuffle else min(options.window, _PLAIN_WINDOW))
    target = max(target, total // _MOST_WINDOWS)
    while bounds[-1] < total:
        size = max(1, target >> max(0, options.ramp - len(bounds) + 1))
        wanted = min(bounds[-1] + size, total)
        run = int(np.searchsorted(runs.ends, wanted))
        if not options.shuffle:
            bounds.append(int(runs.ends[run]))
            continue
        near = (int(end) for end in runs.ends[max(run - 1, 0) : run + 1])
        fitting = [end for end in near if end > bounds[-1] and abs(end - wanted) <= size // 2]
        bounds.append(min(fitting, key=lambda end: abs(end - wanted), default=wanted))
    return tuple(bounds)


def epoch_pool(segments: Runs, options: OrderOptions, epoch: int) -> Pool:
    """Return the whole epoch's samples in the order in which they are dealt."""
    if not options.shuffle:
        return Pool([segments])
    # A chunk of which a subset left several runs moves as one.
    edges = np.flatnonzero(np.diff(segments.chunk, prepend=-1))
    sizes = np.diff(edges, append=segments.num_runs)
    order = permutation(len(edges), _CHUNK_ORDER, options.seed, epoch)
    ends = np.cumsum(sizes[order])
    within = np.arange(segments.num_runs) - np.repeat(ends - sizes[order], sizes[order])
    return Pool([segments.take(np.repeat(edges[order], sizes[order]) + within)])


def default_window(samples: Ints, nbytes: Ints, budget: int = 256 << 20) -> int:
    """Return how many samples a shuffle window holds unless the user says: about eight chunks.

    Fewer where eight are more than ``budget`` bytes, but never less than two chunks of mean size,
    unless those have more than two million samples.
    """
    chunks, total = max(1, len(samples)), int(samples.sum())
    per_chunk = max(1.0, total / chunks)
    per_sample = max(1.0, float(nbytes.sum()) / max(1, total))
    wanted = max(min(8 * per_chunk, budget / per_sample), 2 * per_chunk)
    return max(1, round(min(wanted, _MOST_MIXED)))
