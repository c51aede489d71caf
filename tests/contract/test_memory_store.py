"""MemoryStore keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.memory import MemoryStore
from aiolit.testing.store_contract import RawObjects, StoreContract


class RawMemory(RawObjects):
    """The dictionary itself."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def write(self, key: str, data: bytes) -> None:
        self._store._write(key, data)

    async def read(self, key: str) -> bytes | None:
        found = self._store._objects.get(key)
        return None if found is None else found[0]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with MemoryStore() as store:
            yield store

    @pytest.fixture
    async def raw(self, store: Store) -> RawObjects:
        assert isinstance(store, MemoryStore)
        return RawMemory(store)


async def test_a_name_is_one_store_in_a_process() -> None:
    await open_store("memory://shared-by-name").put("a", b"1")
    assert await open_store("memory://shared-by-name/").get("a") == b"1"
    assert [info async for info in open_store("memory://another-name").list()] == []
