"""Which member of a mixture comes next: exact shares at every border, entered anywhere."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.picks import Picks, spread

counts_of_members = st.lists(st.integers(0, 3000), min_size=2, max_size=5)


def whole(picks: Picks) -> list[int]:
    found: list[int] = picks.take(0, picks.length).tolist()
    return found


@given(counts_of_members)
def test_every_member_has_its_count(counts: list[int]) -> None:
    picks = Picks(counts, (1, 2))
    assert np.bincount(whole(picks), minlength=len(counts)).tolist() == counts
    assert picks.upto(picks.length).tolist() == counts


@given(counts_of_members)
def test_at_every_block_border_each_member_is_within_one_of_its_share(counts: list[int]) -> None:
    picks = Picks(counts, (1, 2))
    for border in range(0, picks.length, picks.block):
        share = np.array(counts) * border / max(1, picks.length)
        assert np.abs(picks.upto(border) - share).max() < 1


@given(counts_of_members, st.data())
def test_upto_counts_what_take_gives(counts: list[int], data: st.DataObject) -> None:
    picks = Picks(counts, (3,))
    sequence = whole(picks)
    at = data.draw(st.integers(0, len(sequence)))
    count = data.draw(st.integers(0, len(sequence) - at))
    fresh = Picks(counts, (3,))  # nothing was read before: the position is a closed form
    assert fresh.take(at, count).tolist() == sequence[at : at + count]
    assert fresh.upto(at).tolist() == np.bincount(sequence[:at], minlength=len(counts)).tolist()


@pytest.mark.parametrize(
    "counts",
    [[3_000_000, 1], [1, 2_000_000, 1, 1], [40, 5_000_000, 60], [1_000_000, 1, 900_000, 2, 3]],
)
def test_members_rarer_than_a_block_cost_no_more(counts: list[int]) -> None:
    picks = Picks(counts, (5,))
    assert picks.block < 70_000
    borders = [*range(0, picks.length, picks.block), picks.length]
    found = np.array([picks.upto(border) for border in borders])
    assert (np.diff(found, axis=0) >= 0).all()
    assert found[-1].tolist() == counts
    shares = np.outer(borders, counts) / picks.length
    rare = (np.array(counts) * 65536 < picks.length).sum()
    assert np.abs(found - shares).max() < 1 + rare
    tail = picks.take(picks.length - 100_000, 100_000)
    before = picks.upto(picks.length - 100_000)
    after = before + np.bincount(tail, minlength=len(counts))
    assert after.tolist() == counts


def test_the_order_is_a_function_of_the_key() -> None:
    counts = [500, 300, 200]
    assert whole(Picks(counts, (1, 2))) == whole(Picks(counts, (1, 2)))
    assert whole(Picks(counts, (1, 2))) != whole(Picks(counts, (1, 3)))
    assert whole(Picks(counts, (1, 2))) != whole(Picks(counts, (2, 2)))


def test_entering_late_costs_a_block() -> None:
    picks = Picks([7_000_000, 2_000_000, 1_000_000], (1,))
    tracemalloc.start()
    picks.take(9_000_000, 64)
    picks.upto(9_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@given(st.lists(st.integers(0, 500), min_size=1, max_size=7))
def test_spread_is_a_function_of_the_position_that_never_falls(counts: list[int]) -> None:
    total = sum(counts)
    found = spread(np.array(counts), np.arange(total + 1))
    assert found.sum(axis=0).tolist() == list(range(total + 1))
    assert (np.diff(found, axis=1) >= 0).all()
    assert found[:, -1].tolist() == counts
    shares = np.outer(counts, np.arange(total + 1)) / max(1, total)
    halvings = int(np.ceil(np.log2(len(counts))))
    assert np.abs(found - shares).max() <= halvings / 2
    some = np.arange(0, total + 1, 7)
    assert (spread(np.array(counts), some) == found[:, some]).all()
