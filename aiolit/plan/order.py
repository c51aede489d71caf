"""The order of an epoch: who reads which sample when.

The samples of an epoch are a *deck*. A ``Deal`` cuts the deck into ``C * W`` lanes, where ``W`` is
the number of workers of a rank and ``C`` the number of canonical nodes (by default the number of
ranks). Batch ``t`` of a rank comes from worker ``t mod W``, because torch takes its workers in
turn, and takes the same number of samples from every lane which that worker owns. Ranks go in step,
so "``t`` batches were taken" says how far every lane of every rank has come. That is all a saved
state needs, and what is left can be dealt again to another number of ranks and workers.

What a deck is made of (a data set, a mixture, tuples of several) is not said here: only that it has
a length, can be cut into lanes, and that what is left of the lanes is a deck again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np

from aiolit.errors import ConfigError
from aiolit.plan.runs import Ints


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


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of an epoch that was read under one deal: ``batches`` of every rank were taken."""

    deal: Deal
    batches: int


class Shares(Protocol):
    """A deck, cut into lanes."""

    def rest(self, consumed: Ints) -> Deck:
        """Return what is left once so many samples of each lane were read."""


class Deck(Protocol):
    """Samples to deal."""

    def __len__(self) -> int: ...

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> Shares:
        """Cut into lanes of these lengths, in order; ``words`` go into every permutation's key."""


AnyShares = TypeVar("AnyShares", bound=Shares, covariant=True)


class DeckOf(Protocol[AnyShares]):
    """A deck whose shares are of a certain kind."""

    def __len__(self) -> int: ...

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> AnyShares: ...


@dataclass
class Dealt(Generic[AnyShares]):
    """A deck of ``size`` samples, cut into lanes by a deal."""

    shares: AnyShares
    deal: Deal
    size: int
    lengths: Ints = field(repr=False)

    @property
    def num_batches(self) -> int:
        return self.deal.num_batches(self.size)

    def consumed(self, batches: int) -> Ints:
        """Return how many samples of each lane have been read once ``batches`` were taken."""
        workers = self.deal.workers
        turns = np.array([len(range(worker, batches, workers)) for worker in range(workers)])
        found: Ints = np.minimum(
            np.tile(turns, self.deal.canonical) * self.deal.share, self.lengths
        )
        return found

    def share_of(self, taken: int, rank: int, worker: int, own: int = 0) -> WorkerShare:
        """Return what one worker of one rank reads from batch ``taken`` on.

        Args:
            taken: Batches every rank has been given.
            rank: The rank.
            worker: The worker as torch numbers it; it plays role ``(worker + taken) mod W``,
                because torch begins again at worker 0.
            own: Batches that this worker alone has yielded beyond ``taken``.
        """
        deal, turns = self.deal, range(taken + worker, self.num_batches, self.deal.workers)[own:]
        role = (worker + taken) % deal.workers
        nodes = range(rank, deal.canonical, deal.ranks)
        lanes = [node * deal.workers + role for node in nodes]
        done = self.consumed(taken)
        skips = [min(int(done[lane]) + own * deal.share, int(self.lengths[lane])) for lane in lanes]
        last = bool(turns) and turns[-1] == self.num_batches - 1
        return WorkerShare(lanes, skips, turns, self._repeat(rank) if last else None)

    def _repeat(self, rank: int) -> tuple[int, int] | None:
        """Return the lane and position of the sample that a rank reads again to end level with
        the others: with ``drop_last=False`` the last batch may not divide by the ranks. A rank that
        is one short repeats a sample from the front of the deck, each rank another one."""
        deal = self.deal
        if deal.drop_last or not self.size:
            return None
        nodes = self.lengths.reshape(deal.canonical, deal.workers).sum(axis=1)
        of_rank = nodes.reshape(-1, deal.ranks).sum(axis=0)
        short = np.flatnonzero(of_rank < of_rank.max()).tolist()
        if rank not in short:
            return None
        position = short.index(rank) % self.size
        ends = np.cumsum(self.lengths)
        lane = int(np.searchsorted(ends, position, side="right"))
        return lane, position - int(ends[lane] - self.lengths[lane])


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What one worker reads.

    Attributes:
        lanes: The lanes it owns.
        skips: How many samples of each were read before.
        turns: The numbers of the batches it yields.
        repeat: Lane and position of one more sample for its last batch, or None.
    """

    lanes: list[int]
    skips: list[int]
    turns: range
    repeat: tuple[int, int] | None


def deal_epoch(
    deck: DeckOf[AnyShares], epoch: int, legs: Sequence[Leg], now: Deal
) -> tuple[Dealt[AnyShares], int]:
    """Deal an epoch that was read up to where ``legs`` tell, to the topology of ``now``.

    Returns:
        The deal to go on with, and how many of its batches are already taken. The lanes of the last
        leg are kept where ``now`` reads them in the same steps; else what is left is dealt anew.
    """
    for number, leg in enumerate(legs):
        dealt = _cut(deck, leg.deal, (epoch, number))
        if leg.batches >= dealt.num_batches:
            return dealt, dealt.num_batches
        if number == len(legs) - 1 and leg.deal.same_lanes(now):
            return replace(dealt, deal=now), leg.batches
        deck = dealt.shares.rest(dealt.consumed(leg.batches))  # type: ignore[assignment]
    return _cut(deck, now, (epoch, len(legs))), 0


def _cut(deck: DeckOf[AnyShares], deal: Deal, words: tuple[int, ...]) -> Dealt[AnyShares]:
    lengths = lane_lengths(len(deck), deal)
    return Dealt(deck.deal(lengths, words), deal, len(deck), lengths)
