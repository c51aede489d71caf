"""Results of all workers, put in order within bounds of memory and disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiolit.processing.protocol import Piece, PieceMeta, Schema, split_piece
from aiolit.processing.reassembly import Reassembly
from aiolit.processing.spool import Slot, Spool

__all__ = ["Arrival", "Collector", "Sink"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A piece as it came from a worker.

    Attributes:
        first: Index of the first input it has samples of.
        meta: What it says about itself.
        schema: The tree of its samples; None only where it has none.
        source: Names the worker and the inputs in messages.
    """

    first: int
    meta: PieceMeta
    schema: Schema | None
    source: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A piece on the way to the sink, waiting in memory (and counted), or in the spool."""

    arrival: Arrival
    piece: Piece | Slot
    counted: int = 0


Sink = Callable[[Arrival, Piece], Awaitable[None]]


class Collector:
    """Hands pieces to a sink in their order.

    A piece whose turn it is goes to the sink at once, and its reader waits as long as the sink
    does. Others wait in memory up to ``memory_bytes``, then in the spool. While the spool holds
    ``spool_bytes`` too, no new run is handed out, and readers wait whose worker does not have the
    run that is next: so what waits is bounded, and the next run always goes on.

    Attributes:
        peak_memory: The most bytes that have waited in memory at once.
    """

    def __init__(
        self,
        sink: Sink,
        spool: Spool,
        *,
        ordered: bool,
        memory_bytes: int,
        spool_bytes: int,
    ) -> None:
        self._sink = sink
        self._spool = spool
        self._reassembly: Reassembly[_Held] = Reassembly(ordered=ordered)
        self._memory_bytes = memory_bytes
        self._spool_bytes = spool_bytes
        self._memory = 0
        self.peak_memory = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()

    @property
    def has_room(self) -> bool:
        """Whether further results may be waited for."""
        return self._spool.used < self._spool_bytes

    @property
    def head(self) -> int:
        """The number of the run whose turn it is."""
        return self._reassembly.head

    async def room(self, may_go_on: Callable[[], bool]) -> None:
        """Wait until there is room, or until ``may_go_on`` says that it is needed now."""
        if self.has_room or may_go_on():
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self.has_room or may_go_on())

    async def add(self, arrival: Arrival, piece: Piece) -> None:
        """Take a piece; returns when the sink has it, or when it waits for its turn."""
        run = arrival.meta.run
        held = _Held(arrival, piece)
        if not self._reassembly.streams(run):
            held = await self._shelve(held, piece)
        if not self._reassembly.streams(run):
            self._reassembly.add(run, held)
            if arrival.meta.ended:
                self._reassembly.end(run)
            return
        async with self._turn:
            await self._deliver(self._reassembly.add(run, held))
            if arrival.meta.ended:
                ready = self._reassembly.end(run)
                await self._announce()
                await self._deliver(ready)

    async def _shelve(self, held: _Held, piece: Piece) -> _Held:
        if self._memory + piece.nbytes <= self._memory_bytes:
            self._memory += piece.nbytes
            self.peak_memory = max(self.peak_memory, self._memory)
            return _Held(held.arrival, piece, counted=piece.nbytes)
        return _Held(held.arrival, await self._spool.put(held.arrival.meta.run, piece.parts()))

    async def _deliver(self, pieces: list[_Held]) -> None:
        for held in pieces:
            piece = held.piece
            if isinstance(piece, Slot):
                piece = split_piece(held.arrival.meta, await self._spool.take(piece))
                await self._announce()
            self._memory -= held.counted
            await self._sink(held.arrival, piece)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()
