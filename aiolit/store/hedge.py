"""A second request for a read that has stalled; the first to bring a byte is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiolit.errors import StoreError
from aiolit.groups import single_error

Progress = Callable[[int], None]


class HedgedRead:
    """One attempt at a read, with at most two requests at once.

    Both requests write to the same buffer, but never both: whoever brings the first byte after
    the second has begun cancels the other in the same step of the loop.

    Args:
        read: Reads the rest, from the byte reached; reports to the callback it is given.
        advance: Notes new bytes.
        after_s: How long without a byte before the second request, in seconds.
        clock: Seconds, monotonic.
        sleep: Waits for some seconds.
        on_hedge: Called when a second request begins.
    """

    def __init__(
        self,
        read: Callable[[Progress], Awaitable[str | None]],
        advance: Progress,
        after_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        on_hedge: Callable[[], None] | None = None,
    ) -> None:
        self._read, self._advance, self._after_s = read, advance, after_s
        self._clock, self._sleep, self._on_hedge = clock, sleep, on_hedge
        self._last_byte = clock()
        self._running: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._errors: list[StoreError] = []
        self._etag: str | None = None
        self._succeeded = False

    async def run(self) -> str | None:
        """Read to the end and return the etag.

        Raises:
            StoreError: Of the request that failed last, when all have failed.
        """
        with single_error():
            async with asyncio.TaskGroup() as group:
                self._start(group)
                self._watch = group.create_task(self._start_when_stalled(group))
        if not self._succeeded:
            raise self._errors[-1]
        return self._etag

    def _start(self, group: asyncio.TaskGroup) -> None:
        self._running.add(group.create_task(self._contend()))

    async def _contend(self) -> None:
        me = asyncio.current_task()
        assert me is not None

        def progress(count: int) -> None:
            self._cancel_others(me)
            self._last_byte = self._clock()
            self._advance(count)

        try:
            self._etag = await self._read(progress)
        except StoreError as error:
            self._errors.append(error)
        else:
            self._succeeded = True
            self._cancel_others(me)
        finally:
            self._running.discard(me)
            if not self._running and self._watch is not None:
                self._watch.cancel()

    def _cancel_others(self, me: asyncio.Task[None]) -> None:
        for task in self._running - {me} if len(self._running) > 1 else ():
            task.cancel()
            self._running.discard(task)

    async def _start_when_stalled(self, group: asyncio.TaskGroup) -> None:
        while self._running:
            left_s = self._last_byte + self._after_s - self._clock()
            if left_s > 0:
                await self._sleep(left_s)
            elif len(self._running) == 1:
                if self._on_hedge is not None:
                    self._on_hedge()
                self._start(group)
                self._last_byte = self._clock()
            else:
                await self._sleep(self._after_s)
