"""A data set's chunks as this process reads them, wherever they lie."""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from aiolit.cache.base import ChunkHolder
from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.cache.memory import MemoryCache
from aiolit.errors import (
    ChunkFormatError,
    ConfigError,
    DatasetNotFoundError,
    IndexFormatError,
    ObjectNotFoundError,
)
from aiolit.format.chunk import range_readable
from aiolit.format.dataset_info import Index, is_whole_compressed, plain_name, stored_name
from aiolit.format.encryption_base import Encryption
from aiolit.format.index import dump_index, parse_index
from aiolit.format.loader import BoundLoader, ItemLoader, SampleReader, default_loader
from aiolit.format.parquet import ParquetBound
from aiolit.format.serializers.registry import SerializerRegistry
from aiolit.plan.runs import Ints, Runs
from aiolit.plan.stream import Piece
from aiolit.runtime.portal import Portal, portal
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.parquet_index import kept_parquet_index, matches, parquet_index_folder
from aiolit.streaming.counting import counted
from aiolit.streaming.fetch import ChunkFetcher
from aiolit.streaming.held import Held
from aiolit.streaming.parquet import ParquetFetcher
from aiolit.streaming.resolver import Location, namespace

INDEX = "index.json"
_MEMORY_BYTES = 1 << 30  # the most a cache in memory holds
_TURN_BYTES = 256 << 20  # chunks only read whole, that one list of single samples opens at once
_OPEN_CHUNKS = 64  # mapped chunks kept open for random access
_MOST_SAMPLES = 1 << 38  # the most that an epoch is planned of; no data set comes near it

# What "s3//bucket/data" and "s3:/bucket/data" become, which are paths.
_URL_AS_PATH = re.compile(r"/(s3|gs|azure|hf|r2|https?):?/(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a data set's bytes become samples.

    Attributes:
        item_loader: The loader the user gave, or None for the one that the index names.
        serializers: The user's own serializers by name.
        encryption: The key, where the data is encrypted.
        storage_options: For the store's client.
        session_options: For the store's session.
        allow_pickle: Whether pickled leaves are loaded.
        decode_files: Whether leaves that are encoded files are decoded.
        cache: The cache folder and its limit.
        in_memory: Whether fetched chunks are kept in memory instead, and nothing is written.
    """

    item_loader: ItemLoader | None
    serializers: Mapping[str, Any] | None
    encryption: Encryption | None
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None
    allow_pickle: bool
    decode_files: bool
    cache: CacheConfig
    in_memory: bool = False


class ChunkSource:
    """The chunks of one data set.

    It pickles, and a forked child may use it: what is open belongs to the process that opened it.

    Attributes:
        index: What ``index.json`` says.
        counts: Samples per chunk.
        nbytes: Bytes per chunk.
        stats: What this process has fetched through it.
    """

    def __init__(self, location: Location, options: ReadOptions, raw_index: bytes) -> None:
        self.location, self.options = location, options
        self.label = f"{location.url}/{INDEX}"
        self.index: Index = parse_index(raw_index, source=self.label)
        self.loader = options.item_loader or default_loader(self.index.config, source=self.label)
        self._namespace = namespace(location.url, raw_index)
        self._bound = self._bind()
        self.counts: Ints = self._count_samples()
        self.nbytes: Ints = np.array([chunk.nbytes for chunk in self.index.chunks], np.int64)
        self.firsts: Ints = np.cumsum(self.counts) - self.counts
        self.stats = Counters()
        self._pid = 0
        self._opened: dict[int, _Opened] = {}
        self._cache: ChunkHolder | None = None
        self._mapped: OrderedDict[int, SampleReader] = OrderedDict()
        self._lock = threading.Lock()
        self._closing: weakref.finalize[..., ChunkSource] | None = None

    def _bind(self) -> BoundLoader:
        registry = SerializerRegistry(
            self.options.serializers,
            allow_pickle=self.options.allow_pickle,
            decode_files=self.options.decode_files,
        )
        return self.loader.bind(
            self.index, registry=registry, source=self.label, encryption=self.options.encryption
        )

    def _count_samples(self) -> Ints:
        counts = [self._bound.num_samples(chunk) for chunk in self.index.chunks]
        if sum(counts) > _MOST_SAMPLES:
            largest = self.index.chunks[counts.index(max(counts))].filename
            raise IndexFormatError(
                f"{self.label}: its chunks are said to hold {sum(counts)} samples together "
                f"({max(counts)} in {largest}), and no more than {_MOST_SAMPLES} can be read"
            )
        return np.array(counts, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_bound", "_opened", "_cache", "_mapped", "_closing", "_lock"):
            state.pop(name, None)  # one that was unpickled and not used yet has none
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bound = self._bind()
        self._pid = 0

    @property
    def loader_state(self) -> dict[str, Any]:
        """What fixes how the loader cuts samples, as plain values."""
        plain = (int, str, type(None))
        options = {name: value for name, value in vars(self.loader).items() if type(value) in plain}
        return {**options, "name": self.loader.name}

    def runs(self) -> Runs:
        """Return all samples: a run for each chunk, or for each part that is decoded by itself."""
        if not isinstance(self._bound, ParquetBound):
            return Runs.whole(self.counts)
        parts = [self._bound.row_groups(chunk) for chunk in self.index.chunks]
        return Runs.of(
            (number, end - rows, end)
            for number, groups in enumerate(parts)
            for rows, end in zip(groups, accumulate(groups), strict=True)
        )

    def is_whole_only(self, chunk: int) -> bool:
        """Whether a chunk is only read whole, compressed or encrypted as it is."""
        about = self.index.chunks[chunk], self.index.config
        return range_readable(*about) is False and not isinstance(self._bound, ParquetBound)

    def turns(self, chunks: Sequence[int]) -> list[list[int]]:
        """Cut single samples, by the chunks they are in, into what is read at once.

        Where the cache has no room, chunks that are only read whole are held in memory until their
        samples are decoded: some of them at once, and not all that a long list may name.

        Returns:
            Places of the list, each in one turn; those of one chunk are together.
        """
        places: dict[int, list[int]] = {}
        for place, chunk in enumerate(chunks):
            places.setdefault(chunk, []).append(place)
        turns: list[list[int]] = [[]]
        held = 0
        for chunk, here in places.items():
            whole = range_readable(self.index.chunks[chunk], self.index.config) is False
            nbytes = int(self.nbytes[chunk]) if whole else 0
            if held and held + nbytes > _TURN_BYTES:
                turns.append([])
                held = 0
            turns[-1] += here
            held += nbytes
        return turns

    def is_direct(self, chunk: int) -> bool:
        """Whether a chunk is read where it lies, by mapping it."""
        if not self.location.direct:
            return False
        plain = not is_whole_compressed(self.index.chunks[chunk], self.index.config)
        return plain or self._direct_path(chunk) is not None

    def open_direct(self, chunk: int) -> Held | None:
        """Map a chunk of a local data set; None if it must come through the cache.

        Raises:
            ChunkFormatError: The file is missing or not what the index says.
        """
        path = self._direct_path(chunk)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        except FileNotFoundError:
            raise ChunkFormatError(f"{path} is missing, although {self.label} lists it") from None
        except OSError as error:
            raise ChunkFormatError(
                f"{path}, which {self.label} lists, cannot be read: {error.strerror}"
            ) from error
        self.stats.chunks += 1
        return Held(self._bound.open(memoryview(mapped), self.index.chunks[chunk], str(path)))

    def extent(self, piece: Piece) -> tuple[Path, int, int] | None:
        """Return about where a piece of a local chunk lies: its file, first byte, and end."""
        path, chunk = self._direct_path(piece.chunk), self.index.chunks[piece.chunk]
        if path is None:
            return None
        mean = chunk.nbytes / max(1, int(self.counts[piece.chunk]))
        return path, int(piece.start * mean), int(piece.stop * mean)

    def direct_reader(self, chunk: int) -> SampleReader | None:
        """Return a reader for random access; the last few chunks stay mapped."""
        self._check_process()
        reader = self._mapped.get(chunk)
        if reader is None:
            held = self.open_direct(chunk)
            if held is None:
                return None
            reader = held.reader
        with self._lock:
            self._mapped[chunk] = reader
            self._mapped.move_to_end(chunk)
            if len(self._mapped) > _OPEN_CHUNKS:
                self._mapped.popitem(last=False)
        return reader

    async def open_piece(self, piece: Piece) -> Held | None:
        """Open samples of a chunk on the running loop; see ``ChunkFetcher.open_piece``."""
        return self.open_direct(piece.chunk) or await self._fetcher().open_piece(piece)

    async def open_samples(
        self, chunks: Sequence[int], samples: Sequence[int]
    ) -> tuple[list[SampleReader], list[Held]]:
        """Open single samples on the running loop; see ``ChunkFetcher.open_samples``."""
        return await self._fetcher().open_samples(chunks, samples)

    def open_on(self, portal: Portal) -> None:
        """Have this source's connections closed when it is dropped, or when the portal ends."""
        self._check_process()
        if self._closing is None or not self._closing.alive:
            # What closes must not hold the source, or nothing would ever drop it.
            close = partial(_close, self._opened, id(portal.loop))
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
        await _close(self._opened, id(asyncio.get_running_loop()))

    def _direct_path(self, number: int) -> Path | None:
        if not self.location.direct:
            return None
        chunk, config = self.index.chunks[number], self.index.config
        folder = Path(self.location.url)
        if not is_whole_compressed(chunk, config):
            return folder / stored_name(chunk, config)
        plain = folder / plain_name(chunk, config)
        # os.path.exists, because Path's raises for names that are too long.
        there = os.path.exists(plain) and not os.path.exists(folder / chunk.filename)
        return plain if there else None

    def hand_over(self, store: Store, portal: Portal) -> None:
        """Take over a store whose connections are open on a portal's loop."""
        self._check_process()
        self._opened[id(portal.loop)] = _Opened(counted(store, self.stats))
        self.open_on(portal)

    def _fetcher(self) -> ChunkFetcher:
        self._check_process()
        loop = id(asyncio.get_running_loop())
        if loop not in self._opened:
            self._opened[loop] = _Opened(counted(self.open_store(), self.stats))
        opened = self._opened[loop]
        if opened.fetcher is None:
            if self._cache is None or self.options.in_memory:
                self._cache = self._make_cache()
            about = opened.store, self.index
            if isinstance(self._bound, ParquetBound):
                opened.fetcher = ParquetFetcher(*about, self._bound, self._cache, self.stats)
            else:
                opened.fetcher = ChunkFetcher(*about, self._bound, self._cache, self.stats)
            counted(opened.store, self.stats, opened.fetcher.slow_down)
        return opened.fetcher

    def _make_cache(self) -> ChunkHolder:
        if self.options.in_memory:
            limit = self.options.cache.limit
            return MemoryCache(_MEMORY_BYTES if limit is None else min(limit, _MEMORY_BYTES))
        cache = ChunkCache(self.options.cache, self._namespace)
        # What dead processes left is looked for beside the reading, which does not wait for it.
        asyncio.get_running_loop().run_in_executor(None, cache.try_reclaim)
        return cache

    def open_store(self) -> Store:
        """Return a store on the data set's folder; it opens nothing yet."""
        return connect(self.location, self.options)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._opened, self._cache = os.getpid(), {}, None
            self._mapped, self._closing = OrderedDict(), None
            self._lock = threading.Lock()
            self.stats = Counters()


@dataclass(slots=True)
class _Opened:
    """What a source has open on one loop."""

    store: Store
    fetcher: ChunkFetcher | None = None


async def _close(opened: dict[int, _Opened], loop: int) -> None:
    found = opened.pop(loop, None)
    if found is not None:
        await found.store.aclose()


def _end(
    pid: int, portal: Portal, withdraw: Callable[[], None], close: Callable[[], Awaitable[None]]
) -> None:
    if pid == os.getpid() and not portal.closed:
        withdraw()
        portal.submit(close)


def connect(location: Location, options: ReadOptions) -> Store:
    """Return a store on a data set's folder."""
    return open_store(
        location.url,
        storage_options=options.storage_options,
        session_options=options.session_options,
    )


def read_local_index(location: Location, index_path: str | Path | None) -> bytes | None:
    """Read ``index.json`` of a local data set, or the one at ``index_path``; None if remote.

    Raises:
        DatasetNotFoundError: There is none.
    """
    if index_path is not None:
        path = Path(index_path)
        path = path if path.suffix == ".json" else path / INDEX
    elif "://" in location.url:
        return None
    else:
        path = Path(location.url) / INDEX
    try:
        return path.read_bytes()
    except FileNotFoundError:
        there = path.parent.exists()
    except NotADirectoryError:
        there = True
    if there:
        raise DatasetNotFoundError(
            f"there is no {INDEX} in {path.parent}: it holds no data set, or one whose writing "
            f"has not ended; `aiolit inspect {path.parent}` says what is there"
        )
    meant = _URL_AS_PATH.search(str(path.parent))
    hint = f"; should it be {meant[1]}://{meant[2]}?" if meant else ""
    raise DatasetNotFoundError(f"the data set folder {path.parent} does not exist{hint}")


async def open_remote(location: Location, options: ReadOptions) -> ChunkSource:
    """Open a remote data set on the running loop, the portal's; its connections stay open.

    Raises:
        DatasetNotFoundError: There is no ``index.json``.
        StoreError: It cannot be fetched.
    """
    store = connect(location, options)
    try:
        source = ChunkSource(location, options, await _fetch_index(store, location.url))
    except BaseException:
        await store.aclose()
        raise
    source.hand_over(store, portal())
    return source


async def _fetch_index(store: Store, url: str) -> bytes:
    try:
        return await store.get(INDEX)
    except ObjectNotFoundError as error:
        raise DatasetNotFoundError(
            f"there is no {INDEX} at {url}: it holds no data set, or one whose writing has not "
            "ended"
        ) from error


async def find_parquet_index(location: Location, options: ReadOptions) -> bytes:
    """Return an index of the Parquet files of a folder that has none, or of those of a pattern.

    Raises:
        DatasetNotFoundError: There are none.
    """
    folder = parquet_index_folder(location.url, location.pattern, location.cache_dir)
    async with connect(location, options) as store:
        return await kept_parquet_index(store, location.pattern, folder)


def filter_index(data: bytes, pattern: str, source: str) -> bytes:
    """Return an index with only the chunks whose names fit a pattern.

    Raises:
        DatasetNotFoundError: None does.
    """
    index = parse_index(data, source=source)
    chunks = tuple(chunk for chunk in index.chunks if matches(chunk.filename, pattern))
    if not chunks:
        raise DatasetNotFoundError(f"{source} lists no files {pattern}")
    return dump_index(replace(index, chunks=chunks))


def check_serializers(serializers: object) -> None:
    """Refuse serializers that are no mapping of names.

    Raises:
        ConfigError: They are not.
    """
    if serializers is not None and not isinstance(serializers, Mapping):
        raise ConfigError(f"serializers must map names to serializers, not {serializers!r}")
