"""Whose request is next: a bounded number at once, those needed first before others."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from aiolit.plan.link import LinkModel

__all__ = ["Line", "Request"]

Clock = Callable[[], float]


class Request:
    """A request that has its place in the line."""

    def __init__(self, began: float, clock: Clock) -> None:
        self._clock, self.began = clock, began
        self.first_byte: float | None = None
        self.nbytes = 0

    def progressed(self, nbytes: int) -> None:
        """Take note of bytes that came."""
        if self.first_byte is None:
            self.first_byte = self._clock()
        self.nbytes += nbytes


class Line:
    """Lets as many requests through as the model of the link allows, by priority.

    It belongs to one event loop. Whoever is cancelled while waiting leaves the line.

    Args:
        model: Says how many; it learns from each request that ends well.
        clock: Seconds, monotonic.
    """

    def __init__(self, model: LinkModel, *, clock: Clock = time.monotonic) -> None:
        self.model = model
        self._clock = clock
        self._busy = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return self._busy

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return sum(not turn.done() for _, _, turn in self._waiting)

    @asynccontextmanager
    async def place(self, priority: int) -> AsyncIterator[Request]:
        """Hold a place while a request is under way.

        Args:
            priority: Lower ones go first; equal ones as they came.
        """
        await self._enter(priority)
        request = Request(self._clock(), self._clock)
        try:
            yield request
            if request.first_byte is not None:
                now = self._clock()
                self.model.completed(
                    request.nbytes,
                    request.first_byte - request.began,
                    now - request.began,
                    now,
                    waiting=bool(self._waiting),
                )
        finally:
            self._busy -= 1
            self._admit()

    async def _enter(self, priority: int) -> None:
        if self._busy < self.model.limit:  # then nobody waits
            self._busy += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came at the same moment
                self._busy -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._busy < self.model.limit:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                self._busy += 1
