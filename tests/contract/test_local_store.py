"""LocalStore keeps the contract, and its folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiolit.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectChangedError,
    ObjectNotFoundError,
)
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.local import LocalStore
from aiolit.testing.store_contract import RawObjects, StoreContract


class RawFolder(RawObjects):
    """The folder itself."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def read(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.exists() else None

    async def unfinished(self) -> int:
        return sum(1 for path in self._root.rglob("*") if "unfinished" in path.name)


class TestLocalStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        async with LocalStore(tmp_path / "root") as store:
            yield store

    @pytest.fixture
    async def raw(self, tmp_path: Path) -> RawObjects:
        return RawFolder(tmp_path / "root")


@pytest.mark.parametrize(
    "key",
    ["", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "a\0b"],
)
async def test_keys_cannot_leave_the_root(tmp_path: Path, key: str) -> None:
    (tmp_path / "a").write_bytes(b"outside")
    store = LocalStore(tmp_path / "root")
    for call in (store.head(key), store.get(key), store.put(key, b"1"), store.delete(key)):
        with pytest.raises(ConfigError, match="cannot be a key"):
            await call
    assert (tmp_path / "a").read_bytes() == b"outside"
    assert not (tmp_path / "root").exists()


async def test_listing_cannot_leave_the_root(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"outside")
    store = LocalStore(tmp_path / "root")
    assert [info async for info in store.list()] == []
    for prefix in ("../", "/", "a/../../"):
        with pytest.raises(ConfigError):
            assert [info async for info in store.list(prefix)]


async def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x").write_bytes(b"1")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    (root / "broken").symlink_to(tmp_path / "nothing")
    store = LocalStore(root)
    assert [info.key async for info in store.list()] == ["linked/x"]
    assert await store.get("linked/x") == b"1"


async def test_a_folder_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"1")
    store = LocalStore(tmp_path)
    for key in ("folder", "file/below"):
        for call in (store.head(key), store.get(key), store.get_range(key, 0, 1)):
            with pytest.raises(ObjectNotFoundError):
                await call
    with pytest.raises(ObjectNotFoundError):
        await store.put("folder", b"1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0)
    with pytest.raises(AccessDeniedError, match=str(tmp_path / "a")):
        await LocalStore(tmp_path).get("a")


async def test_a_replaced_file_does_not_mix_into_a_stream(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.put("a", b"1" * 3_000_000)
    async with store.stream("a") as pieces:
        read = await anext(pieces)
        await store.put("a", b"2" * 3_000_000)
        read += b"".join([piece async for piece in pieces])
    assert read == b"1" * 3_000_000
    with pytest.raises(ObjectChangedError):
        await store.get_range("a", 0, 1, etag=pieces.etag)


async def test_of_many_writers_if_absent_one_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    won: list[int] = []

    async def write(number: int) -> None:
        try:
            await store.put("a", str(number).encode() * 1000, if_absent=True)
        except FileExistsError:
            return
        won.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(write(number))
    assert len(won) == 1
    assert await store.get("a") == str(won[0]).encode() * 1000


async def test_the_ways_to_name_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    for url in (tmp_path, str(tmp_path), f"local:{tmp_path}", f"file://{tmp_path}"):
        assert await open_store(url).get("a") == b"1"
