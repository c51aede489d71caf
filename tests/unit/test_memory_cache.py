"""The cache that writes nothing: its limit, its leases, and one fetch for all who ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit import StreamingDataset
from aiolit.cache.memory import MemoryCache


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


async def put(data: memoryview) -> None:
    data[:] = b"x" * len(data)


async def test_holds_what_is_leased_and_drops_what_is_not() -> None:
    cache = MemoryCache(100)
    first = await cache.get("a", 60, put)
    assert first is not None
    assert first[1]
    assert bytes(first[0].data) == b"x" * 60
    assert await cache.get("b", 60, put) is None  # no room while "a" is leased
    first[0].close()
    second = await cache.get("b", 60, put)
    assert second is not None
    assert (cache.holds("a"), cache.holds("b"), cache.used, cache.evictions) == (False, True, 60, 1)
    second[0].close()
    again = await cache.get("b", 60, put)
    assert again is not None
    assert not again[1]


async def test_more_than_the_limit_is_declined() -> None:
    assert await MemoryCache(10).get("a", 11, put) is None


async def test_one_fetch_for_all_who_ask() -> None:
    cache, fetches, go = MemoryCache(100), 0, asyncio.Event()

    async def slow(data: memoryview) -> None:
        nonlocal fetches
        fetches += 1
        await go.wait()

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(cache.get("a", 10, slow)) for _ in range(5)]
        await asyncio.sleep(0)
        go.set()
    results = [task.result() for task in asking]
    assert fetches == 1
    assert sum(found[1] for found in results if found is not None) == 1
    assert all(found is not None for found in results)


async def test_a_failed_fetch_leaves_nothing_and_the_next_one_tries_again() -> None:
    cache = MemoryCache(100)

    async def fail(data: memoryview) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await cache.get("a", 10, fail)
    assert cache.used == 0
    assert await cache.get("a", 10, put) is not None


async def test_cancelled_at_the_fetch() -> None:
    cache, begun = MemoryCache(100), asyncio.Event()

    async def hang(data: memoryview) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(cache.get("a", 10, hang))
        await begun.wait()
        task.cancel()
    assert cache.used == 0
    assert not cache.holds("a")


def test_parts_are_found_by_name() -> None:
    async def fill() -> list[tuple[int, int]]:
        cache = MemoryCache(100)
        for name in ("c.bin.0-5", "c.bin.5-9", "d.bin.0-1", "c.bin"):
            await cache.get(name, 1, put)
        return cache.parts("c.bin")

    assert asyncio.run(fill()) == [(0, 5), (5, 9)]


def test_an_epoch_writes_nothing(write_dataset: WriteDataset, tmp_path: Path) -> None:
    folder = write_dataset([{"i": i, "x": bytes(100)} for i in range(200)], chunk_size=20)
    cache = tmp_path / "cache"
    dataset = StreamingDataset(
        f"local:{folder}", cache_dir=cache, cache="memory", max_cache_size="8KB", shuffle=True
    )
    assert sorted(sample["i"] for sample in dataset) == list(range(200))
    assert not cache.exists()
