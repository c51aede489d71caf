"""Where inputs come from: sequences, iterables, async iterables and queues, all taken in blocks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

from aiolit.errors import ProducerError
from aiolit.processing.sentinel import ALL_DONE
from aiolit.runtime.blocking import in_own_thread

__all__ = [
    "AsyncQueueSource",
    "AsyncSource",
    "Batched",
    "FeedSource",
    "InputSource",
    "Limited",
    "SequenceSource",
    "ThreadSource",
    "Timed",
    "pull_blocks",
    "take_all",
]

_PULL_S = 0.02
_PULL_INPUTS = 1024
_TAKE_INPUTS = 8192


class InputSource(ABC):
    """Inputs in order, taken by one task.

    Attributes:
        total: How many there are, or None where nobody knows.
    """

    total: int | None = None

    @abstractmethod
    async def take(self, most: int) -> Sequence[Any]:
        """Return the next inputs, at least one and at most ``most``; none at the end."""

    def completed(self, inputs: Sequence[Any]) -> None:
        """Take note that these inputs need no more work."""
        return

    async def close(self) -> None:
        """Let go of what the source holds; further inputs are not wanted."""
        return


class SequenceSource(InputSource):
    """The items of a list, tuple or range."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items
        self._next = 0
        self.total = len(items)

    async def take(self, most: int) -> Sequence[Any]:
        block = self._items[self._next : self._next + most]
        self._next += len(block)
        return block


class AsyncSource(InputSource):
    """The items of an async iterable, which runs on the loop of the job."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        self._items: AsyncIterator[Any] = aiter(items)

    async def take(self, most: int) -> Sequence[Any]:
        try:
            return [await anext(self._items)]
        except StopAsyncIteration:
            return []

    async def close(self) -> None:
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()


class AsyncQueueSource(InputSource):
    """What is put into an ``asyncio.Queue`` of this loop, up to `ALL_DONE`."""

    def __init__(self, queue: asyncio.Queue[Any]) -> None:
        self._queue = queue
        self._ended = False

    async def take(self, most: int) -> Sequence[Any]:
        if self._ended:
            return []
        block = [await self._queue.get()]
        while block[-1] is not ALL_DONE and len(block) < most and not self._queue.empty():
            block.append(self._queue.get_nowait())
        if block[-1] is ALL_DONE:
            self._ended = True
            block.pop()
        return block


class FeedSource(InputSource):
    """Inputs that another thread brings in blocks, through `put` and `end`, on the job's loop."""

    def __init__(self, *, total: int | None = None) -> None:
        self.total = total
        self._waiting: deque[Any] = deque()
        self._changed = asyncio.Condition()
        self._ended = False
        self._closed = False

    async def put(self, block: Sequence[Any]) -> bool:
        """Bring inputs; waits while earlier ones wait. False: no more are wanted."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or not self._waiting)
            self._waiting.extend(block)
            self._changed.notify_all()
            return not self._closed

    async def end(self) -> None:
        """Say that there are no more."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def take(self, most: int) -> Sequence[Any]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or self._waiting)
            block = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            if not self._waiting:
                self._changed.notify_all()
            return block

    async def close(self) -> None:
        async with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()


class ThreadSource(InputSource):
    """Blocks of inputs that are pulled in a thread, one block at a time.

    A cancelled `take` leaves the thread to the block it is waiting for.
    """

    def __init__(self, blocks: Iterator[Sequence[Any]], *, total: int | None = None) -> None:
        self.total = total
        self._blocks = blocks
        self._waiting: deque[Any] = deque()

    async def take(self, most: int) -> Sequence[Any]:
        if not self._waiting:
            self._waiting.extend(await in_own_thread(self._next, lambda _: None))
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _next(self) -> Sequence[Any]:
        return next(self._blocks, ())


class Limited(InputSource):
    """The first ``most`` inputs of a source."""

    def __init__(self, source: InputSource, most: int) -> None:
        self._source = source
        self._left = most
        self.total = most if source.total is None else min(most, source.total)

    async def take(self, most: int) -> Sequence[Any]:
        if not self._left:
            return []
        block = await self._source.take(min(most, self._left))
        self._left -= len(block)
        return block

    async def close(self) -> None:
        await self._source.close()


class Batched(InputSource):
    """Inputs in lists of ``size``; the last may be shorter."""

    def __init__(self, source: InputSource, size: int) -> None:
        self._source = source
        self._size = size
        self.total = None if source.total is None else -(-source.total // size)

    async def take(self, most: int) -> Sequence[Any]:
        batches: list[list[Any]] = []
        while len(batches) < most:
            batch: list[Any] = []
            while len(batch) < self._size:
                block = await self._source.take(self._size - len(batch))
                if not block:
                    break
                batch.extend(block)
            if batch:
                batches.append(batch)
            if len(batch) < self._size or self.total is None:
                break
        return batches

    async def close(self) -> None:
        await self._source.close()


class Timed(InputSource):
    """A source whose silence has a limit."""

    def __init__(self, source: InputSource, timeout_s: float) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self.total = source.total

    async def take(self, most: int) -> Sequence[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._source.take(most)
        except TimeoutError as error:
            raise ProducerError(
                f"no input came for {self._timeout_s:g} seconds and the source did not say that "
                "it was done"
            ) from error

    async def close(self) -> None:
        await self._source.close()


async def take_all(source: InputSource) -> list[Any]:
    """Return all inputs of a source that has few enough of them."""
    items: list[Any] = []
    while block := await source.take(_TAKE_INPUTS):
        items.extend(block)
    return items


def pull_blocks(
    items: Iterable[Any], *, clock: Callable[[], float] = perf_counter
) -> Iterator[list[Any]]:
    """Yield the items in blocks, each of what comes within about 20 ms."""
    block: list[Any] = []
    began = clock()
    for item in items:
        block.append(item)
        if len(block) >= _PULL_INPUTS or clock() - began >= _PULL_S:
            yield block
            block, began = [], clock()
    if block:
        yield block
