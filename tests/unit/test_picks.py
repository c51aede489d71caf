"""Which member of a mixture comes next: exact shares at every border, entered anywhere."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.picks import Picks, apportion

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


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=5),
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
)
def test_apportion_gives_every_lane_its_length_and_its_share(
    quotas: list[int], wanted: list[int]
) -> None:
    total = sum(quotas)
    ends = np.minimum(np.cumsum(wanted), total)
    lengths = np.diff(ends, prepend=0)
    found = apportion(np.array(quotas), lengths)
    assert found.sum(axis=0).tolist() == lengths.tolist()
    assert (found >= 0).all()
    assert (found.sum(axis=1) <= quotas).all()
    if lengths.sum() == total:
        assert found.sum(axis=1).tolist() == quotas
    for lane, length in enumerate(lengths.tolist()):
        share = np.array(quotas) * length / max(1, total)
        assert np.abs(found[:, lane] - share).max() <= 2
    for done in range(1, len(lengths) + 1):
        share = np.array(quotas) * lengths[:done].sum() / max(1, total)
        assert np.abs(found[:, :done].sum(axis=1) - share).max() <= 2
