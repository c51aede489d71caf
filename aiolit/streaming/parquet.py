"""Getting the bytes of Parquet files: footers, then only the row groups and columns wanted."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from aiolit.cache.base import ChunkHolder, Leased, close_lease
from aiolit.format.dataset_info import ChunkInfo, Index
from aiolit.format.loader import SampleReader
from aiolit.format.parquet import (
    END_NBYTES,
    ParquetBound,
    ParquetFooter,
    footer_nbytes,
)
from aiolit.groups import single_error
from aiolit.plan.coalesce import coalesce, split
from aiolit.plan.stream import Piece
from aiolit.runtime.blocking import in_thread
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.streaming.counting import Reading
from aiolit.streaming.fetch import ChunkFetcher
from aiolit.streaming.held import Held

Spans = list[tuple[int, int]]

_GAP_BYTES = 64 << 10  # bytes fetched for nothing rather than asking twice
_PART_BYTES = 8 << 20  # row groups are fetched in parallel parts of this size
_FOOTERS = 256  # parsed footers that are kept


class ParquetFetcher(ChunkFetcher):
    """Fetches row groups of Parquet files, through the cache where there is one.

    A file's footer and each row group's wanted columns are files of their own in the cache. What
    has no room there is held in memory while it is read.
    """

    def __init__(
        self, store: Store, index: Index, loader: ParquetBound, cache: ChunkHolder, stats: Counters
    ) -> None:
        super().__init__(store, index, loader, cache, stats)
        self._parquet = loader
        self._footers: OrderedDict[int, ParquetFooter] = OrderedDict()
        self._asking: dict[int, asyncio.Lock] = {}
        self._etags: dict[int, str | None] = {}
        wanted = "\0".join(loader.columns or ())
        self._tag = hashlib.sha256(wanted.encode()).hexdigest()[:8] if loader.columns else "all"

    async def open_piece(self, piece: Piece) -> Held | None:
        """Open a piece; None where the cache has no room for its row groups now."""
        rows = range(piece.start, piece.stop) if piece.samples is None else piece.samples
        return await self._open(piece.chunk, rows, keep=True)

    async def open_samples(
        self, numbers: Sequence[int], samples: Sequence[int]
    ) -> tuple[list[SampleReader], list[Held]]:
        """Open single rows: the row groups they are in, all of them at once."""
        wanted: dict[int, list[int]] = {}
        for number, sample in zip(numbers, samples, strict=True):
            wanted.setdefault(number, []).append(sample)
        found: dict[int, Held] = {}

        async def open_rows(number: int, rows: list[int]) -> None:
            held = await self._open(number, sorted(set(rows)), keep=False)
            assert held is not None
            found[number] = held

        try:
            with single_error():
                async with asyncio.TaskGroup() as group:
                    for number, rows in wanted.items():
                        group.create_task(open_rows(number, rows))
        except BaseException:
            for held in found.values():
                held.close()
            raise
        return [found[number].reader for number in numbers], list(found.values())

    async def _open(self, number: int, rows: Sequence[int], *, keep: bool) -> Held | None:
        """Open the row groups of some rows of a file.

        With ``keep``, None says that the cache has no room for one of them.
        """
        chunk = self._index.chunks[number]
        footer = await self._footer(number, chunk)
        spans = {group: _spans(footer, group) for group in _groups(footer, rows)}
        data: dict[int, memoryview] = {}
        reader = self._parquet.reader(footer, lambda group: _extents(spans[group], data[group]))
        leases: list[Leased] = []

        def release(spent: bool) -> None:
            for lease in leases:
                lease.close(spent=spent)

        async def open_group(group: int) -> None:
            found = await self._group(number, group, spans[group], keep=keep)
            if isinstance(found, memoryview):
                data[group] = found
            elif found is not None:
                leases.append(found)
                data[group] = found.data

        missing = [group for group in spans if not reader.pin(group)]
        try:
            with single_error():
                async with asyncio.TaskGroup() as tasks:
                    for group in missing:
                        tasks.create_task(open_group(group))
        except BaseException:
            release(False)
            raise
        if len(data) < len(missing):
            release(False)
            return None
        return Held(reader, release)

    async def _group(
        self, number: int, group: int, spans: Spans, *, keep: bool
    ) -> Leased | memoryview | None:
        """Return the bytes of a row group from the cache, or those that have no room there."""
        chunk = self._index.chunks[number]

        async def fill(target: memoryview) -> None:
            await self._read_spans(number, chunk.filename, spans, target)

        nbytes = sum(stop - start for start, stop in spans)
        name = f"{chunk.filename}.{self._tag}.{group}"
        found = await self._cache.get(name, nbytes, fill)
        if found is not None:
            self._count(fetched=found[1])
            return found[0]
        if keep:
            return None
        data = memoryview(bytearray(nbytes))
        await fill(data)
        return data

    async def _read_spans(self, number: int, key: str, spans: Spans, target: memoryview) -> None:
        """Fill a buffer with pieces of one version of a file, in parallel."""
        etag, at = self._etags.get(number), 0
        tasks = []
        with single_error():
            async with asyncio.TaskGroup() as group:
                for start, stop in spans:
                    for lo, hi in split(start, stop, _PART_BYTES):
                        part = target[at : at + hi - lo]
                        at += hi - lo
                        tasks.append(group.create_task(self._read_span(key, lo, part, etag)))
        self._stats.bytes_fetched += len(target)
        self._stats.requests += len(tasks)

    async def _read_span(
        self, key: str, start: int, out: memoryview, etag: str | None
    ) -> str | None:
        with Reading(self._stats, key, len(out)):
            return await self._store.read_into(key, start, out, etag=etag)

    async def _footer(self, number: int, chunk: ChunkInfo) -> ParquetFooter:
        """Return a file's footer, fetched once for all who ask."""
        async with self._asking.setdefault(number, asyncio.Lock()):
            footer = self._footers.get(number)
            if footer is None:
                tail, url = memoryview(await self._tail(number, chunk)), self._url(chunk)
                parse = partial(self._parquet.footer, tail, chunk.nbytes, chunk, url)
                footer = self._footers[number] = await in_thread(parse)
            self._footers.move_to_end(number)
            while len(self._footers) > _FOOTERS:
                dropped = self._footers.popitem(last=False)[0]
                self._asking.pop(dropped, None)
            return footer

    async def _tail(self, number: int, chunk: ChunkInfo) -> bytes:
        """Return the bytes of a file's footer, from the cache if it is there."""
        name, size = f"{chunk.filename}.footer", chunk.nbytes
        lease = await in_thread(partial(self._cache.lookup, name), close_lease)
        if lease is not None:
            tail = bytes(lease.data)
            lease.close()
            return tail
        tail = await self._read_end(number, chunk, self._parquet.footer_guess(chunk), b"")
        need = footer_nbytes(tail[-END_NBYTES:], size, self._url(chunk))
        if need > len(tail):
            tail = await self._read_end(number, chunk, need, tail)
        tail = tail[-need:]

        async def fill(target: memoryview) -> None:
            target[:] = tail

        found = await self._cache.get(name, need, fill)
        if found is not None:
            found[0].close()
        return tail

    async def _read_end(self, number: int, chunk: ChunkInfo, nbytes: int, there: bytes) -> bytes:
        """Return the last bytes of a file, of which some may be there already."""
        out = bytearray(nbytes - len(there))
        key, start = chunk.filename, chunk.nbytes - nbytes
        etag = await self._read_span(key, start, memoryview(out), self._etags.get(number))
        self._etags[number] = etag
        self._stats.bytes_fetched += len(out)
        self._stats.requests += 1
        return bytes(out) + there


def _groups(footer: ParquetFooter, rows: Sequence[int]) -> list[int]:
    if isinstance(rows, range):
        return list(footer.groups(rows.start, rows.stop))
    return sorted({footer.group_of(row) for row in rows})


def _spans(footer: ParquetFooter, group: int) -> Spans:
    """Return what to fetch of a row group: neighbouring columns together."""
    merged = coalesce(footer.ranges(group), max_gap=_GAP_BYTES, max_bytes=1 << 62)
    return [(span.start, span.end) for span in merged]


def _extents(spans: Spans, data: memoryview) -> list[tuple[int, memoryview]]:
    found, at = [], 0
    for start, stop in spans:
        found.append((start, data[at : at + stop - start]))
        at += stop - start
    return found
