"""Getting the bytes of raw files: whole ones with one request, large ones in parallel parts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.errors import ObjectChangedError, ObjectNotFoundError
from aiolit.groups import single_error
from aiolit.plan.coalesce import split
from aiolit.raw.items import ItemTable
from aiolit.raw.skips import Failed, Skips
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import Portal
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread
from aiolit.streaming.counting import Reading, counted

_PART_BYTES = 8 << 20  # large files are fetched in parallel parts of this size
_LARGE_BYTES = 16 << 20
_SMALL_BYTES = 1 << 20  # not worth the going on where a request stopped
_IN_FLIGHT_BYTES = 256 << 20  # bytes of all requests of one loop that are under way

RawItem = bytes | list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Where raw files lie, and how they are fetched.

    Attributes:
        url: The folder, as an absolute path or a URL without a slash at its end.
        storage_options: For the store's client.
        session_options: For the store's session.
        cache: Where files are cached; None does not cache.
        skips: Whether items that cannot be fetched are replaced by others.
    """

    url: str
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None
    cache: CacheConfig | None
    skips: bool = False

    def open_store(self) -> Store:
        """Return a store on the folder; it opens nothing yet."""
        return open_store(
            self.url, storage_options=self.storage_options, session_options=self.session_options
        )


class RawSource:
    """The files of one data set as this process reads them.

    It pickles, and a forked child may use it: what is open belongs to the process that opened it.

    Attributes:
        items: What there is to read.
        stats: What this process has fetched through it.
    """

    def __init__(self, options: SourceOptions, items: ItemTable) -> None:
        self.options, self.items = options, items
        self.stats = Counters()
        self._pid = 0
        self._fetchers: dict[int, FileFetcher] = {}
        self._cache: ChunkCache | None = None
        self._skips: Skips | None = None
        self._closing: weakref.finalize[..., RawSource] | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = {"_pid": 0, "_fetchers": {}, "_cache": None, "_skips": None, "_closing": None}
        return {**self.__dict__, **own}

    async def get(self, item: int) -> RawItem:
        """Return the bytes of an item; a list of them for a group. Runs on any loop.

        Raises:
            StoreError: A file cannot be fetched; the message names it.
        """
        fetcher, files = self._fetcher(), self.items.files(item)
        if not self.items.is_group(item):
            return await fetcher.file(*files[0])
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetcher.file(key, size)) for key, size in files]
        return [task.result() for task in tasks]

    async def get_many(self, items: Sequence[int]) -> list[RawItem]:
        """Return the bytes of items in the order asked for, fetched concurrently.

        Raises:
            StoreError: A file cannot be fetched; the others are given up.
        """
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.get(item)) for item in items]
        return [task.result() for task in tasks]

    async def get_or_skip(self, items: Sequence[int]) -> list[RawItem]:
        """Return items as ``get_many`` does, or others in the place of those that fail.

        Raises:
            StoreError: Nothing can be fetched, or the data set does not skip.
        """
        skips = self.skips()
        if skips is None:
            return await self.get_many(items)

        async def outcome(item: int) -> RawItem | Failed:
            try:
                return await self.get(item)
            except Exception as error:  # noqa: BLE001  (raised below, unless it is skipped)
                return Failed(error)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outcome(item)) for item in items]
        return await skips.fill(self.get, items, [task.result() for task in tasks])

    def skips(self) -> Skips | None:
        """Return what replaces items that fail in this process; None where they just fail."""
        self._check_process()
        if self.options.skips and self._skips is None:
            self._skips = Skips(len(self.items), self.stats)
        return self._skips

    def store(self) -> Store:
        """Return the store that the running loop reads from; ``aclose`` closes it."""
        return self._fetcher().store

    def open_on(self, portal: Portal) -> None:
        """Have this source's connections closed when it is dropped, or when the portal ends."""
        self._check_process()
        if self._closing is None or not self._closing.alive:
            # What closes must not hold the source, or nothing would ever drop it.
            close = partial(_close_fetcher, self._fetchers, id(portal.loop))
            withdraw = portal.on_close(close)
            self._closing = weakref.finalize(self, _end, os.getpid(), portal, withdraw, close)
            self._closing.atexit = False

    def counters(self) -> Counters:
        """Return the running counters of this process, also in a child that was forked now."""
        self._check_process()
        return self.stats

    async def aclose(self) -> None:
        """Close what is open on the running loop."""
        self._check_process()
        await _close_fetcher(self._fetchers, id(asyncio.get_running_loop()))

    def _fetcher(self) -> FileFetcher:
        self._check_process()
        loop = id(asyncio.get_running_loop())
        if loop not in self._fetchers:
            config = self.options.cache
            if self._cache is None and config is not None:
                place = hashlib.sha256(self.options.url.encode()).hexdigest()[:16]
                self._cache = ChunkCache(config, f"raw-{place}")
                # Beside the reading, which does not wait for it.
                asyncio.get_running_loop().run_in_executor(None, self._cache.try_reclaim)
            store = counted(self.options.open_store(), self.stats)
            self._fetchers[loop] = FileFetcher(store, self._cache, self.stats)
        return self._fetchers[loop]

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._fetchers, self._cache = os.getpid(), {}, None
            self._closing = self._skips = None
            self.stats = Counters()


async def _close_fetcher(fetchers: dict[int, FileFetcher], loop: int) -> None:
    fetcher = fetchers.pop(loop, None)
    if fetcher is not None:
        await fetcher.aclose()


def _end(
    pid: int, portal: Portal, withdraw: Callable[[], None], close: Callable[[], Awaitable[None]]
) -> None:
    if pid == os.getpid() and not portal.closed:
        withdraw()
        portal.submit(close)


class FileFetcher:
    """Fetches the files of one data set on one loop, through the cache where there is one.

    Cancelling a call leaves no request, task, file or reservation behind.
    """

    def __init__(self, store: Store, cache: ChunkCache | None, stats: Counters) -> None:
        self.store, self._cache, self._stats = store, cache, stats
        self._in_flight = ByteBudget(_IN_FLIGHT_BYTES, name="the budget of requests under way")

    async def file(self, key: str, size: int) -> bytes:
        """Return the bytes of a file, all of them, also where it is no longer of that size."""
        nbytes = min(size, _IN_FLIGHT_BYTES)
        await self._in_flight.acquire(nbytes)
        try:
            if self._cache is None or not size:
                return await self._fetch(key, size)
            return await self._cached(self._cache, key, size)
        finally:
            self._in_flight.release(nbytes)

    async def aclose(self) -> None:
        """Close the store's connections on the running loop."""
        await self.store.aclose()

    async def _cached(self, cache: ChunkCache, key: str, size: int) -> bytes:
        async def fill(target: memoryview) -> None:
            data = await self._fetch(key, size)
            if len(data) != size:
                url = self.store.object_url(key)
                raise ObjectChangedError(
                    f"{url} has {len(data)} bytes and the index says {size}: it was replaced; "
                    "recompute_index=True lists the files anew",
                    url=url,
                )
            target[:] = data

        # Keys may be names that no file can have; and a file of another size is another version.
        name = hashlib.sha256(f"{size}/{key}".encode()).hexdigest()[:40]
        found = await cache.get(name, size, fill)
        if found is None:  # no room now
            return await self._fetch(key, size)
        lease, fetched = found
        self._stats.cache_misses += fetched
        self._stats.cache_hits += not fetched
        data = bytes(lease.data)
        lease.close()
        return data

    async def _fetch(self, key: str, size: int) -> bytes:
        store = self.store
        if isinstance(store, LocalStore):
            data = await run_in_thread(_read, store.file_path(key))
        elif size >= _LARGE_BYTES:
            data = await self._fetch_parts(key)
        else:
            with Reading(self._stats, key, size):
                small = size <= _SMALL_BYTES
                data = await (store.get_at_once(key) if small else store.get(key))
            self._stats.requests += 1
            if len(data) < size:  # a smaller file now, or an answer that was cut off unseen
                data = await self._fetch_parts(key)
        self._stats.bytes_fetched += len(data)
        return data

    async def _fetch_parts(self, key: str) -> bytes:
        """Fetch one version of a large file by parallel range requests."""
        info = await self.store.head(key)
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._fetch_part(key, lo, hi, info.etag))
                    for lo, hi in split(0, info.size, _PART_BYTES)
                ]
        self._stats.requests += 1 + len(tasks)
        return b"".join([task.result() for task in tasks])

    async def _fetch_part(self, key: str, start: int, end: int, etag: str | None) -> bytes:
        with Reading(self._stats, key, end - start):
            return await self.store.get_range(key, start, end, etag=etag)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ObjectNotFoundError(
            f"there is no file {path}, although the index lists it; recompute_index=True lists "
            "the files anew",
            url=str(path),
        ) from None
