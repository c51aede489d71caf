"""Runs of samples, against the plain list of samples that they stand for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.runs import Runs

Sample = tuple[int, int]
TRIPLES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 20), st.integers(0, 20)), max_size=12
)


def listed(runs: Runs) -> list[Sample]:
    return [(chunk, one) for chunk, start, stop in runs for one in range(start, stop)]


def plain(triples: list[tuple[int, int, int]]) -> list[Sample]:
    return [(chunk, one) for chunk, start, stop in triples for one in range(start, stop)]


@given(TRIPLES)
def test_stand_for_their_samples(triples: list[tuple[int, int, int]]) -> None:
    runs = Runs.of(triples)
    expected = plain(triples)
    assert listed(runs) == expected
    assert len(runs) == len(expected)
    assert runs.num_runs == sum(start < stop for _, start, stop in triples)
    run, sample = runs.expand()
    assert list(zip(runs.chunk[run].tolist(), sample.tolist(), strict=True)) == expected


@given(TRIPLES, st.integers(-5, 300), st.integers(-5, 300))
def test_slices_are_exact(triples: list[tuple[int, int, int]], lo: int, hi: int) -> None:
    runs = Runs.of(triples)
    found = runs.slice(lo, hi)
    assert listed(found) == plain(triples)[max(lo, 0) : max(hi, 0)]
    assert all(start < stop for _, start, stop in found)
    assert listed(runs) == plain(triples)  # untouched


@given(TRIPLES, st.integers(0, 300), st.integers(0, 300))
def test_parts_are_written_out(triples: list[tuple[int, int, int]], lo: int, hi: int) -> None:
    runs = Runs.of(triples)
    run, sample = runs.expand(lo, hi)
    found = list(zip(runs.chunk[run].tolist(), sample.tolist(), strict=True))
    assert found == plain(triples)[lo:hi]


@given(TRIPLES, st.data())
def test_samples_at_positions(triples: list[tuple[int, int, int]], data: st.DataObject) -> None:
    runs, expected = Runs.of(triples), plain(triples)
    if not expected:
        return
    places = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=20))
    chunk, sample = runs.samples_at(np.array(places, np.int64))
    assert list(zip(chunk.tolist(), sample.tolist(), strict=True)) == [
        expected[place] for place in places
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40))
def test_of_samples_joins_neighbours(samples: list[Sample]) -> None:
    columns = np.array(samples, np.int64).reshape(-1, 2)
    runs = Runs.of_samples(columns[:, 0], columns[:, 1])
    assert listed(runs) == samples
    followed = [a[0] == b[0] and a[1] + 1 == b[1] for a, b in pairwise(samples)]
    assert runs.num_runs == len(samples) - sum(followed)


@given(st.lists(TRIPLES, max_size=4))
def test_concat(parts: list[list[tuple[int, int, int]]]) -> None:
    joined = Runs.concat([Runs.of(part) for part in parts])
    assert listed(joined) == [sample for part in parts for sample in plain(part)]


@given(TRIPLES, st.randoms(use_true_random=False))
def test_take_moves_whole_runs(triples: list[tuple[int, int, int]], random: object) -> None:
    runs = Runs.of(triples)
    order = list(range(runs.num_runs))
    random.shuffle(order)  # type: ignore[attr-defined]
    triples_left = list(runs)
    assert list(runs.take(np.array(order, np.int64))) == [triples_left[one] for one in order]


@pytest.mark.parametrize("counts", [[], [0], [3, 0, 2], [0, 0, 1]])
def test_whole(counts: list[int]) -> None:
    runs = Runs.whole(np.array(counts, np.int64))
    assert listed(runs) == [
        (chunk, one) for chunk, many in enumerate(counts) for one in range(many)
    ]
