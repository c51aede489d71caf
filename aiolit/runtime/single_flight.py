"""Concurrent requests for the same thing share one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from aiolit.groups import single_error

__all__ = ["SingleFlight"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Flight(Generic[T]):
    """One task and those who wait for it."""

    __slots__ = ("error", "result", "task", "waiters")

    task: asyncio.Task[None]
    result: T

    def __init__(self) -> None:
        self.waiters = 0
        self.error: BaseException | None = None

    async def run(self, fetch: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            self.result = await fetch()
        except Exception as error:  # noqa: BLE001 - handed to every waiter
            self.error = error


class SingleFlight(Generic[K, T]):
    """Share one running task among all who ask for its key meanwhile.

    ``async with SingleFlight() as flights`` owns the tasks: leaving the block cancels those still
    running and awaits their end. Nothing is remembered: who asks after the end begins anew, after a
    failure too. One event loop.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._flights: dict[K, _Flight[T]] = {}
        self._open = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        for flight in self._flights.values():
            flight.task.cancel()
        with single_error():
            await self._group.__aexit__(exc_type, exc, traceback)

    def __len__(self) -> int:
        """Count the tasks that run now."""
        return len(self._flights)

    async def run(self, key: K, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the task for ``key``, beginning it with ``fetch`` where none runs.

        Cancelling a caller leaves the task to the others; with its last caller it is cancelled too,
        and who asks for the key before that task has ended waits for its end and begins anew.

        Raises:
            Exception: What ``fetch`` raised, in every caller.
            RuntimeError: The block was left, or the task was cancelled by somebody else.
        """
        while (flight := self._running(key)) is not None and not flight.waiters:
            await asyncio.wait((flight.task,))  # given up by all its callers, on its way out
        if flight is None:
            flight = self._begin(key, fetch)
        flight.waiters += 1
        try:
            await asyncio.wait((flight.task,))
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()  # without effect on a task that has ended
        if flight.error is not None:
            raise flight.error
        if flight.task.cancelled():
            why = "was cancelled" if self._open else "ended with its SingleFlight block"
            raise RuntimeError(f"the shared task for {key!r} {why}")
        return flight.result

    def _running(self, key: K) -> _Flight[T] | None:
        flight = self._flights.get(key)
        return None if flight is None or flight.task.done() else flight

    def _begin(self, key: K, fetch: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        if not self._open:
            raise RuntimeError("SingleFlight.run() needs an open `async with SingleFlight()` block")
        flight: _Flight[T] = _Flight()
        flight.task = self._group.create_task(flight.run(fetch), name=f"aiolit:flight:{key}")
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: K, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:  # not yet replaced by the next one
            del self._flights[key]
