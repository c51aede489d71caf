"""Fetch ahead of the consumer, in order, inside a byte budget."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from aiolit.groups import single_error
from aiolit.runtime.budget import ByteBudget

__all__ = [
    "Hold",
    "PrefetchStatistics",
    "PrefetchStream",
    "Weighed",
    "open_prefetch",
    "single_error",
]

_log = logging.getLogger(__name__)


class Weighed(Protocol):
    """Something with a size in bytes known before it is fetched."""

    @property
    def nbytes(self) -> int:
        """Bytes that its result occupies."""


Item = TypeVar("Item", bound=Weighed)
T = TypeVar("T")


class Hold:
    """Bytes of a budget that stay taken until ``release``; releasing again is harmless."""

    __slots__ = ("_budget", "nbytes")

    def __init__(self, budget: ByteBudget, nbytes: int) -> None:
        self._budget = budget
        self.nbytes = nbytes

    def release(self) -> None:
        """Give the bytes back."""
        nbytes, self.nbytes = self.nbytes, 0
        if nbytes:
            self._budget.release(nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class PrefetchStatistics:
    """A stream at one instant.

    Attributes:
        delivered: Results handed to the consumer.
        ahead: Results fetched or under way that the consumer has not had yet.
        wait_seconds: How long the consumer waited for results. High: fetching is the bottleneck.
        budget_wait_seconds: How long fetching waited for the consumer to free bytes or places.
            High: the consumer is the bottleneck, or the budget is too small.
    """

    delivered: int
    ahead: int
    wait_seconds: float
    budget_wait_seconds: float


class PrefetchStream(Generic[Item, T]):
    """Results in plan order; what ``open_prefetch`` yields.

    One consumer at a time. A wait that is cancelled or timed out loses nothing: the next one gets
    the same result.
    """

    def __init__(
        self,
        plan: Iterable[Item],
        fetch: Callable[[Item], Coroutine[Any, Any, T]],
        budget: ByteBudget,
        max_ahead: int,
        discard: Callable[[T], object] | None,
    ) -> None:
        self._plan = plan
        self._fetch = fetch
        self._budget = budget
        self._places = asyncio.Semaphore(max_ahead)
        self._discard = discard
        self._ready: deque[tuple[Hold, asyncio.Task[T]]] = deque()
        self._changed = asyncio.Event()
        self._last: Hold | None = None
        self._failure: BaseException | None = None
        self._exhausted = False
        self._left = False
        self._waited_on = False
        self._delivered = 0
        self._wait_seconds = 0.0
        self._budget_wait_seconds = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._waited_on:
            raise RuntimeError("another task is waiting for this stream's next result")
        self._release_last()
        self._waited_on = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            task = await self._head()
        finally:
            self._waited_on = False
            self._wait_seconds += loop.time() - began
        self._last, _ = self._ready.popleft()
        self._places.release()
        self._delivered += 1
        return task.result()

    def hold(self) -> Hold:
        """Keep the bytes of the latest result beyond the next one; the caller releases them.

        Without it they are given back when the next result is asked for or the block is left. Bytes
        held this way are missing for fetching ahead: to hold all of the budget while waiting for
        more is to wait for ever.
        """
        if self._last is None:
            raise RuntimeError("there is no latest result whose bytes could be held")
        kept, self._last = self._last, None
        return kept

    def statistics(self) -> PrefetchStatistics:
        """Take all the figures at once."""
        return PrefetchStatistics(
            self._delivered, len(self._ready), self._wait_seconds, self._budget_wait_seconds
        )

    async def _head(self) -> asyncio.Task[T]:
        """Wait until the first result can be handed over; it stays first until it is."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._left:
                raise RuntimeError("the block of open_prefetch() has been left")
            if self._ready:
                task = self._ready[0][1]
                if task.done() and not task.cancelled():
                    return task
                if task.done():
                    # Cancelled with the whole stream, whose failure then arrives here as our own
                    # cancellation or as the recorded one; else somebody reached into the fetch.
                    raise RuntimeError("a fetch was cancelled from outside the stream")
                await asyncio.wait((task,))
            elif self._exhausted:
                raise StopAsyncIteration
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _produce(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        try:
            for item in self._plan:
                began = loop.time()
                await self._places.acquire()
                await self._budget.acquire(item.nbytes)
                self._budget_wait_seconds += loop.time() - began
                hold = Hold(self._budget, item.nbytes)
                task = group.create_task(self._recorded(item), name="aiolit:prefetch")
                self._ready.append((hold, task))
                self._changed.set()
            self._exhausted = True
        except Exception as error:
            self._fail(error)
            raise
        finally:
            self._changed.set()

    async def _recorded(self, item: Item) -> T:
        try:
            return await self._fetch(item)
        except Exception as error:
            if self._left:
                # Nobody wants this result any more, and the body's own error must stay alone.
                _log.debug("a fetch failed while it was cancelled", exc_info=True)
                raise asyncio.CancelledError from error
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    def _release_last(self) -> None:
        if self._last is not None:
            self._last.release()
            self._last = None

    def _leave(self, producer: asyncio.Task[None]) -> None:
        self._left = True
        producer.cancel()  # its end wakes a consumer that waits in another task
        for _, task in self._ready:
            task.cancel()

    def _drop(self) -> None:
        """Give everything back; all tasks have ended."""
        self._left = True
        self._release_last()
        while self._ready:
            hold, task = self._ready.popleft()
            hold.release()
            if self._discard is not None and not task.cancelled() and task.exception() is None:
                self._discard(task.result())


@asynccontextmanager
async def open_prefetch(
    plan: Iterable[Item],
    fetch: Callable[[Item], Coroutine[Any, Any, T]],
    budget: ByteBudget,
    *,
    max_ahead: int = 1024,
    discard: Callable[[T], object] | None = None,
) -> AsyncIterator[PrefetchStream[Item, T]]:
    """Open a stream of results in plan order, fetched ahead as far as the budget reaches.

    Args:
        plan: What to fetch, each with ``nbytes``; it is read as far ahead as fetching goes, and may
            be endless.
        fetch: Fetches one item. Several run at once, each as one task.
        budget: An item's bytes are taken before its fetch and given back when the next result is
            asked for (``PrefetchStream.hold`` keeps them longer).
        max_ahead: How many results may be fetched ahead, however small they are.
        discard: Called with each result that was fetched and never handed over.

    Yields:
        An async iterator of results in plan order. It may be advanced in any task, one at a time.

    Raises:
        Exception: The first failure of a fetch or of the plan, as itself, whatever the body is
            doing at that moment; it ends all other fetches. ``ConfigError`` for an item larger than
            the budget.

    Leaving the block, also by an error or cancellation, cancels the fetches, awaits their end and
    gives all bytes back.
    """
    if max_ahead < 1:
        raise ValueError(f"max_ahead must be at least 1, not {max_ahead}")
    stream = PrefetchStream(plan, fetch, budget, max_ahead, discard)
    try:
        with single_error():
            async with asyncio.TaskGroup() as group:
                producer = group.create_task(stream._produce(group), name="aiolit:prefetch-plan")
                try:
                    yield stream
                finally:
                    stream._leave(producer)
    finally:
        stream._drop()
