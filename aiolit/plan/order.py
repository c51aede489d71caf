"""The order of an epoch: who reads which sample when.

The samples of an epoch lie in a *pool*. A ``Deal`` cuts the pool into ``C * W`` lanes, where ``W``
is the number of workers of a rank and ``C`` the number of canonical nodes (by default the number of
ranks). Batch ``t`` of a rank comes from worker ``t mod W``, because torch takes its workers in
turn, and takes the same number of samples from every lane which that worker owns. Ranks go in step,
so "``t`` batches were taken" says how far every lane of every rank has come. That is all a saved
state needs, and what is left can be dealt again to another number of ranks and workers.

Inside a lane, consecutive runs form windows, and a shuffled epoch permutes the samples of each
window. Everything here is a function of its arguments; nothing depends on time, on files or on what
a cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from aiolit.errors import ConfigError
from aiolit.plan.permute import permutation
from aiolit.plan.runs import Ints, Runs

# Unshuffled lanes are cut into windows of whole runs; tiny runs share one so that a data set of
# single-sample runs does not pay for a window per sample.
_PLAIN_WINDOW = 256

# Which permutation a key belongs to, so that no two uses of one seed are correlated.
_CHUNK_ORDER, _WINDOW_ORDER = 1, 2


@dataclass(frozen=True, slots=True)
class Deal:
    """How a pool is dealt: to how many ranks, workers, and in which batches.

    Attributes:
        ranks: Processes of the training job that read different data.
        workers: Loader workers of each rank; 1 where the rank reads by itself.
        batch_size: Samples in a rank's batch.
        canonical: Lanes per worker over all ranks; a multiple of ``ranks``.
        drop_last: Whether the samples that do not fill a global batch are left out.
    """

    ranks: int = 1
    workers: int = 1
    batch_size: int = 1
    canonical: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if min(self.ranks, self.workers, self.batch_size, self.canonical) < 1:
            raise ConfigError(f"ranks, workers, batch size and nodes must be positive: {self}")
        if self.canonical % self.ranks:
            raise ConfigError(
                f"num_canonical_nodes={self.canonical} is not a multiple of {self.ranks} ranks"
            )
        if self.global_batch % self.canonical:
            raise ConfigError(
                f"the global batch of {self.global_batch} samples ({self.ranks} ranks x "
                f"{self.batch_size}) is not a multiple of num_canonical_nodes={self.canonical}"
            )

    @property
    def global_batch(self) -> int:
        return self.ranks * self.batch_size

    @property
    def share(self) -> int:
        """How many samples of each lane go into a batch."""
        return self.global_batch // self.canonical

    def same_lanes(self, other: Deal) -> bool:
        """Whether both deals cut a pool into the same lanes, read in the same steps."""
        return (
            self.workers == other.workers
            and self.canonical == other.canonical
            and self.global_batch == other.global_batch
            and self.drop_last == other.drop_last
        )

    def num_batches(self, samples: int) -> int:
        """How many batches every rank yields of a pool of ``samples``."""
        whole, left = divmod(samples, self.global_batch)
        return whole if self.drop_last or not left else whole + 1

    def rank_samples(self, samples: int) -> int:
        """How many samples every rank yields of a pool of ``samples``, repeats included."""
        if self.drop_last:
            return self.num_batches(samples) * self.batch_size
        return -(-samples // self.ranks)


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """What fixes the order of an epoch besides the data set and the topology.

    Attributes:
        shuffle: Whether chunks, and samples inside windows, are permuted.
        seed: The seed of all permutations.
        window: Samples that are mixed with each other, the shuffle's radius.
    """

    shuffle: bool = False
    seed: int = 42
    window: int = 1


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
class Dealt:
    """A pool, cut into lanes."""

    pool: Pool
    deal: Deal
    options: OrderOptions
    words: tuple[int, ...]  # epoch and number of the deal within it: part of every key
    lengths: Ints = field(init=False)
    offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = lane_lengths(len(self.pool), self.deal)
        self.offsets = np.concatenate(([0], np.cumsum(self.lengths)))

    @property
    def num_batches(self) -> int:
        return self.deal.num_batches(len(self.pool))

    def lane(self, number: int) -> Lane:
        """Return lane ``c * workers + w``: that of canonical node ``c`` and worker ``w``."""
        runs = self.pool.slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        words = (_WINDOW_ORDER, self.options.seed, *self.words, number)
        return Lane(runs, window_bounds(runs, self.options), words, self.options.shuffle)

    def consumed(self, number: int, batches: int) -> int:
        """Return how many samples of a lane have been read once ``batches`` were taken."""
        turns = len(range(number % self.deal.workers, batches, self.deal.workers))
        return min(turns * self.deal.share, int(self.lengths[number]))

    def rest(self, batches: int) -> Pool:
        """Return the pool of what is left once ``batches`` were taken, dropped samples included."""
        if batches >= self.num_batches:
            return Pool([])
        parts: list[Runs | _Rest] = []
        for number in range(len(self.lengths)):
            taken = self.consumed(number, batches)
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


def lane_lengths(samples: int, deal: Deal) -> Ints:
    """Return the length of each lane, in samples.

    Worked example: 103 samples, 2 ranks, 2 workers, batches of 8, ``drop_last=False``. Seven
    batches a rank; worker 0 reads three of 8 and the last, short one; worker 1 three of 8. The last
    global batch has 103 - 6 * 16 = 7 samples: 4 for node 0 and 3 for node 1, whose rank repeats
    one. Lanes of 28, 24, 27 and 24 samples.
    """
    batches = deal.num_batches(samples)
    full = np.array(
        [len(range(worker, batches - 1, deal.workers)) for worker in range(deal.workers)], np.int64
    )
    lengths = np.tile(full * deal.share, (deal.canonical, 1))
    if batches:
        left = min(samples - (batches - 1) * deal.global_batch, deal.global_batch)
        even, more = divmod(left, deal.canonical)
        tail = np.full(deal.canonical, even, np.int64)
        tail[:more] += 1
        lengths[:, (batches - 1) % deal.workers] += tail
    return lengths.reshape(-1)


def window_bounds(runs: Runs, options: OrderOptions) -> tuple[int, ...]:
    """Cut a lane into windows of about ``options.window`` samples.

    Shuffled: a bound is moved to the end of a run where one is near, so that a chunk is mixed, and
    kept, in one window. Not shuffled: a window is the next runs, whole.
    """
    total, bounds = len(runs), [0]
    target = max(1, options.window if options.shuffle else min(options.window, _PLAIN_WINDOW))
    while bounds[-1] < total:
        wanted = min(bounds[-1] + target, total)
        run = int(np.searchsorted(runs.ends, wanted))
        if not options.shuffle:
            bounds.append(int(runs.ends[run]))
            continue
        near = (int(end) for end in runs.ends[max(run - 1, 0) : run + 1])
        fitting = [end for end in near if end > bounds[-1] and abs(end - wanted) <= target // 2]
        bounds.append(min(fitting, key=lambda end: abs(end - wanted), default=wanted))
    return tuple(bounds)


def epoch_pool(segments: Runs, options: OrderOptions, epoch: int) -> Pool:
    """Return the whole epoch's samples in the order in which they are dealt."""
    if not options.shuffle:
        return Pool([segments])
    order = permutation(segments.num_runs, _CHUNK_ORDER, options.seed, epoch)
    return Pool([segments.take(order)])


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of an epoch that was read under one deal: ``batches`` of every rank were taken."""

    deal: Deal
    batches: int


def deal_epoch(
    segments: Runs, options: OrderOptions, epoch: int, legs: Sequence[Leg], now: Deal
) -> tuple[Dealt, int]:
    """Deal an epoch that was read up to where ``legs`` tell, to the topology of ``now``.

    Returns:
        The deal to go on with, and how many of its batches are already taken. The lanes of the last
        leg are kept where ``now`` reads them in the same steps; else what is left is dealt anew.
    """
    pool = epoch_pool(segments, options, epoch)
    for number, leg in enumerate(legs):
        dealt = Dealt(pool, leg.deal, options, (epoch, number))
        if number == len(legs) - 1 and leg.deal.same_lanes(now):
            return replace(dealt, deal=now), leg.batches
        pool = dealt.rest(leg.batches)
    return Dealt(pool, now, options, (epoch, len(legs))), 0


def default_window(samples: Ints, nbytes: Ints, budget: int = 256 << 20) -> int:
    """Return how many samples a shuffle window holds unless the user says: about eight chunks.

    Fewer where eight are more than ``budget`` bytes, but never less than two chunks of mean size.
    """
    chunks, total = max(1, len(samples)), int(samples.sum())
    per_chunk = max(1.0, total / chunks)
    per_sample = max(1.0, float(nbytes.sum()) / max(1, total))
    return max(1, round(max(min(8 * per_chunk, budget / per_sample), 2 * per_chunk)))


def repeats(dealt: Dealt, rank: int) -> Ints:
    """Return the pool positions that a rank reads again to end level with the others.

    With ``drop_last=False`` the last global batch may not divide by the ranks; a rank that is one
    short repeats a sample from the front of the pool, each rank another one.
    """
    deal, total = dealt.deal, len(dealt.pool)
    if deal.drop_last or not total:
        return np.zeros(0, np.int64)
    nodes = dealt.lengths.reshape(deal.canonical, deal.workers).sum(axis=1)
    of_rank = nodes.reshape(-1, deal.ranks).sum(axis=0)
    short = np.flatnonzero(of_rank < of_rank.max())
    place = np.flatnonzero(short == rank)
    return place % total
