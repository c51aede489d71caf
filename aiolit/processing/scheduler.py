"""Who works on which run next, and again where a worker died."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from aiolit.processing.journal import Progress
from aiolit.processing.protocol import Remainder
from aiolit.processing.runs import Run
from aiolit.processing.sources import InputSource

__all__ = ["RunScheduler", "Sizer", "cut"]


class Sizer(Protocol):
    """How many inputs the next run takes."""

    def next_size(self) -> int:
        """Return the number of inputs of the next run."""

    def finished(self, num_inputs: int, seconds: float) -> None:
        """Take note of how long a run took."""


def cut(first: int, inputs: Sequence[Any], progress: Progress) -> Iterator[tuple[int, int, int]]:
    """Yield ``(start, stop, skip)`` of the consecutive inputs that are still to be worked on.

    ``start`` and ``stop`` are positions in ``inputs``; ``skip`` is how many samples of the first
    one are in the data set already.
    """
    start: int | None = None
    skip = 0
    for position in range(len(inputs)):
        index = first + position
        partial = progress.partial.get(index, 0)
        if start is not None and (partial or progress.is_done(index)):
            yield start, position, skip
            start = None
        if start is None and not progress.is_done(index):
            start, skip = position, partial
    if start is not None:
        yield start, len(inputs), skip


class RunScheduler:
    """Hands out runs in order, first those that must be worked on again.

    A worker that finds nothing to do waits until every run is complete, since another worker may
    still die over its run. `pump` takes the inputs from the source: it is a task of the job, so
    that a worker that dies does not cut a source off in the middle of an input.

    Args:
        source: The inputs.
        sizer: How many of them a run takes.
        progress: What earlier attempts have finished.
        places: Where the source's inputs are not all inputs of the job: says of each block that was
            taken, once, the index of its first input, and how many samples of that one to skip.
        room: Waits until further results may come.
    """

    def __init__(
        self,
        source: InputSource,
        sizer: Sizer,
        *,
        progress: Progress | None = None,
        places: Callable[[], tuple[int, int]] | None = None,
        room: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._source = source
        self._sizer = sizer
        self._progress = progress if progress is not None and progress.begun else None
        self._places = places
        self._room = room
        self._again: list[tuple[int, Run]] = []
        self._cut: deque[Run] = deque()
        self._asking = 0
        self._outstanding = 0
        self._numbers = 0
        self._inputs = 0
        self._exhausted = False
        self._changed = asyncio.Condition()

    @property
    def num_inputs(self) -> int:
        """How many inputs the source has given."""
        return self._inputs

    async def pump(self) -> None:
        """Take inputs from the source as workers ask for them, to its end."""
        while not self._exhausted:
            async with self._changed:
                await self._changed.wait_for(lambda: self._asking > len(self._cut))
            if self._room is not None:
                await self._room()
            block = await self._source.take(self._sizer.next_size())
            async with self._changed:
                self._add(block)
                self._changed.notify_all()

    async def next_run(self) -> Run | None:
        """Return the next run, or None when all are complete."""
        async with self._changed:
            self._asking += 1
            self._changed.notify_all()
            try:
                await self._changed.wait_for(self._has_answer)
            finally:
                self._asking -= 1
            run: Run | None = None
            if self._again:
                run = heapq.heappop(self._again)[1]
            elif self._cut:
                run = self._cut.popleft()
            if run is not None:
                self._outstanding += 1
            return run

    def _has_answer(self) -> bool:
        return bool(self._again or self._cut or (self._exhausted and not self._outstanding))

    def _add(self, block: Sequence[Any]) -> None:
        first = self._inputs
        self._inputs += len(block)
        if not block:
            self._exhausted = True
            return
        spans = [(0, len(block), 0)]
        if self._places is not None:
            first, skip = self._places()
            spans = [(0, len(block), skip)]
        elif self._progress is not None:
            spans = list(cut(first, block, self._progress))
        for start, stop, skip in spans:
            self._cut.append(Run(self._numbers, first + start, block[start:stop], skip=skip))
            self._numbers += 1

    async def completed(self, run: Run, seconds: float) -> None:
        """Take note that a run is complete."""
        self._sizer.finished(len(run.inputs), seconds)
        self._source.completed(run.inputs)
        async with self._changed:
            self._outstanding -= 1
            if not self._outstanding:
                self._changed.notify_all()

    async def give_back(self, run: Run, remainder: Remainder, *, blamed: bool) -> None:
        """Have the rest of a run worked on again; ``blamed`` counts as an attempt."""
        rest = replace(
            run,
            first=run.first + remainder.inputs,
            inputs=run.inputs[remainder.inputs :],
            skip=remainder.samples + (run.skip if remainder.inputs == 0 else 0),
            attempt=run.attempt + blamed,
        )
        async with self._changed:
            self._outstanding -= 1
            heapq.heappush(self._again, (rest.number, rest))
            self._changed.notify_all()
