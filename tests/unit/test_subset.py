"""Subsets, splits and repetitions as lists of runs: exact lengths, disjoint, small."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.runs import Runs
from aiolit.plan.subset import exact_shares, pick, split, subsample

Sample = tuple[int, int]
chunk_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def samples(runs: Runs) -> list[Sample]:
    return [(chunk, one) for chunk, start, stop in runs for one in range(start, stop)]


def whole(sizes: list[int]) -> Runs:
    return Runs.whole(np.array(sizes, np.int64))


@given(st.integers(0, 10**7), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_exact_shares_are_rounded_and_add_up(total: int, raw: list[float]) -> None:
    shares = [one / max(1.0, sum(raw)) for one in raw]
    found = exact_shares(total, shares)
    assert all(
        abs(one - total * share) <= 1 + 1e-6 for one, share in zip(found, shares, strict=True)
    )
    assert sum(found) == round(sum(total * share for share in shares))


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [(100, [1 / 3, 1 / 3, 1 / 3], [34, 33, 33]), (10, [0.8, 0.1, 0.1], [8, 1, 1]), (3, [0.5], [2])],
)
def test_exact_shares_by_hand(total: int, shares: list[float], expected: list[int]) -> None:
    """Peer A.10: ``int(n * split)`` truncates: 33 and 33 and 33 of 100."""
    assert exact_shares(total, shares) == expected


@given(chunk_sizes, st.data(), st.one_of(st.none(), st.integers(0, 9)), st.booleans())
def test_splits_are_disjoint_and_of_the_lengths_asked_for(
    sizes: list[int], data: st.DataObject, seed: int | None, by_chunk: bool
) -> None:
    runs = whole(sizes)
    first = data.draw(st.integers(0, len(runs)))
    second = data.draw(st.integers(0, len(runs) - first))
    parts = split(runs, [first, second], seed=seed, by_chunk=by_chunk)
    assert [len(part) for part in parts] == [first, second]
    together = samples(parts[0]) + samples(parts[1])
    assert len(set(together)) == len(together)
    assert set(together) <= set(samples(runs))
    again = split(runs, [first, second], seed=seed, by_chunk=by_chunk)
    assert [samples(part) for part in again] == [samples(part) for part in parts]


@given(chunk_sizes, st.integers(0, 9))
def test_splits_of_splits_stay_disjoint(sizes: list[int], seed: int) -> None:
    runs = whole(sizes)
    half = len(runs) // 2
    one, two = split(runs, [half, len(runs) - half], seed=seed, by_chunk=False)
    three, four = split(one, [half // 2, half - half // 2], seed=seed + 1, by_chunk=False)
    found = samples(two) + samples(three) + samples(four)
    assert sorted(found) == sorted(samples(runs))


def test_by_sample_mixes_chunks_and_by_chunk_touches_few() -> None:
    """Peer A.10: a 50/50 split took whole chunks, so that class-ordered data was split unevenly."""
    runs = whole([100] * 20)
    (even,) = split(runs, [1000], seed=1, by_chunk=False)
    per_chunk = np.bincount(even.chunk, weights=even.stop - even.start, minlength=20)
    assert (np.abs(per_chunk - 50) < 25).all()
    (few,) = split(runs, [950], seed=1, by_chunk=True)
    assert len(set(few.chunk.tolist())) == 10


@given(chunk_sizes, st.floats(0.01, 4), st.one_of(st.none(), st.integers(0, 9)), st.booleans())
def test_subsample_repeats_everything_and_then_a_part(
    sizes: list[int], share: float, seed: int | None, by_chunk: bool
) -> None:
    runs = whole(sizes)
    found = subsample(runs, share, seed=seed, by_chunk=by_chunk)
    assert len(found) == round(len(runs) * share)
    counts = Counter(samples(found))
    whole_copies = len(found) // max(1, len(runs))
    assert set(counts.values()) <= {whole_copies, whole_copies + 1}
    assert len(counts) == min(len(found), len(runs))


@given(chunk_sizes, st.data())
def test_pick_keeps_the_order_and_repeats(sizes: list[int], data: st.DataObject) -> None:
    runs = whole(sizes)
    if not len(runs):
        return
    wanted = data.draw(st.lists(st.integers(0, len(runs) - 1), max_size=30))
    everything = samples(runs)
    assert samples(pick(runs, np.array(wanted, np.int64))) == [everything[one] for one in wanted]


def test_memory_is_by_runs_where_runs_are_cut() -> None:
    runs = whole([1000] * 10_000)
    tracemalloc.start()
    split(runs, [8_000_000, 2_000_000], seed=1, by_chunk=True)
    subsample(runs, 0.3, seed=None, by_chunk=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
