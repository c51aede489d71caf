"""Reading a data set's files as they are: its index, and whole chunks within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from aiolit.cli.missing import explain_missing, holds_parquet
from aiolit.errors import ChunkFormatError, DatasetNotFoundError, ObjectNotFoundError
from aiolit.format.dataset_info import (
    ChunkInfo,
    DatasetConfig,
    Index,
    is_whole_compressed,
    plain_name,
    stored_name,
)
from aiolit.format.index import parse_index
from aiolit.groups import single_error
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.parquet_index import parquet_index_bytes
from aiolit.streaming.resolver import Location

T = TypeVar("T")

INDEX_KEY = "index.json"
_MEMORY_BYTES = 1 << 30  # chunks held at once, unless a single one is larger
_SLACK_BYTES = 64 << 20  # a chunk file may be longer than declared, but not without end


async def load_index(store: Store, *, explains: bool = True) -> tuple[bytes, Index]:
    """Read the index of a data set, as it is stored and parsed.

    Args:
        store: The data set.
        explains: Whether it is looked at what else is there, where there is none.

    Raises:
        DatasetNotFoundError: There is none.
        IndexFormatError: It is damaged.
    """
    try:
        raw = await store.get(INDEX_KEY)
    except (ObjectNotFoundError, NotADirectoryError) as error:
        why = await explain_missing(store) if explains else f"{store.url} holds no data set"
        raise DatasetNotFoundError(why) from error
    return raw, parse_index(raw, source=store.object_url(INDEX_KEY))


async def fetch_index(
    location: Location,
    storage_options: Mapping[str, Any] | None,
    session_options: Mapping[str, Any] | None,
) -> Index:
    """Read the index of a data set; that of Parquet files is made where there is none.

    Raises:
        DatasetNotFoundError: There is no data set.
        IndexFormatError: Its index is damaged.
        StoreError: It cannot be read.
    """
    async with open_store(
        location.url, storage_options=storage_options, session_options=session_options
    ) as store:
        if location.pattern is None:
            try:
                return (await load_index(store))[1]
            except DatasetNotFoundError:
                if not await holds_parquet(store):
                    raise
        data = await parquet_index_bytes(store, location.pattern)
        return parse_index(data, source=store.object_url(INDEX_KEY))


async def read_chunk(
    store: Store, chunk: ChunkInfo, config: DatasetConfig
) -> tuple[str, memoryview]:
    """Read a chunk file as it is stored.

    Returns:
        The name it was found under, and its bytes.

    Raises:
        ObjectNotFoundError: It is missing.
        ChunkFormatError: It is far longer than the index declares.
    """
    name = stored_name(chunk, config)
    try:
        return name, await _read(store, name, chunk)
    except ObjectNotFoundError:
        # LitData replaces compressed files of a local data set by plain ones.
        plain = plain_name(chunk, config)
        if plain == name:
            raise
        try:
            return plain, await _read(store, plain, chunk)
        except ObjectNotFoundError:
            pass
        raise


async def _read(store: Store, name: str, chunk: ChunkInfo) -> memoryview:
    data = bytearray()
    async with store.stream(name) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > 2 * chunk.nbytes + _SLACK_BYTES:
                raise ChunkFormatError(
                    f"{store.object_url(name)}: longer than {len(data)} bytes, and the index "
                    f"declares {chunk.nbytes}"
                )
    return memoryview(data)


def is_packed(name: str, chunk: ChunkInfo, config: DatasetConfig) -> bool:
    """Whether the file found under ``name`` is compressed as a whole."""
    return is_whole_compressed(chunk, config) and name == stored_name(chunk, config)


def fitting(concurrency: int, chunks: Iterable[ChunkInfo]) -> int:
    """Return how many chunks may be in memory at once, at most ``concurrency``."""
    largest = max((chunk.nbytes for chunk in chunks), default=1)
    return max(1, min(concurrency, _MEMORY_BYTES // max(1, largest)))


async def each(items: Iterable[T], work: Callable[[T], Awaitable[object]], limit: int) -> None:
    """Await ``work`` on every item, so many at a time; the first failure ends the others."""
    left = iter(items)

    async def take() -> None:
        for item in left:
            await work(item)

    with single_error():
        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(take())
