"""Fetching the items of a reader ahead of it, within a byte budget."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aiolit.plan.runs import Ints
from aiolit.raw.skips import Failed, Fetch, Skips, checked
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import Portal


class ItemWindow:
    """Fetches the items of some lanes ahead; lives on one loop.

    All lanes are kept equally far ahead. What the reader asks for is fetched at once, whether or
    not there is room: so no lane can wait for another, and memory holds at most the budget and
    what the reader has asked for.

    Args:
        fetch: Fetches one item.
        lanes: The items of each lane, in order.
        nbytes: The bytes of each item of the data set.
        budget: Bounds the bytes of items that are on their way, or there, ahead of the reader.
        most: How many items may be ahead of the reader, however small they are.
        skips: Replaces items that cannot be fetched; None lets them fail.
    """

    def __init__(
        self,
        fetch: Fetch,
        lanes: Sequence[Ints],
        nbytes: Ints,
        budget: ByteBudget,
        most: int,
        skips: Skips | None = None,
    ) -> None:
        self._fetch, self._lanes, self._nbytes = fetch, lanes, nbytes
        self._budget, self._most, self._skips = budget, most, skips
        self._begun = [0] * len(lanes)
        self._ahead: list[deque[tuple[int, asyncio.Task[Any]]]] = [deque() for _ in lanes]
        self._group = asyncio.TaskGroup()
        self._open, self._ended = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[object] | None = None

    async def run(self) -> None:
        """Own the fetches; ends when it is cancelled, and they with it."""
        self._task = asyncio.current_task()
        try:
            async with self._group:
                self._fill()
                self._open.set()
                await asyncio.get_running_loop().create_future()
        finally:
            for lane in self._ahead:
                for nbytes, _ in lane:
                    self._budget.release(nbytes)
                lane.clear()
            self._open.set()
            self._ended.set()

    async def take(self, lane: int, count: int) -> list[Any]:
        """Return the next items of a lane.

        Raises:
            Exception: What the fetch of the first failing one of them raised; failures further
                ahead wait for their turn.
        """
        await self._open.wait()
        ahead, tasks = self._ahead[lane], []
        first = self._begun[lane] - len(ahead)
        for _ in range(count):
            if ahead:
                nbytes, task = ahead.popleft()
                self._budget.release(nbytes)
            else:
                task = self._start(lane)
            tasks.append(task)
        self._fill()
        pending = [task for task in tasks if not task.done()]
        if pending:
            await asyncio.wait(pending)  # woken once, not by each
        outcomes = [task.result() for task in tasks]
        if self._skips is None:
            return checked(outcomes)
        items = self._lanes[lane][first : first + count].tolist()
        return await self._skips.fill(self._fetch, items, outcomes)

    @property
    def ahead(self) -> tuple[int, int]:
        """How many items are there, or on their way, ahead of the reader, and their bytes."""
        return sum(map(len, self._ahead)), self._budget.used

    def cancel(self) -> None:
        """Ask ``run`` to end."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel ``run`` and wait for its end."""
        await self._open.wait()
        self.cancel()
        await self._ended.wait()

    def _fill(self) -> None:
        """Begin fetches while there is room."""
        for _ in range(self._most - sum(map(len, self._ahead))):
            open_lanes = [
                lane for lane, items in enumerate(self._lanes) if self._begun[lane] < len(items)
            ]
            if not open_lanes:
                return
            lane = min(open_lanes, key=lambda one: len(self._ahead[one]))
            item = self._lanes[lane][self._begun[lane]]
            nbytes = min(int(self._nbytes[item]), self._budget.limit)
            if not self._budget.try_acquire(nbytes):
                return
            self._ahead[lane].append((nbytes, self._start(lane)))

    def _start(self, lane: int) -> asyncio.Task[Any]:
        item = int(self._lanes[lane][self._begun[lane]])
        self._begun[lane] += 1
        return self._group.create_task(self._outcome(item), name=f"item-{item}")

    async def _outcome(self, item: int) -> Any:
        try:
            return await self._fetch(item)
        except Exception as error:  # noqa: BLE001  (handed to the reader of this item alone)
            return Failed(error)


class ItemFeed:
    """An ``ItemWindow`` on the portal's loop, for a thread that reads."""

    def __init__(self, portal: Portal, make: Callable[[], ItemWindow]) -> None:
        self._portal = portal
        self._window: ItemWindow = portal.call(_made, make)
        portal.submit(self._window.run)

    def take(self, lane: int, count: int) -> list[Any]:
        """Return the next items of a lane; see ``ItemWindow.take``."""
        return self._portal.call(self._window.take, lane, count)

    @property
    def ahead(self) -> tuple[int, int]:
        """How many items are there, or on their way, ahead of the reader, and their bytes."""
        return self._window.ahead

    def close(self) -> None:
        """Have the loop cancel what is on its way; does not wait for it.

        The garbage collector drops iterators in any thread, also under a lock that the loop needs:
        whoever waited here could wait for ever.
        """
        if not self._portal.closed:
            self._portal.loop.call_soon_threadsafe(self._window.cancel)


async def _made(make: Callable[[], ItemWindow]) -> ItemWindow:
    return make()
