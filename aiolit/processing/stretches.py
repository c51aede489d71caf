"""Inputs that come one after the other, and which node of a cluster works on which. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from aiolit.processing.runs import Run

__all__ = ["Stretches", "head_of", "rest_of"]

# A stretch is of so many inputs before the first chunk is stored, then of so many chunks.
_FIRST = 64
_CHUNKS = 4
# Inputs taken from the source at once, so that cutting runs off them copies little.
_BLOCK = 8192


class Stretches:
    """A stretch of consecutive inputs for each node in turn.

    A chunk holds consecutive inputs only, so one ends where a stretch does. How many inputs fill a
    chunk shows when some are stored; so stretches begin short, which leaves some short chunks, and
    grow. What was not handed out yet waits here: a few chunks' inputs for each node.
    """

    def __init__(self, num_nodes: int) -> None:
        self._waiting: list[deque[Run]] = [deque() for _ in range(num_nodes)]
        self._size = _FIRST
        self._owner = 0
        self._left = 0

    def starves(self, node: int) -> bool:
        """Whether nothing waits for a node."""
        return not self._waiting[node]

    def wanted(self, node: int) -> int:
        """Return how many inputs to take from the source next, on behalf of a node that starves.

        They are of the stretch that was begun last, whosever it is, to its end.
        """
        if not self._left:
            self._owner, self._left = node, self._size
        return min(self._left, _BLOCK)

    def add(self, runs: Iterable[Run], num_inputs: int) -> None:
        """Bring what is to be worked on of so many inputs that the source gave."""
        self._left -= num_inputs
        self._waiting[self._owner].extend(runs)

    def take(self, node: int, most: int, *, is_end: bool) -> Run | None:
        """Return the next inputs for a node, at most ``most`` of them, or None.

        Args:
            node: Its place among the nodes.
            most: The most inputs.
            is_end: Whether the source has ended: then a node takes over what waits for another.
        """
        waiting = self._waiting[node]
        if not waiting and not (is_end and self._take_over(waiting, most)):
            return None
        run = waiting.popleft()
        if len(run.inputs) > most:
            waiting.appendleft(rest_of(run, most))
        return head_of(run, most)

    def _take_over(self, waiting: deque[Run], most: int) -> bool:
        richest = max(self._waiting, key=_num_inputs)
        if not richest:
            return False
        run = richest.pop()
        middle = 0 if richest or len(run.inputs) <= most else len(run.inputs) // 2
        if middle:
            richest.append(head_of(run, middle))
        waiting.append(rest_of(run, middle))
        return True

    def stored(self, num_inputs: int) -> None:
        """Take note of how many inputs a chunk has completed."""
        self._size = max(self._size, _CHUNKS * num_inputs)


def head_of(run: Run, count: int) -> Run:
    """Return the first inputs of a run."""
    return replace(run, inputs=run.inputs[:count])


def rest_of(run: Run, count: int) -> Run:
    """Return a run without its first inputs."""
    skip = 0 if count else run.skip
    return replace(run, first=run.first + count, inputs=run.inputs[count:], skip=skip)


def _num_inputs(runs: Iterable[Run]) -> int:
    return sum(len(run.inputs) for run in runs)
