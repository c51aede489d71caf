"""Which requests are made for which ranges."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.coalesce import coalesce, cover, split

RANGES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), max_size=30).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


@given(RANGES, st.integers(0, 50), st.integers(1, 400))
def test_every_range_lies_in_its_span(
    ranges: list[tuple[int, int]], max_gap: int, max_bytes: int
) -> None:
    spans = coalesce(ranges, max_gap=max_gap, max_bytes=max_bytes)
    members = [member for span in spans for member in span.members]
    assert sorted(members) == list(range(len(ranges)))
    for span in spans:
        inside = [ranges[member] for member in span.members]
        assert span.start == min(start for start, _ in inside)
        assert span.end == max(end for _, end in inside)
        largest = max(end - start for start, end in inside)
        assert span.end - span.start <= max(max_bytes, largest)
        reached = span.start
        for start, end in sorted(inside):
            assert start - reached <= max_gap
            reached = max(reached, end)
    assert [span.start for span in spans] == sorted(span.start for span in spans)


@given(RANGES, st.integers(0, 50))
def test_no_two_spans_could_be_one(ranges: list[tuple[int, int]], max_gap: int) -> None:
    spans = coalesce(ranges, max_gap=max_gap, max_bytes=10_000)
    assert all(later.start - former.end > max_gap for former, later in pairwise(spans))


@given(st.integers(0, 1000), st.integers(0, 5000), st.integers(1, 700))
def test_split_is_even(start: int, length: int, part: int) -> None:
    parts = split(start, start + length, part)
    sizes = [hi - lo for lo, hi in parts]
    assert sum(sizes) == length
    assert all(0 < size <= part for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-length // part)
    assert all(former[1] == later[0] for former, later in pairwise(parts))
    assert not parts or parts[0][0] == start


@given(
    st.integers(0, 100),
    st.integers(0, 60),
    RANGES.map(lambda found: [(lo // 5, hi // 5) for lo, hi in found]),
)
def test_cover_uses_what_is_there(start: int, length: int, extents: list[tuple[int, int]]) -> None:
    stop, at = start + length, start
    for lo, hi, extent in cover(start, stop, extents):
        assert lo == at < hi <= stop
        at = hi
        if extent is None:
            assert not any(one[0] < hi and lo < one[1] for one in extents if one[0] < one[1])
        else:
            assert extent in extents
            assert extent[0] <= lo < hi <= extent[1]
    assert at == stop
