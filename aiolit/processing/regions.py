"""Which inputs each node of a cluster works on, and again where a node was lost. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.processing.journal import Covered, Progress, merge_ranges, within
from aiolit.processing.runs import Run
from aiolit.processing.scheduler import cut

__all__ = ["Handed", "Regions", "region_bounds"]

Ranges = Iterable[tuple[int, int]]


def region_bounds(total: int, num_nodes: int, weights: NDArray[np.float64] | None) -> list[int]:
    """Return where the regions of so many inputs begin and end: equal ones, or of equal weight."""
    bounds = [total * node // num_nodes for node in range(num_nodes + 1)]
    if weights is not None:
        ends = np.cumsum(weights)
        shares = ends[-1] * np.arange(1, num_nodes) / num_nodes
        bounds[1:-1] = np.searchsorted(ends, shares, side="right").tolist()
    return bounds


class Regions:
    """The inputs of a list: a region of consecutive ones for each node.

    So the chunks of a node are full but for the last one of each region. A node that has nothing
    left takes half of what the one with the most has left.
    """

    def __init__(
        self,
        items: Sequence[Any],
        num_nodes: int,
        *,
        progress: Progress | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self._items = items
        self._partial = {} if progress is None else dict(progress.partial)
        done = () if progress is None else progress.done
        bounds = region_bounds(len(items), num_nodes, weights)
        self._regions = [deque(_without(start, stop, done)) for start, stop in pairwise(bounds)]

    @property
    def is_empty(self) -> bool:
        """Whether all inputs were handed out."""
        return not any(self._regions)

    def take(self, node: int, most: int) -> Run | None:
        """Return the next inputs for a node, at most ``most`` of them, or None."""
        region = self._regions[node]
        if not region and not self._take_over(region, most):
            return None
        start, end = region.popleft()
        stop = min(end, start + most)
        # An input of which some samples are in the data set begins a run, which skips those.
        stop = min([stop, *(index for index in self._partial if start < index < stop)])
        if stop < end:
            region.appendleft((stop, end))
        return Run(0, start, self._items[start:stop], skip=self._partial.pop(start, 0))

    def _take_over(self, region: deque[tuple[int, int]], most: int) -> bool:
        richest = max(self._regions, key=_size)
        if not richest:
            return False
        start, stop = richest.pop()
        # What its node would do in one go is taken whole: that node may not have begun, or be lost.
        middle = (start + stop) // 2 if stop - start > most else start
        if middle > start:
            richest.append((start, middle))
        region.append((middle, stop))
        return True


class Handed:
    """What one node was given, and what of that is in the data set.

    Attributes:
        is_begun: Whether it was given anything.
    """

    def __init__(self) -> None:
        self.is_begun = False
        self._runs: list[Run] = []
        self._done: tuple[tuple[int, int], ...] = ()
        self._partial: dict[int, int] = {}

    def add(self, run: Run) -> None:
        """Take note of a run that the node was given."""
        self.is_begun = True
        self._runs.append(run)

    def cover(self, covered: Covered) -> int:
        """Take note of what is in the data set; return how many more inputs are complete."""
        before = _size(self._done)
        self._done = merge_ranges([*self._done, *covered.done])
        self._partial.update(covered.partial)
        self._runs = [run for run in self._runs if self._is_open(run)]
        return _size(self._done) - before

    def _is_open(self, run: Run) -> bool:
        # The ranges do not touch each other: a run lies in one of them or is not complete.
        return not (within(self._done, run.first) and within(self._done, run.stop - 1)) or any(
            run.first < stop < run.stop for _, stop in self._done
        )

    def input(self, index: int) -> Any:
        """Return an input that is not complete."""
        for run in self._runs:
            if run.first <= index < run.stop:
                return run.inputs[index - run.first]
        raise KeyError(index)

    def rest(self) -> Iterator[Run]:
        """Yield what another node has to work on."""
        progress = Progress(done=self._done, partial=self._partial)
        for run in self._runs:
            for start, stop, skip in cut(run.first, run.inputs, progress):
                yield Run(
                    0,
                    run.first + start,
                    run.inputs[start:stop],
                    attempt=run.attempt + 1,
                    skip=max(skip, run.skip if start == 0 else 0),
                )


def _size(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)


def _without(start: int, stop: int, done: Ranges) -> Iterator[tuple[int, int]]:
    for done_start, done_stop in done:
        if start < min(done_start, stop):
            yield start, min(done_start, stop)
        start = max(start, done_stop)
    if start < stop:
        yield start, stop
