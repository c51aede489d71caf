"""Who reads which sample when: coverage, equal steps, re-deals, elasticity.

Everything is checked against the plain list of samples, over random data sets, topologies, windows
and interruptions.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ConfigError
from aiolit.plan.lanes import Lanes, OrderOptions, Pool, default_window, epoch_pool
from aiolit.plan.order import Deal, Dealt, Leg, deal_epoch, lane_lengths
from aiolit.plan.runs import Ints, Runs
from aiolit.plan.stream import LaneStream

Sample = tuple[int, int]
Batch = list[Sample]


@dataclass(frozen=True)
class Deck:
    """Samples of chunks, as a data set deals them."""

    pool: Pool
    options: OrderOptions

    def __len__(self) -> int:
        return len(self.pool)

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> Shares:
        return Shares(Lanes(self.pool, lengths, self.options, words))


@dataclass(frozen=True)
class Shares:
    lanes: Lanes

    def rest(self, consumed: Ints) -> Deck:
        return Deck(self.lanes.rest(consumed), self.lanes.options)

    def stream(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneStream:
        return LaneStream([self.lanes.lane(lane) for lane in lanes], skips)


def deck_of(counts: Sequence[int], options: OrderOptions, epoch: int) -> Deck:
    return Deck(epoch_pool(Runs.whole(np.array(counts, np.int64)), options, epoch), options)


def taken_of(stream: LaneStream, lane: int, count: int) -> Batch:
    found = stream.take(lane, count)
    chunks = [stream.pieces[piece].chunk for piece in found.piece.tolist()]
    return list(zip(chunks, found.sample.tolist(), strict=True))


def worker_batches(
    dealt: Dealt[Shares], taken: int, rank: int, worker: int, own: int = 0, *, repeats: bool = True
) -> list[Batch]:
    share = dealt.share_of(taken, rank, worker, own)
    stream, found = dealt.shares.stream(share.lanes, share.skips), []
    for turn in share.turns:
        batch: Batch = []
        for lane in range(len(share.lanes)):
            batch += taken_of(stream, lane, min(dealt.deal.share, stream.left(lane)))
        if repeats and share.repeat is not None and turn == share.turns[-1]:
            batch += taken_of(dealt.shares.stream([share.repeat[0]], [share.repeat[1]]), 0, 1)
        found.append(batch)
    assert stream.num_samples == 0
    return found


def rank_batches(dealt: Dealt[Shares], taken: int, rank: int) -> list[Batch]:
    """Take the batches of a rank's workers in turn, as torch does."""
    workers = [worker_batches(dealt, taken, rank, number) for number in range(dealt.deal.workers)]
    longest = max(len(batches) for batches in workers)
    return [batches[turn] for turn in range(longest) for batches in workers if turn < len(batches)]


def all_ranks(dealt: Dealt[Shares], taken: int = 0) -> list[list[Batch]]:
    found = [rank_batches(dealt, taken, rank) for rank in range(dealt.deal.ranks)]
    for batches in found:
        assert len(batches) == dealt.num_batches - taken
        assert [len(one) for one in batches] == [len(one) for one in found[0]]
    return found


@st.composite
def deals(draw: st.DrawFn, ranks: int | None = None) -> Deal:
    many = draw(st.integers(1, 4)) if ranks is None else ranks
    nodes = draw(st.integers(1, 3))
    return Deal(
        ranks=many,
        workers=draw(st.integers(1, 3)),
        batch_size=draw(st.integers(1, 4)) * nodes,
        canonical=many * nodes,
        drop_last=draw(st.booleans()),
    )


COUNTS = st.lists(st.integers(0, 30), max_size=12)
OPTIONS = st.builds(
    OrderOptions, shuffle=st.booleans(), seed=st.integers(-9, 9), window=st.integers(1, 60)
)
EPOCHS = st.integers(1, 3)


def check_coverage(seen: Counter[Sample], counts: Sequence[int], last: Deal) -> None:
    """P3: exactly once, but for the drops or repeats that the topology ending the epoch needs."""
    whole = {(chunk, one) for chunk, many in enumerate(counts) for one in range(many)}
    assert seen.keys() <= whole
    missing = len(whole) - len(seen)
    if last.drop_last:
        assert max(seen.values(), default=1) == 1
        assert 0 <= missing < last.global_batch
    else:
        assert missing == 0
        assert seen.total() - len(whole) <= last.ranks - 1


@given(COUNTS, OPTIONS, EPOCHS, deals())
def test_every_sample_once_in_equal_steps(
    counts: list[int], options: OrderOptions, epoch: int, deal: Deal
) -> None:
    dealt, taken = deal_epoch(deck_of(counts, options, epoch), epoch, [], deal)
    assert taken == 0
    ranks = all_ranks(dealt)
    assert [sum(map(len, batches)) for batches in ranks] == [
        deal.rank_samples(sum(counts))
    ] * deal.ranks
    for batches in ranks:
        assert all(len(batch) == deal.batch_size for batch in batches[:-1])
    check_coverage(Counter(s for r in ranks for b in r for s in b), counts, deal)


@given(COUNTS, OPTIONS, EPOCHS, st.lists(deals(), min_size=1, max_size=5), st.data())
def test_interrupted_on_one_topology_and_ended_on_another(
    counts: list[int],
    options: OrderOptions,
    epoch: int,
    chain: list[Deal],
    data: st.DataObject,
) -> None:
    """P4: whatever the chain of topologies, what is left is exactly what was not given."""
    legs: list[Leg] = []
    seen: Counter[Sample] = Counter()
    for deal in chain[:-1]:
        dealt, taken = deal_epoch(deck_of(counts, options, epoch), epoch, legs, deal)
        left = dealt.num_batches - taken
        if left < 2:
            break
        steps = data.draw(st.integers(0, left - 1))
        for batches in all_ranks(dealt, taken):
            for batch in batches[:steps]:
                seen.update(batch)
        assert not seen or max(seen.values()) == 1
        if taken:
            legs[-1] = Leg(deal, taken + steps)
        elif steps:
            legs.append(Leg(deal, steps))
    last = chain[-1]
    dealt, taken = deal_epoch(deck_of(counts, options, epoch), epoch, legs, last)
    for batches in all_ranks(dealt, taken):
        for batch in batches:
            seen.update(batch)
    check_coverage(seen, counts, last)


@given(COUNTS, OPTIONS, EPOCHS, deals(), st.data())
def test_the_rest_on_the_same_topology_is_the_same_sequence(
    counts: list[int], options: OrderOptions, epoch: int, deal: Deal, data: st.DataObject
) -> None:
    dealt, _ = deal_epoch(deck_of(counts, options, epoch), epoch, [], deal)
    whole = all_ranks(dealt)
    if not dealt.num_batches:
        return
    steps = data.draw(st.integers(1, dealt.num_batches))
    again, taken = deal_epoch(deck_of(counts, options, epoch), epoch, [Leg(deal, steps)], deal)
    assert taken == steps
    for before, after in zip(whole, all_ranks(again, taken), strict=True):
        assert after == before[steps:]


@given(COUNTS, OPTIONS, deals(), st.data())
def test_one_worker_goes_on_alone(
    counts: list[int], options: OrderOptions, deal: Deal, data: st.DataObject
) -> None:
    dealt, _ = deal_epoch(deck_of(counts, options, 1), 1, [], deal)
    rank = data.draw(st.integers(0, deal.ranks - 1))
    worker = data.draw(st.integers(0, deal.workers - 1))
    whole = worker_batches(dealt, 0, rank, worker)
    own = data.draw(st.integers(0, len(whole)))
    assert worker_batches(dealt, 0, rank, worker, own) == whole[own:]


@given(
    COUNTS,
    OPTIONS,
    EPOCHS,
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.data(),
)
def test_elastic(
    counts: list[int],
    options: OrderOptions,
    epoch: int,
    canonical: int,
    share: int,
    workers: int,
    drop_last: bool,
    data: st.DataObject,
) -> None:
    """P5: the global batches are the same sets on every number of ranks that divides C, also where
    the number changes in the middle of the epoch."""
    total = canonical * share
    found = []
    for ranks in (ranks for ranks in range(1, canonical + 1) if canonical % ranks == 0):
        deal = Deal(ranks, workers, total // ranks, canonical, drop_last)
        dealt, _ = deal_epoch(deck_of(counts, options, epoch), epoch, [], deal)
        found.append((deal, _global_batches(dealt, 0)))
    (first, expected) = found[0]
    assert all(batches == expected for _, batches in found)
    if not expected:
        return
    steps = data.draw(st.integers(1, len(expected)))
    for deal, _ in found:
        legs = [Leg(first, steps)]
        dealt, taken = deal_epoch(deck_of(counts, options, epoch), epoch, legs, deal)
        assert _global_batches(dealt, taken) == expected[steps:]


def _global_batches(dealt: Dealt[Shares], taken: int) -> list[set[Sample]]:
    """Give the samples of each global batch, without repeats."""
    found: dict[int, set[Sample]] = {}
    for rank in range(dealt.deal.ranks):
        for worker in range(dealt.deal.workers):
            turns = dealt.share_of(taken, rank, worker).turns
            batches = worker_batches(dealt, taken, rank, worker, repeats=False)
            for turn, batch in zip(turns, batches, strict=True):
                found.setdefault(turn, set()).update(batch)
    assert sorted(found) == list(range(taken, dealt.num_batches))
    return [found[turn] for turn in sorted(found)]


@given(COUNTS, OPTIONS, EPOCHS, deals())
def test_a_function_of_its_arguments(
    counts: list[int], options: OrderOptions, epoch: int, deal: Deal
) -> None:
    one = all_ranks(deal_epoch(deck_of(counts, options, epoch), epoch, [], deal)[0])
    two = all_ranks(deal_epoch(deck_of(counts, options, epoch), epoch, [], deal)[0])
    assert one == two


@pytest.mark.parametrize("other", [OrderOptions(True, 8, 40), OrderOptions(True, 7, 70)])
def test_seed_epoch_and_window_change_the_order(other: OrderOptions) -> None:
    counts, deal, options = [20] * 10, Deal(), OrderOptions(True, 7, 40)
    base = all_ranks(deal_epoch(deck_of(counts, options, 1), 1, [], deal)[0])
    assert base != all_ranks(deal_epoch(deck_of(counts, other, 1), 1, [], deal)[0])
    assert base != all_ranks(deal_epoch(deck_of(counts, options, 2), 2, [], deal)[0])


def test_unshuffled_is_the_order_of_the_data() -> None:
    counts = [3, 0, 5, 2]
    dealt, _ = deal_epoch(deck_of(counts, OrderOptions(), 1), 1, [], Deal(batch_size=4))
    flat = [sample for batch in all_ranks(dealt)[0] for sample in batch]
    assert flat == [(chunk, one) for chunk, many in enumerate(counts) for one in range(many)]


def test_golden_order() -> None:
    """A change of this changes what every resumed run reads."""
    options, deal = OrderOptions(True, 42, 6), Deal(2, 2, 2, 2, True)
    dealt, _ = deal_epoch(deck_of([4, 4, 4, 4], options, 1), 1, [], deal)
    assert all_ranks(dealt) == [
        [[(2, 0), (2, 1)], [(1, 3), (1, 2)], [(2, 3), (2, 2)], [(1, 0), (1, 1)]],
        [[(0, 1), (0, 3)], [(3, 0), (3, 2)], [(0, 2), (0, 0)], [(3, 3), (3, 1)]],
    ]


def test_worked_example() -> None:
    """That of the design: 103 samples, 2 ranks, 2 workers, batches of 8, nothing dropped."""
    deal = Deal(ranks=2, workers=2, batch_size=8, canonical=2, drop_last=False)
    assert lane_lengths(103, deal).tolist() == [28, 24, 27, 24]
    assert (deal.num_batches(103), deal.rank_samples(103)) == (7, 52)
    dealt, _ = deal_epoch(deck_of([103], OrderOptions(), 1), 1, [], deal)
    ranks = all_ranks(dealt)
    assert [[len(batch) for batch in batches] for batches in ranks] == [[8] * 6 + [4]] * 2
    assert [len(worker_batches(dealt, 0, 0, worker)) for worker in (0, 1)] == [4, 3]
    seen = Counter(s for r in ranks for b in r for s in b)
    assert seen.total() == 104
    assert len(seen) == 103


def test_fewer_samples_than_a_global_batch() -> None:
    deal = Deal(2, 1, 4, 2, True)
    assert deal.num_batches(7) == 0
    dealt, _ = deal_epoch(deck_of([7], OrderOptions(), 1), 1, [], deal)
    assert all_ranks(dealt) == [[], []]


def test_fewer_samples_than_ranks() -> None:
    """Every rank gets a batch, of a repeated sample where there is no other."""
    deal = Deal(4, 2, 3, 4, False)
    dealt, _ = deal_epoch(deck_of([2], OrderOptions(), 1), 1, [], deal)
    ranks = all_ranks(dealt)
    assert [sum(map(len, batches)) for batches in ranks] == [1] * 4
    assert {s for r in ranks for b in r for s in b} == {(0, 0), (0, 1)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": 0}, "must be positive"),
        ({"workers": 0}, "must be positive"),
        ({"batch_size": -1}, "must be positive"),
        ({"ranks": 2, "canonical": 3}, "num_canonical_nodes=3 is not a multiple of 2 ranks"),
        ({"batch_size": 3, "canonical": 2}, "not a multiple of num_canonical_nodes=2"),
    ],
)
def test_deals_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Deal(**fields)


def test_ten_million_samples_cost_what_their_chunks_do() -> None:
    """10,000 chunks of 1,000 samples, 64 ranks x 8 workers: no list of samples anywhere."""
    counts, options = np.full(10_000, 1000, np.int64), OrderOptions(True, 1, 8000)
    deal, then = Deal(64, 8, 32, 64, True), Deal(32, 4, 16, 32, True)
    tracemalloc.start()
    try:
        pool = epoch_pool(Runs.whole(counts), options, 1)
        dealt, _ = deal_epoch(Deck(pool, options), 1, [], deal)
        share = dealt.share_of(0, 5, 3)
        stream = dealt.shares.stream(share.lanes, share.skips)
        planned = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        again, taken = deal_epoch(Deck(pool, options), 1, [Leg(deal, 4000)], then)
        rest = again.share_of(taken, 5, 3)
        left = again.shares.stream(rest.lanes, rest.skips)
        dealt_again = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(stream.pieces) < 40
    assert stream.num_samples == 19_520
    assert planned < 3 << 20  # a list of the samples would be 80 MB
    assert left.num_samples > 14_000
    assert dealt_again < 40 << 20  # the cut windows of 512 lanes, at most


@pytest.mark.parametrize(
    ("counts", "nbytes", "window"),
    [
        ([100] * 50, [1 << 20] * 50, 800),
        ([100] * 50, [64 << 20] * 50, 400),  # four chunks are 256 MiB
        ([100] * 50, [1 << 30] * 50, 200),  # never less than two
        ([10**9] * 50, [1 << 32] * 50, 1 << 21),  # if they are of a size that can be
        ([], [], 8),
        ([0, 0], [10, 10], 8),
    ],
)
def test_default_window(counts: list[int], nbytes: list[int], window: int) -> None:
    assert default_window(np.array(counts, np.int64), np.array(nbytes, np.int64)) == window
