"""Getting the bytes of chunks: whole ones in parallel parts, some items by range, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np

from aiolit.cache.base import ChunkHolder, Fill, Leased, close_lease
from aiolit.cache.file_map import FileMap
from aiolit.errors import AiolitError, ObjectChangedError, ObjectNotFoundError
from aiolit.format.chunk import probe, range_readable, verify_chunk
from aiolit.format.compression import decompress_whole
from aiolit.format.dataset_info import (
    ChunkInfo,
    Index,
    is_whole_compressed,
    plain_name,
    stored_name,
    whole_file_codec,
)
from aiolit.format.loader import BoundLoader, SampleReader
from aiolit.groups import single_error
from aiolit.plan.coalesce import coalesce, cover, split
from aiolit.plan.link import LinkModel
from aiolit.plan.stream import Piece
from aiolit.runtime.blocking import in_thread
from aiolit.runtime.line import Line
from aiolit.runtime.stats import Counters
from aiolit.runtime.tracing import side_span
from aiolit.store.base import Store
from aiolit.streaming.counting import Reading
from aiolit.streaming.held import Held, PickReader, SplitReader, close_all
from aiolit.streaming.places import ChunkPlaces, Items, Place

_NOW = 0  # the turn of what somebody waits for
_SPARE_BYTES = 256 << 20  # pieces kept in memory where the cache has no room, by each process
_GAP_BYTES = 16 << 10  # bytes fetched for nothing rather than asking twice
_SPAN_BYTES = 8 << 20  # merged ranges do not grow beyond this


class ChunkFetcher:
    """Fetches the chunks of one data set from a store, through the cache where there is one.

    Its coroutines run on one loop. Cancelling any of them leaves no request, task, file or
    reservation behind.
    """

    def __init__(
        self, store: Store, index: Index, loader: BoundLoader, cache: ChunkHolder, stats: Counters
    ) -> None:
        self._store, self._index, self._loader = store, index, loader
        self._cache, self._stats = cache, stats
        self._places = ChunkPlaces(loader, self._url)
        self._ranged: dict[int, bool] = {}
        # Parts of the chunks needed first do not share the line with those needed much later.
        self._line = Line(LinkModel())
        self._turns = count(1)
        self._buffers: list[memoryview] = []  # of parts, to be used again
        self._spare = _SPARE_BYTES

    async def open_piece(self, piece: Piece) -> Held | None:
        """Open a piece, fetching what the cache does not hold.

        Where the cache has no room now, some pieces are kept in memory instead.

        Returns:
            None where that is full too, and the samples can be read by range.

        Raises:
            AiolitError: The chunk cannot be fetched, or its bytes are not what was written.
        """
        turn = next(self._turns)
        number, chunk = piece.chunk, self._index.chunks[piece.chunk]
        name = plain_name(chunk, self._index.config)
        if self._cache.holds(name) or not await self._by_range(number, chunk):
            return await self._open_whole(number, chunk, turn, spare=True)
        if piece.samples is not None:
            found = await self._open_some(number, sorted(set(piece.samples)))
            readers = {sample: held.reader for sample, held in found.items()}
            return Held(PickReader(readers), partial(close_all, list(found.values())))
        there = await in_thread(partial(self._cache.parts, name))
        if not there and piece.stop - piece.start == self._loader.num_samples(chunk):
            return await self._open_whole(number, chunk, turn, spare=True)
        return await self._open_part(chunk, piece.start, piece.stop, there, turn)

    async def open_samples(
        self, numbers: Sequence[int], samples: Sequence[int]
    ) -> tuple[list[SampleReader], list[Held]]:
        """Open single samples with as few requests as possible, all chunks at once.

        Returns:
            The reader of each sample, in the order asked for, and what to close afterwards.
        """
        wanted: dict[int, list[int]] = {}
        for number, sample in zip(numbers, samples, strict=True):
            wanted.setdefault(number, []).append(sample)
        found: dict[int, dict[int, Held]] = {}

        async def open_some(number: int, some: list[int]) -> None:
            found[number] = await self._open_some(number, some)

        try:
            with single_error():
                async with asyncio.TaskGroup() as group:
                    for number, some in wanted.items():
                        group.create_task(open_some(number, sorted(set(some))))
        except BaseException:
            close_all([one for ones in found.values() for one in ones.values()])
            raise
        held = {id(one): one for ones in found.values() for one in ones.values()}
        readers = [
            found[number][sample].reader for number, sample in zip(numbers, samples, strict=True)
        ]
        return readers, list(held.values())

    def slow_down(self) -> None:
        """Take note that the server asks for fewer requests."""
        self._line.model.throttled()

    async def _open_some(self, number: int, samples: list[int]) -> dict[int, Held]:
        chunk = self._index.chunks[number]
        name = plain_name(chunk, self._index.config)
        cached = self._cache.holds(name)
        if cached or not await self._by_range(number, chunk):
            whole = await self._open_whole(number, chunk, _NOW)
            if whole is not None:
                return dict.fromkeys(samples, whole)
        found: dict[int, Held] = {}
        try:
            units = {sample: self._places.unit(chunk, sample, sample + 1) for sample in samples}
            for first, stop in await in_thread(partial(self._cache.parts, name)):
                inside = [one for one, (lo, hi) in units.items() if first <= lo and hi <= stop]
                held = await self._open_extent(chunk, first, stop, _NOW) if inside else None
                if held is not None:
                    found.update(dict.fromkeys(inside, held))
                    for one in inside:
                        del units[one]
            if units:
                found.update(await self._fetch_some(chunk, units))
        except BaseException:
            close_all(list(found.values()))
            raise
        return found

    async def _fetch_some(
        self, chunk: ChunkInfo, units: Mapping[int, tuple[int, int]]
    ) -> dict[int, Held]:
        """Fetch samples by range, with as few requests as possible; ``units`` says which items
        each of them needs."""
        samples = list(units)
        groups = self._neighbours(chunk, list(units.values()))
        places = await self._locate_all(chunk, [(start, stop) for _, start, stop in groups])
        tasks: list[asyncio.Task[Items]] = []
        with single_error():
            async with asyncio.TaskGroup() as group:
                for (_, start, _), place in zip(groups, places, strict=True):
                    tasks.append(group.create_task(self._fetch_items(chunk, start, place)))
        found: dict[int, Held] = {}
        for (members, _, _), task in zip(groups, tasks, strict=True):
            held = Held(self._places.reader(chunk, task.result()))
            found.update((samples[member], held) for member in members)
        return found

    def _neighbours(
        self, chunk: ChunkInfo, units: list[tuple[int, int]]
    ) -> list[tuple[tuple[int, ...], int, int]]:
        """Group units whose bytes probably lie close together."""
        mean = max(1, chunk.nbytes // max(1, self._loader.num_samples(chunk)))
        spans = coalesce(
            [(start * mean, stop * mean) for start, stop in units],
            max_gap=_GAP_BYTES,
            max_bytes=_SPAN_BYTES,
        )
        return [(span.members, span.start // mean, span.end // mean) for span in spans]

    async def _by_range(self, number: int, chunk: ChunkInfo) -> bool:
        """Whether items of the chunk can be read without the rest of it."""
        if number not in self._ranged:
            known = range_readable(chunk, self._index.config)
            if known is None:
                name = stored_name(chunk, self._index.config)
                with single_error():
                    async with asyncio.TaskGroup() as group:
                        head = group.create_task(self._get(name, 0, min(8, chunk.nbytes)))
                        tail = group.create_task(
                            self._get(name, max(0, chunk.nbytes - 12), chunk.nbytes)
                        )
                known = probe(head.result(), tail.result())
            self._ranged[number] = known
        return self._ranged[number]

    async def _open_whole(
        self, number: int, chunk: ChunkInfo, turn: int, *, spare: bool = False
    ) -> Held | None:
        name = plain_name(chunk, self._index.config)
        fill = partial(self._fill_whole, chunk, turn)
        found = await self._cache.get(name, chunk.nbytes, fill)
        if found is None and spare:
            found = await self._in_memory(chunk.nbytes, fill)
        if found is None:
            if await self._by_range(number, chunk):
                return None
            # numpy takes memory and does not touch it: the declared size may be a lie.
            data = np.empty(chunk.nbytes, np.uint8).data
            await self._fill_whole(chunk, turn, data)
            return Held(self._loader.open(data, chunk, self._url(chunk)))
        lease, fetched = found
        self._count(fetched=fetched)
        with _closed_on_error(lease):
            reader = self._loader.open(lease.data, chunk, self._url(chunk))
        return Held(reader, lambda spent: lease.close(spent=spent), whole=True)

    async def _open_part(
        self, chunk: ChunkInfo, start: int, stop: int, there: list[tuple[int, int]], turn: int
    ) -> Held | None:
        """Open a part of a chunk from the parts the cache has, fetching only what is missing."""
        start, stop = self._places.unit(chunk, start, stop)
        starts: list[int] = []
        held: list[Held] = []
        try:
            for lo, hi, extent in cover(start, stop, there):
                part = await self._open_extent(chunk, *(extent or (lo, hi)), turn)
                if part is None:
                    close_all(held)
                    return None
                starts.append(lo)
                held.append(part)
        except BaseException:
            close_all(held)
            raise
        reader = SplitReader(starts, [part.reader for part in held])
        return Held(reader, partial(close_all, held))

    async def _open_extent(self, chunk: ChunkInfo, start: int, stop: int, turn: int) -> Held | None:
        """Open the items ``[start, stop)`` as one cached file: their borders, then their bytes."""
        config = self._index.config
        name = f"{plain_name(chunk, config)}.{start}-{stop}"
        lease = await in_thread(partial(self._cache.lookup, name), close_lease)
        self._count(fetched=lease is None)
        borders = self._places.borders(chunk, start, stop)
        table = 0 if borders is not None else 4 * (stop - start + 1)
        if lease is None:
            place = await self._locate(chunk, start, stop)

            async def fill(target: memoryview) -> None:
                key, etag = stored_name(chunk, config), place.etag
                with side_span("fetch", name, nbytes=len(target)):
                    await self._read_parts(key, place.base, target, turn, skip=table, etag=etag)
                place.check(target[table:], place.base)
                if place.offsets is not None:
                    target[:table] = place.offsets.astype("<u4").tobytes()

            nbytes = table + place.end - place.base
            found = await self._cache.get(name, nbytes, fill)
            found = found or await self._in_memory(nbytes, fill)
            if found is None:
                return None
            lease = found[0]
        with _closed_on_error(lease):
            offsets = None
            if borders is None:
                offsets = np.frombuffer(lease.data[:table], "<u4").astype(np.int64)
            base = int(offsets[0]) if offsets is not None else (borders or (0, 0))[0]
            reader = self._places.reader(chunk, Items(lease.data[table:], base, start, offsets))
        return Held(reader, lambda spent: lease.close(spent=spent))

    async def _in_memory(self, nbytes: int, fill: Fill) -> tuple[Leased, bool] | None:
        """Fetch into memory what the cache has no room for; None where that would be too much."""
        if nbytes > self._spare:
            return None
        lease = _Spare(self, nbytes)
        with _closed_on_error(lease):
            await fill(lease.data)
        return lease, True

    async def _locate(self, chunk: ChunkInfo, start: int, stop: int) -> Place:
        """Find out where the samples ``[start, stop)`` lie, and how their bytes are checked."""
        (found,) = await self._locate_all(chunk, [(start, stop)])
        return found

    async def _locate_all(self, chunk: ChunkInfo, ranges: Sequence[tuple[int, int]]) -> list[Place]:
        """Find several places at once: what says where they are lies close together."""
        tables = [self._places.table(chunk, start, stop) for start, stop in ranges]
        if tables and tables[0] is None:  # the index alone tells, for all of them
            return [self._places.place(chunk, start, stop, b"") for start, stop in ranges]
        key = stored_name(chunk, self._index.config)
        needed = [table for table in tables if table is not None]
        spans = coalesce(needed, max_gap=_GAP_BYTES, max_bytes=_SPAN_BYTES)
        with single_error():
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(self._read(key, span.start, span.end)) for span in spans]
        raw = [b""] * len(needed)
        for merged, read in zip(spans, reads, strict=True):
            for member in merged.members:
                low, high = needed[member]
                raw[member] = bytes(read.result()[0][low - merged.start : high - merged.start])
        (etag,) = self._one_version(key, {read.result()[1] for read in reads})
        return [
            replace(self._places.place(chunk, start, stop, one), etag=etag)
            for (start, stop), one in zip(ranges, raw, strict=True)
        ]

    async def _fetch_items(self, chunk: ChunkInfo, start: int, place: Place) -> Items:
        """Fetch a few items, from item ``start`` on, into memory."""
        key = stored_name(chunk, self._index.config)
        data, _ = await self._read(key, place.base, place.end, place.etag)
        place.check(data, place.base)
        return Items(data, place.base, start, place.offsets)

    async def _fill_whole(self, chunk: ChunkInfo, turn: int, target: memoryview) -> None:
        """Fetch a whole chunk, undo its whole-file compression, and check it."""
        with side_span("fetch", chunk.filename, nbytes=len(target)):
            await self._fill(chunk, turn, target)

    async def _fill(self, chunk: ChunkInfo, turn: int, target: memoryview) -> None:
        config, url = self._index.config, self._url(chunk)
        if is_whole_compressed(chunk, config):
            await self._inflate(chunk, turn, target)
        else:
            await self._read_parts(stored_name(chunk, config), 0, target, turn)
        encryption = config.encryption
        if encryption is None or encryption.level != "chunk":  # else checked once decrypted
            await in_thread(partial(verify_chunk, target, chunk, url))

    async def _inflate(self, chunk: ChunkInfo, turn: int, target: memoryview) -> None:
        config = self._index.config
        try:
            key = stored_name(chunk, config)
            with Reading(self._stats, key, chunk.nbytes):
                packed = await self._store.get(key)
        except ObjectNotFoundError:
            # LitData replaces compressed files of a local data set by plain ones (format 2.6).
            try:
                await self._read_parts(plain_name(chunk, config), 0, target, turn)
            except AiolitError:
                pass
            else:
                return
            raise
        self._stats.bytes_fetched += len(packed)
        self._stats.requests += 1
        inflate = partial(
            decompress_whole,
            packed,
            expected_nbytes=chunk.nbytes,
            source=self._url(chunk),
            codec=whole_file_codec(chunk, config),
        )
        plain = await in_thread(inflate)
        target[:] = plain

    async def _read_parts(
        self,
        key: str,
        start: int,
        target: memoryview,
        turn: int,
        *,
        skip: int = 0,
        etag: str | None = None,
    ) -> None:
        """Fill a buffer by parallel range requests; all parts must be of one version.

        Args:
            key: The object.
            start: Its first byte that is wanted.
            target: The whole buffer, as the cache gave it.
            turn: When it is needed: lower ones go first.
            skip: Where in the buffer the bytes begin.
            etag: The version that is wanted; any, if None.
        """
        parts = split(skip, len(target), self._line.model.part_bytes)
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._read_part(key, start - skip + lo, target, lo, hi, turn))
                    for lo, hi in parts
                ]
        self._stats.bytes_fetched += len(target) - skip
        self._stats.requests += len(parts)
        versions = {task.result() for task in tasks}
        self._one_version(key, versions | {etag} if etag is not None else versions)

    def _one_version(self, key: str, etags: set[str | None]) -> set[str | None]:
        """Refuse parts of several versions of an object."""
        if len(etags) > 1:
            url = self._store.object_url(key)
            raise ObjectChangedError(f"{url} was replaced while it was read", url=url)
        return etags

    async def _read_part(
        self, key: str, start: int, target: memoryview, lo: int, hi: int, turn: int
    ) -> str | None:
        async with self._line.place(turn) as request:
            if not isinstance(target.obj, FileMap):
                return await self._read_into(key, start, target[lo:hi], request.progressed)
            if not self._buffers:  # numpy takes memory and does not touch it
                self._buffers.append(np.empty(self._line.model.most_bytes, np.uint8).data)
            buffer = self._buffers.pop()
            data = buffer[: hi - lo]
            etag = await self._read_into(key, start, data, request.progressed)
            await in_thread(partial(target.obj.write_at, lo, data))
            self._buffers.append(buffer)
            return etag

    async def _read_into(
        self, key: str, start: int, out: memoryview, progressed: Callable[[int], None]
    ) -> str | None:
        with Reading(self._stats, key, len(out)):
            return await self._store.read_into(key, start, out, on_progress=progressed)

    async def _get(self, key: str, start: int, end: int) -> bytes:
        self._stats.bytes_fetched += end - start
        self._stats.requests += 1
        with Reading(self._stats, key, end - start):
            return await self._store.get_range(key, start, end)

    async def _read(
        self, key: str, start: int, end: int, etag: str | None = None
    ) -> tuple[memoryview, str | None]:
        """Return bytes of an object, and their version."""
        out = memoryview(bytearray(end - start))
        self._stats.bytes_fetched += end - start
        self._stats.requests += 1
        with Reading(self._stats, key, end - start):
            return out, await self._store.read_into(key, start, out, etag=etag)

    def _count(self, *, fetched: bool) -> None:
        if fetched:
            self._stats.cache_misses += 1
            self._stats.evictions = self._cache.evictions
            self._stats.chunks += 1
        else:
            self._stats.cache_hits += 1

    def _url(self, chunk: ChunkInfo) -> str:
        return self._store.object_url(stored_name(chunk, self._index.config))


class _Spare:
    """Bytes in memory, counted as long as they are leased; used on the fetcher's loop."""

    def __init__(self, fetcher: ChunkFetcher, nbytes: int) -> None:
        self._fetcher, self._nbytes = fetcher, nbytes
        fetcher._spare -= nbytes
        self.data = memoryview(bytearray(nbytes))

    def close(self, *, spent: bool = False) -> None:
        """Let the bytes go."""
        self._fetcher._spare += self._nbytes
        self._nbytes, self.data = 0, memoryview(b"")


@contextmanager
def _closed_on_error(lease: Leased) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lease.close()
        raise
