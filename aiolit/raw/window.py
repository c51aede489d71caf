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

_AT_ONCE = 64  # items that are fetched at the same time


class ItemWindow:
    """Fetches the items of some lanes ahead; lives on one loop.

    All lanes are kept equally far ahead. What the reader asks for is fetched next, whether or not
    there is room: so no lane can wait for another, and memory holds at most the budget and what
    the reader has asked for.

    A bounded number of workers fetches, each one item after the other. A task for each item ahead
    would be begun by the hundred, and so many objects made at once set the garbage collector off,
    which took a third of the time.

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
        self._ahead: list[deque[tuple[int, asyncio.Future[Any]]]] = [deque() for _ in lanes]
        # Whose turn it is to be fetched: what the reader waits for, then what it will ask for.
        self._urgent: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self._coming: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self._workers = 0
        self._group = asyncio.TaskGroup()
        self._open, self._ended = asyncio.Event(), asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[object] | None = None

    async def run(self) -> None:
        """Own the fetches; ends when it is cancelled, and they with it."""
        self._task = asyncio.current_task()
        try:
            async with self._group:
                self._fill()
                self._open.set()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self._ending = True
        finally:
            for lane in self._ahead:
                for nbytes, _ in lane:
                    self._budget.release(nbytes)
                lane.clear()
            for _, found in (*self._urgent, *self._coming):
                found.cancel()
            self._open.set()
            self._ended.set()

    async def take(self, lane: int, count: int) -> list[Any]:
        """Return the next items of a lane.

        Raises:
            Exception: What the fetch of the first failing one of them raised; failures further
                ahead wait for their turn.
        """
        await self._open.wait()
        ahead, found = self._ahead[lane], []
        first = self._begun[lane] - len(ahead)
        for _ in range(count):
            if ahead:
                nbytes, outcome = ahead.popleft()
                self._budget.release(nbytes)
            else:
                outcome = self._queue(lane, self._urgent)
            found.append(outcome)
        self._fill()
        pending = [outcome for outcome in found if not outcome.done()]
        if pending:
            await asyncio.wait(pending)  # woken once, not by each
        outcomes = [outcome.result() for outcome in found]
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
            self._ahead[lane].append((nbytes, self._queue(lane, self._coming)))

    def _queue(
        self, lane: int, line: deque[tuple[int, asyncio.Future[Any]]]
    ) -> asyncio.Future[Any]:
        """Have the next item of a lane fetched, and return what will hold it."""
        item = int(self._lanes[lane][self._begun[lane]])
        self._begun[lane] += 1
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        line.append((item, found))
        if self._workers < _AT_ONCE:
            self._workers += 1
            self._group.create_task(self._work(), name="raw-files")
        return found

    async def _work(self) -> None:
        """Fetch what is queued, as long as there is something."""
        # A fetch that fails in the moment in which it is cancelled may end with its failure.
        while not self._ending and (line := self._urgent or self._coming):
            item, found = line.popleft()
            try:
                outcome = await self._fetch(item)
            except Exception as error:  # noqa: BLE001  (handed to the reader of this item alone)
                outcome = Failed(error)
            except BaseException:
                found.cancel()
                raise
            if not found.done():  # a reader that was cancelled takes nothing any more
                found.set_result(outcome)
        self._workers -= 1


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
