"""Opening the pieces of a worker ahead of whoever reads them, within a byte budget.

The loop takes pieces in fetching order and keeps going while their reader decodes: a sliding
window, without barriers. A reading thread crosses the bridge once for a piece that is not there
yet, and once to let finished pieces go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence

from aiolit.plan.stream import Piece
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import Portal
from aiolit.streaming.held import Held

Open = Callable[[Piece], Coroutine[None, None, Held | None]]


class PieceWindow:
    """Opens pieces in order; lives on one loop.

    Args:
        pieces: What to open, in order.
        nbytes: The bytes of each piece.
        opens: Opens one; None says that its samples must be read by range.
        budget: Bounds the bytes of pieces that are open or being fetched.
        most: How many pieces may be open or being fetched at once.
    """

    def __init__(
        self, pieces: Sequence[Piece], nbytes: list[int], opens: Open, budget: ByteBudget, most: int
    ) -> None:
        self._opens, self._budget = opens, budget
        self._pieces, self._nbytes, self._most = pieces, nbytes, most
        self.ready: dict[int, Held | None] = {}
        self._failed: dict[int, Exception] = {}
        self._held: dict[int, int] = {}
        self._finished: set[int] = set()
        self._of_chunk = Counter(piece.chunk for piece in pieces)
        self._admitted = 0
        self._changed = asyncio.Event()
        self._stuck = self._closed = self._ended = False
        self._task: asyncio.Task[object] | None = None

    @property
    def ahead(self) -> tuple[int, int]:
        """How many pieces are open or on their way, and their bytes."""
        pieces = self._held.keys() | self.ready.keys()
        return len(pieces), sum(self._nbytes[piece] for piece in pieces)

    async def run(self) -> None:
        """Open all pieces, each as soon as there is room; ends when cancelled or done."""
        self._task = asyncio.current_task()
        if self._closed:  # before it began
            self._ended = True
            self._wake()
            return
        try:
            async with asyncio.TaskGroup() as group:
                for piece in range(len(self._pieces)):
                    await self._admit(piece)
                    if piece not in self._finished:
                        group.create_task(self._fetch(piece), name=f"piece-{piece}")
        finally:
            for nbytes in self._held.values():
                self._budget.release(nbytes)
            self._held.clear()
            self._ended = True
            self._wake()

    async def wait(self, piece: int) -> Held | None:
        """Return an open piece; waits while it is on its way.

        Returns:
            None where it cannot be opened now, because what is open already fills the budget or
            the cache: its samples must be read by range.

        Raises:
            AiolitError: It could not be fetched. Other pieces are not concerned.
        """
        while piece not in self.ready and piece not in self._failed and not self._ended:
            if piece >= self._admitted and self._stuck:
                return None
            await self._changed.wait()
        if piece in self._failed:
            raise self._failed[piece]
        return self.ready.get(piece)

    def release(self, pieces: Iterable[int]) -> None:
        """Give back the room of pieces that are not read again, and close those still open."""
        for piece in pieces:
            chunk = self._pieces[piece].chunk
            if piece not in self._finished:
                self._finished.add(piece)
                self._of_chunk[chunk] -= 1
            held = self.ready.pop(piece, None)
            if held is not None:  # a chunk is used up once all of its pieces are
                held.close(spent=not held.whole or not self._of_chunk[chunk])
            if piece in self._held:
                self._budget.release(self._held.pop(piece))
        self._wake()

    def cancel(self) -> None:
        """Ask ``run`` to end, and close what is open."""
        if self._task is not None:
            self._task.cancel()
        self.close_all()

    async def stop(self) -> None:
        """Cancel ``run``, wait for its end, and close what is open."""
        self.cancel()
        while not self._ended:
            await self._changed.wait()

    def close_all(self) -> None:
        """Close what is open, and what still arrives."""
        self._closed = True
        while self.ready:
            held = self.ready.popitem()[1]
            if held is not None:
                held.close()

    async def _admit(self, piece: int) -> None:
        """Wait until there is room for the piece, or nobody wants it any more."""
        nbytes = min(self._nbytes[piece], self._budget.limit)
        while piece not in self._finished:
            if len(self._held) < self._most and self._budget.try_acquire(nbytes):
                self._held[piece] = nbytes
                break
            # The reader must not wait for a piece that waits for the reader: it reads by range.
            self._stuck = True
            self._wake()
            if self._held:
                await self._changed.wait()
            else:  # others hold the whole budget, and give it back without our doing
                await self._budget.acquire(nbytes)
                self._held[piece] = nbytes
                break
        self._stuck = False
        self._admitted = piece + 1

    async def _fetch(self, piece: int) -> None:
        try:
            held = await self._opens(self._pieces[piece])
        except Exception as error:  # noqa: BLE001  (handed to the reader of this piece alone)
            self._failed[piece] = error
        else:
            if self._closed or piece in self._finished:
                if held is not None:
                    held.close()
            else:
                self.ready[piece] = held
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class PieceFeed:
    """A ``PieceWindow`` on the portal's loop, for a thread that reads."""

    def __init__(self, portal: Portal, make: Callable[[], PieceWindow]) -> None:
        self._portal = portal
        self._window: PieceWindow = portal.call(_made, make)
        portal.submit(self._window.run)

    def get(self, piece: int) -> Held | None:
        """Return an open piece; waits while it is on its way. See ``PieceWindow.wait``."""
        ready = self._window.ready
        if piece in ready:
            return ready[piece]
        return self._portal.call(self._window.wait, piece)

    @property
    def ahead(self) -> tuple[int, int]:
        """How many pieces are open or on their way, and their bytes."""
        return self._window.ahead

    def is_ready(self, piece: int) -> bool:
        """Whether a piece is open now."""
        return self._window.ready.get(piece) is not None

    def finish(self, pieces: Iterable[int]) -> None:
        """Let the loop close pieces that are not read again and fetch others in their place."""
        self._portal.loop.call_soon_threadsafe(self._window.release, list(pieces))

    def close(self) -> None:
        """Have the loop cancel what is on its way and close what is open; does not wait for it.

        A dropped iterator ends here too, and the garbage collector drops iterators in any thread,
        at any allocation, also under a lock that the loop needs: whoever waited here could wait
        for ever.
        """
        if self._portal.closed:
            self._window.close_all()
        else:
            self._portal.loop.call_soon_threadsafe(self._window.cancel)


async def _made(make: Callable[[], PieceWindow]) -> PieceWindow:
    return make()
