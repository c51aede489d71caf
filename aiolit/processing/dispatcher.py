"""Who works on which inputs next: the head of a cluster hands them to its nodes."""

from __future__ import annotations

import asyncio
import enum
import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiolit.errors import WorkerDiedError
from aiolit.processing.failure import show
from aiolit.processing.journal import Covered, Progress
from aiolit.processing.regions import Handed, Regions
from aiolit.processing.runs import Run
from aiolit.processing.scheduler import cut
from aiolit.processing.sources import InputSource
from aiolit.processing.stretches import Stretches, head_of, rest_of

__all__ = ["Dispatcher", "Signal"]

# A run over which so many nodes were lost is taken for what kills them.
_MAX_LOSSES = 5


class Signal(enum.Enum):
    """What a node hears where there is no run for it.

    `DRAIN`: nothing is left at present; it stores what it has. `END`: all inputs are complete.
    """

    DRAIN = enum.auto()
    END = enum.auto()


class Dispatcher:
    """Hands out runs of inputs, first those of lost nodes.

    The inputs of a list go to the nodes in regions. Of anything else each node takes the next ones
    that come; where the order is to be kept, so many that they fill chunks. A node
    that finds nothing to do waits until all inputs are complete, since another node may still be
    lost.

    Args:
        source: Where the inputs come from, unless ``regions`` has all of them.
        regions: All inputs.
        progress: What earlier attempts have finished.
        stretches: Inputs from the source that wait for their nodes, where the order is to be kept.
    """

    def __init__(
        self,
        source: InputSource,
        regions: Regions | None,
        progress: Progress | None,
        stretches: Stretches | None = None,
    ) -> None:
        self._source = source
        self._regions = regions
        self._progress = progress if progress is not None and progress.begun else None
        self._again: list[tuple[int, int, Run]] = []
        self._cut: deque[Run] = deque()
        self._stretches = stretches
        self._asking: deque[tuple[int, int]] = deque()
        self._exhausted = regions is not None
        self._numbers = 0
        self._left = 0
        self.num_inputs = 0
        self._changed = asyncio.Condition()

    async def pump(self) -> None:
        """Take inputs from the source as nodes ask for them, to its end."""
        while not self._exhausted:
            async with self._changed:
                await self._changed.wait_for(self._wanted)
                most = self._wanted()
            block = await self._source.take(most)
            async with self._changed:
                self._add(block)
                self._changed.notify_all()

    def _wanted(self) -> int:
        """Return how many inputs are to be taken from the source; 0: none at present."""
        if self._stretches is None:
            is_wanted = len(self._asking) > len(self._cut)
            return max(most for _, most in self._asking) if is_wanted else 0
        starving = [node for node, _ in self._asking if self._stretches.starves(node)]
        return self._stretches.wanted(starving[0]) if starving else 0

    def _add(self, block: Sequence[Any]) -> None:
        first = self.num_inputs
        self.num_inputs += len(block)
        self._exhausted = not block
        spans = [(0, len(block), 0)] if block else []
        if self._progress is not None:
            spans = list(cut(first, block, self._progress))
        runs = [Run(0, first + start, block[start:stop], skip=skip) for start, stop, skip in spans]
        if self._stretches is None:
            self._cut.extend(runs)
        else:
            self._stretches.add(runs, len(block))

    async def next(self, node: int, most: int, *, drained: bool) -> Run | Signal:
        """Return the next run for a node, of at most ``most`` inputs, or what it is to do.

        Args:
            node: Its place among the nodes.
            most: The most inputs.
            drained: Whether it was told to drain since its last run.
        """
        answer: Run | Signal | None = None

        def has_answer() -> bool:
            nonlocal answer
            answer = self._answer(node, most, drained=drained)
            return answer is not None

        async with self._changed:
            self._asking.append((node, most))
            self._changed.notify_all()
            try:
                await self._changed.wait_for(has_answer)
            finally:
                self._asking.remove((node, most))
            if isinstance(answer, Run):
                self._left += len(answer.inputs)
                self._numbers += 1
                return replace(answer, number=self._numbers)
            return answer or Signal.END

    def _answer(self, node: int, most: int, *, drained: bool) -> Run | Signal | None:
        if self._again:
            run = heapq.heappop(self._again)[2]
            if len(run.inputs) > most:
                self._push(rest_of(run, most))
            return head_of(run, most)
        if self._cut:
            return self._cut.popleft()
        if self._regions is not None and (run_of := self._regions.take(node, most)) is not None:
            return run_of
        if self._stretches is not None:
            is_end = self._exhausted
            if (run_of := self._stretches.take(node, most, is_end=is_end)) is not None:
                return run_of
        if not self._exhausted:
            return None
        if not self._left:
            return Signal.END
        return None if drained else Signal.DRAIN

    def _push(self, run: Run) -> None:
        self._numbers += 1
        heapq.heappush(self._again, (run.first, self._numbers, run))

    async def cover(self, handed: Handed, covered: Covered) -> int:
        """Take note of what a node has stored; return how many inputs that completes."""
        async with self._changed:
            num_inputs = handed.cover(covered)
            self._left -= num_inputs
            if self._stretches is not None:
                self._stretches.stored(num_inputs)
            self._changed.notify_all()
            return num_inputs

    async def give_back(self, handed: Handed, why: str) -> None:
        """Have what a lost node has not stored worked on by others.

        Raises:
            WorkerDiedError: Too many nodes were lost over the same inputs.
        """
        async with self._changed:
            for run in handed.rest():
                if run.attempt >= _MAX_LOSSES:
                    raise WorkerDiedError(
                        f"{run.attempt} nodes were lost over inputs {run.first} to "
                        f"{run.stop - 1}: {show(run.inputs[0])}; the last: {why}"
                    )
                self._left -= len(run.inputs)
                self._push(run)
            self._changed.notify_all()
