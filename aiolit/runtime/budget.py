"""A promise about memory: how many bytes may be held at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolit.errors import ConfigError
from aiolit.units import format_size

__all__ = ["BudgetStatistics", "ByteBudget"]


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """A budget at one instant.

    Attributes:
        limit: Bytes that may be held.
        used: Bytes held now.
        peak: The most bytes held at once so far.
        waiting: How many requests wait for their turn. Always above zero: the budget is the
            bottleneck.
        wait_seconds: How long requests have waited for bytes, added up; those still waiting are not
            in it.
    """

    limit: int
    used: int
    peak: int
    waiting: int
    wait_seconds: float


class ByteBudget:
    """How many bytes may be in flight or waiting for the consumer. First come, first served.

    It belongs to one event loop and is used on that loop's thread only. Bytes that several streams
    take from one budget while one consumer advances them in turn can block each other: give each
    such stream its own.

    Args:
        limit: Bytes that may be held at once.
        name: Opens the error messages; say which option sets the limit.
    """

    def __init__(self, limit: int, *, name: str = "the memory budget") -> None:
        self._limit = _checked(limit, name)
        self._name = name
        self._used = 0
        self._peak = 0
        self._wait_seconds = 0.0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def limit(self) -> int:
        """Bytes that may be held at once."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    @property
    def peak(self) -> int:
        """The most bytes held at once so far."""
        return self._peak

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiters)

    def statistics(self) -> BudgetStatistics:
        """Take all the figures at once."""
        return BudgetStatistics(
            self._limit, self._used, self._peak, len(self._waiters), self._wait_seconds
        )

    async def acquire(self, nbytes: int) -> None:
        """Take bytes, waiting behind all who asked before.

        Cancellation leaves nothing taken.

        Raises:
            ConfigError: More than the limit: it would wait for ever.
        """
        if self.try_acquire(nbytes):
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn: asyncio.Future[None] = loop.create_future()
        entry = (nbytes, turn)
        self._waiters.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.done() or turn.cancelled():
                self._waiters.remove(entry)
                self._wake()  # the next may be small enough
            elif turn.exception() is None:
                self.release(nbytes)  # granted and cancelled in the same tick
            raise
        finally:
            self._wait_seconds += loop.time() - began

    def try_acquire(self, nbytes: int) -> bool:
        """Take bytes if nobody waits and they are free now.

        Raises:
            ConfigError: More than the limit: it could never succeed.
        """
        if nbytes < 0:
            raise ValueError(f"cannot take {nbytes} bytes")
        if nbytes > self._limit:
            raise self._too_large(nbytes)
        if self._waiters or self._used + nbytes > self._limit:
            return False
        self._take(nbytes)
        return True

    def release(self, nbytes: int) -> None:
        """Give bytes back and wake those who can go on now."""
        if not 0 <= nbytes <= self._used:
            raise ValueError(f"cannot give back {nbytes} of the {self._used} bytes held")
        self._used -= nbytes
        self._wake()

    @asynccontextmanager
    async def reserve(self, nbytes: int) -> AsyncIterator[None]:
        """Hold bytes for the length of the block."""
        await self.acquire(nbytes)
        try:
            yield
        finally:
            self.release(nbytes)

    def resize(self, limit: int) -> None:
        """Set another limit.

        Above what is used, those who can go on are woken. Below it, nothing is taken away and
        nothing granted until enough came back; those who ask for more than the new limit get
        ``ConfigError``.
        """
        self._limit = _checked(limit, self._name)
        for entry in list(self._waiters):
            nbytes, turn = entry
            if nbytes > limit and not turn.done():  # a cancelled one takes itself off the list
                self._waiters.remove(entry)
                turn.set_exception(self._too_large(nbytes))
        self._wake()

    def _take(self, nbytes: int) -> None:
        self._used += nbytes
        self._peak = max(self._peak, self._used)

    def _wake(self) -> None:
        while self._waiters and self._used + self._waiters[0][0] <= self._limit:
            nbytes, turn = self._waiters[0]
            if turn.done():  # cancelled; its own task takes it off the list
                return
            self._waiters.popleft()
            self._take(nbytes)
            turn.set_result(None)

    def _too_large(self, nbytes: int) -> ConfigError:
        return ConfigError(
            f"{self._name} of {format_size(self._limit)} ({self._limit} bytes) can never hold "
            f"{format_size(nbytes)} ({nbytes} bytes) at once: raise it to at least that"
        )

    def __repr__(self) -> str:
        return f"<ByteBudget {self._used}/{self._limit} bytes, {len(self._waiters)} waiting>"


def _checked(limit: int, name: str) -> int:
    if limit <= 0:
        raise ConfigError(f"{name} must be a positive number of bytes, not {limit}")
    return limit
