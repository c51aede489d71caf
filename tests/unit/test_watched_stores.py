"""The stores that tests are made with."""

from __future__ import annotations

import asyncio

import pytest

from aiolit.store.memory import MemoryStore
from aiolit.testing.clock import ManualClock
from aiolit.testing.stores import (
    CountingStore,
    Fault,
    FaultStore,
    LatencyStore,
    Request,
    in_turn,
)


@pytest.fixture
async def inner() -> MemoryStore:
    store = MemoryStore()
    await store.put("a", bytes(range(100)))
    return store


async def test_counting(inner: MemoryStore) -> None:
    store = CountingStore(inner)
    async with asyncio.TaskGroup() as group:
        for at in range(3):
            group.create_task(store.get_range("a", at, at + 10))
    assert await store.read_into("a", 5, memoryview(bytearray(20))) is not None
    async with store.stream("a", 90) as pieces:
        assert b"".join([piece async for piece in pieces]) == bytes(range(90, 100))
    assert store.seen.by_verb() == {"get_range": 3, "read_into": 1, "stream": 1}
    assert store.seen.requests[3] == Request("read_into", "a", 5, 25)
    assert store.seen.nbytes_read == 60
    assert (store.seen.running, store.seen.peak >= 1) == (0, True)
    with pytest.raises(FileNotFoundError):
        await store.head("b")
    assert store.seen.running == 0


async def test_latency(inner: MemoryStore) -> None:
    clock = ManualClock()
    store = LatencyStore(inner, 0.02, bytes_per_s=1000, sleep=clock.sleep)
    assert await store.get("a") == bytes(range(100))
    await store.head("a")
    assert await store.get_range("a", 0, 50) == bytes(range(50))
    assert clock.slept == pytest.approx([0.12, 0.02, 0.07])


async def test_faults(inner: MemoryStore) -> None:
    broken = Fault(error=OSError("broken"), after_nbytes=30)
    store = FaultStore(inner, in_turn([broken, None, broken, Fault(stall=True)]))
    out = bytearray(100)
    with pytest.raises(OSError, match="broken"):
        await store.read_into("a", 0, memoryview(out))
    assert out == bytes(range(30)) + bytes(70)
    assert await store.get("a") == bytes(range(100))
    async with store.stream("a") as pieces:
        assert await anext(pieces) == bytes(range(30))
        with pytest.raises(OSError, match="broken"):
            await anext(pieces)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.head("a")
    assert (await store.head("a")).size == 100
