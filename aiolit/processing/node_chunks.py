"""On a node: samples become chunks, of which the head is told in the order of the samples."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from aiolit.format.dataset_info import ChunkInfo, DatasetConfig
from aiolit.processing.collector import Arrival
from aiolit.processing.job import sample_sink
from aiolit.processing.journal import Covered
from aiolit.processing.protocol import Piece, Remainder, Schema
from aiolit.processing.reports import ChunkStored, Drained, NodeReport
from aiolit.processing.summary import SkippedInput
from aiolit.processing.target import Target
from aiolit.processing.writer import DatasetWriter
from aiolit.store.base import Store

__all__ = ["ChunkFlow", "NodeTarget"]


class NodeTarget(Target):
    """Tells the head of each chunk that is in place.

    Args:
        store: Where chunks go.
        config: What the index will say of them.
        rank: The number of the node.
        first_number: The number of its first chunk.
        report: Tells the head.
        fetched: Waits until the head has a file, where it fetches them.

    Attributes:
        skips: Index of an input to how many of its samples others have stored.
        num_told: How many chunks the head was told of.
        on_told: Called when it was told of one.
    """

    def __init__(
        self,
        store: Store,
        config: DatasetConfig,
        *,
        rank: int,
        first_number: int,
        report: Callable[[NodeReport], None],
        fetched: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__(store, config, mode=None, rank=rank, first_number=first_number)
        self._report = report
        self._fetched = fetched
        self._waiting: dict[int, ChunkStored] = {}
        self.skips: dict[int, int] = {}
        self.num_told = 0
        self.on_told: Callable[[], None] = lambda: None

    async def stored(
        self,
        position: int,
        chunk: ChunkInfo,
        covered: Covered,
        *,
        stored_nbytes: int,
        skipped: Iterable[SkippedInput] = (),
    ) -> None:
        """Tell the head of a chunk, once those before it are in place too."""
        skips = self.skips
        partial = {index: n + skips.get(index, 0) for index, n in covered.partial.items()}
        covered = replace(covered, partial=partial)
        self._waiting[position] = ChunkStored(chunk, covered, stored_nbytes)
        while (told := self._waiting.pop(self.num_told, None)) is not None:
            self.num_told += 1
            self._report(told)
        await self._fetched(chunk.filename)
        self.on_told()


class ChunkFlow:
    """What the workers of a node made, on its way into chunks.

    A chunk ends where the inputs stop being consecutive: so the chunks of all nodes can be put in
    the order of the inputs.
    """

    def __init__(
        self,
        writer: DatasetWriter,
        target: NodeTarget,
        *,
        ordered: bool,
        ask: Callable[[Schema], Awaitable[Schema]],
        report: Callable[[NodeReport], None],
    ) -> None:
        self._writer = writer
        self._target = target
        self._ordered = ordered
        self._ask = ask
        self._report = report
        self._write = sample_sink(writer)
        self._given: list[tuple[int, int]] = []
        self._borders: set[int] = set()
        self._left = 0
        self._next = 0
        self._draining = False
        self._flushed = False
        self._turn = asyncio.Lock()
        target.on_told = self._tell_drained

    def given(self, first: int, num_inputs: int, skip: int) -> None:
        """Take note of inputs that were given to the node."""
        self._given.append((first, first + num_inputs))
        self._left += num_inputs
        if skip:
            self._target.skips[first] = skip
        if self._ordered and (skip or first != self._next):
            self._borders.add(first)
        self._next = first + num_inputs

    async def take(self, arrival: Arrival, piece: Piece) -> None:
        """Take a piece, whose turn it is."""
        async with self._turn:
            if arrival.first in self._borders:
                self._borders.remove(arrival.first)
                await self._writer.flush()
                # The next chunk begins with the input behind the border.
                self._report(Drained(self._writer.cover_rest()))
            if self._target.schema is None and arrival.schema is not None and len(piece.sizes):
                self._target.agree(await self._ask(arrival.schema), source="another node")
            await self._write(arrival, piece)
            meta = arrival.meta
            self._left -= Remainder().after(meta.counts, complete=meta.complete).inputs
            await self._flush_if_drained()

    async def drain(self) -> None:
        """Have the head told, by `Drained`, when everything given is in place."""
        async with self._turn:
            self._draining = True
            await self._flush_if_drained()

    async def _flush_if_drained(self) -> None:
        if self._draining and not self._left:
            self._draining = False
            await self._writer.flush()
            self._flushed = True
            self._tell_drained()

    def _tell_drained(self) -> None:
        if self._flushed and self._target.num_told == self._writer.num_sealed:
            self._flushed = False
            given, self._given = self._given, []
            self._report(Drained(Covered(done=tuple(given))))
