"""Merging of byte ranges that lie near each other into fewer requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Span:
    """One request: the bytes ``[start, end)``, and which of the wanted ranges lie in it."""

    start: int
    end: int
    members: tuple[int, ...]


def coalesce(ranges: Sequence[tuple[int, int]], *, max_gap: int, max_bytes: int) -> list[Span]:
    """Merge ranges whose gap is at most ``max_gap`` bytes into spans of at most ``max_bytes``.

    Args:
        ranges: ``(start, end)`` pairs in any order; they may overlap.
        max_gap: Bytes that may be fetched for nothing to save a request.
        max_bytes: A span is not extended beyond this; a single larger range keeps its size.

    Returns:
        Spans by ascending start; every range is a member of exactly one span, which holds it whole.
    """
    found: list[tuple[int, int, list[int]]] = []
    for member in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        start, end = ranges[member]
        if found:
            low, high, members = found[-1]
            if start - high <= max_gap and max(end, high) - low <= max_bytes:
                members.append(member)
                found[-1] = low, max(end, high), members
                continue
        found.append((start, end, [member]))
    return [Span(start, end, tuple(members)) for start, end, members in found]


def split(start: int, end: int, part_bytes: int) -> list[tuple[int, int]]:
    """Cut ``[start, end)`` into parts of nearly equal size, none above ``part_bytes``."""
    total = end - start
    count = max(1, -(-total // part_bytes))
    edges = [start + total * number // count for number in range(count + 1)]
    return [(lo, hi) for lo, hi in pairwise(edges) if lo < hi]


def cover(
    start: int, stop: int, extents: Sequence[tuple[int, int]]
) -> list[tuple[int, int, tuple[int, int] | None]]:
    """Cover ``[start, stop)`` by extents that are there, and name the gaps.

    Returns:
        ``(lo, hi, extent)`` in ascending order, without overlap; ``extent`` is None for a gap.
    """
    found: list[tuple[int, int, tuple[int, int] | None]] = []
    at = start
    while at < stop:
        here = max(
            (one for one in extents if one[0] <= at < one[1]), key=lambda one: one[1], default=None
        )
        if here is None:
            end = min((one[0] for one in extents if at < one[0] < stop), default=stop)
            found.append((at, end, None))
        else:
            end = min(here[1], stop)
            found.append((at, end, here))
        at = end
    return found
