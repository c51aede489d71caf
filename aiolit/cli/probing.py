"""What a data set's store gives this machine, before anything is decoded."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiolit.cli.reading import each
from aiolit.errors import ObjectNotFoundError
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index, plain_name, stored_name
from aiolit.plan.coalesce import split
from aiolit.store.base import ObjectInfo, Store
from aiolit.store.connect import open_store

_CHUNKS = 32  # that are looked at
_REQUESTS = 16
_FEW_BYTES = 16
_PART_BYTES = 8 << 20
_MOST_BYTES = 256 << 20
_MOST_SECONDS = 5.0
CONNECTIONS = 16

Part = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a store gives.

    Attributes:
        request_ms: How long small requests took, one after the other, in milliseconds.
        nbytes: Bytes that were fetched in large parts, at most 16 at a time.
        seconds: How long that took.
    """

    request_ms: Sequence[float]
    nbytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the two stages."""
        return {
            "request": {
                "count": len(self.request_ms),
                "median_ms": statistics.median(self.request_ms),
                "slowest_ms": max(self.request_ms),
            },
            "transfer": {
                "connections": CONNECTIONS,
                "bytes": self.nbytes,
                "bytes_per_second": self.nbytes / self.seconds if self.seconds else 0.0,
            },
        }


async def probe(
    url: str,
    index: Index,
    storage_options: Mapping[str, Any] | None,
    session_options: Mapping[str, Any] | None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Probe | None:
    """Time small requests and a large transfer, of a few seconds at most.

    Returns:
        None where the data set has no chunks.

    Raises:
        StoreError: The store failed.
    """
    step = max(1, len(index.chunks) // _CHUNKS)
    chunks = index.chunks[::step][:_CHUNKS]
    if not chunks:
        return None
    found: list[ObjectInfo] = []
    async with open_store(
        url, storage_options=storage_options, session_options=session_options
    ) as store:

        async def look(chunk: ChunkInfo) -> None:
            found.append(await _head(store, chunk, index.config))

        await each(chunks, look, CONNECTIONS)
        times = []
        for number in range(_REQUESTS):
            info, began = found[number % len(found)], clock()
            await store.get_range(info.key, 0, min(_FEW_BYTES, info.size))
            times.append(1000 * (clock() - began))
        began = clock()
        nbytes = await _transfer(store, _parts(found))
        return Probe(times, nbytes, clock() - began)


async def _head(store: Store, chunk: ChunkInfo, config: DatasetConfig) -> ObjectInfo:
    try:
        return await store.head(stored_name(chunk, config))
    except ObjectNotFoundError:
        # LitData replaces compressed files of a local data set by plain ones.
        return await store.head(plain_name(chunk, config))


def _parts(files: Sequence[ObjectInfo]) -> list[Part]:
    parts: list[Part] = []
    left = _MOST_BYTES
    for info in files:
        size = min(info.size, left)
        parts += [(info.key, start, stop) for start, stop in split(0, size, _PART_BYTES)]
        left -= size
    return parts


async def _transfer(store: Store, parts: Sequence[Part]) -> int:
    """Fetch the parts, or as many as there is time for; return the bytes that came."""
    nbytes = 0

    def count(arrived: int) -> None:
        nonlocal nbytes
        nbytes += arrived

    async def fetch(part: Part) -> None:
        key, start, stop = part
        target = memoryview(bytearray(stop - start))
        await store.read_into(key, start, target, on_progress=count)

    limit = asyncio.timeout(_MOST_SECONDS)
    try:
        async with limit:
            await each(parts, fetch, CONNECTIONS)
    except TimeoutError:
        if not limit.expired():  # a failure of the store
            raise
    return nbytes
