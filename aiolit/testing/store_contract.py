"""What every store must do, as tests to inherit.

Write a class ``TestMyStore(StoreContract)`` with two fixtures, ``store`` and ``raw``, and run
pytest with ``asyncio_mode=auto``. ``raw`` looks at the truth without the store under test.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiolit.errors import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RangeError,
)
from aiolit.store.base import Store
from aiolit.store.upload import PART_NBYTES

ODD_KEY = "folder with blank/a+b%20c=d&e~ü.bin"


class RawObjects(ABC):
    """The objects below the store's root, reached by another way."""

    @abstractmethod
    async def write(self, key: str, data: bytes) -> None:
        """Make or replace an object."""

    @abstractmethod
    async def read(self, key: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""

    async def unfinished(self) -> int:
        """Return how many half-written objects or uploads there are."""
        return 0


class ReadContract:
    """What a store must do that can be read; for stores that cannot be written.

    Attributes:
        etags: The store knows versions.
        lists: The store can list.
    """

    etags = True
    lists = True

    @pytest.fixture
    def store(self) -> Store:
        """Return the store under test; override."""
        raise NotImplementedError("a contract's class has a fixture `store`")

    @pytest.fixture
    def raw(self) -> RawObjects:
        """Return the other way to its objects; override."""
        raise NotImplementedError("a contract's class has a fixture `raw`")

    async def test_head_tells_key_size_and_version(self, store: Store, raw: RawObjects) -> None:
        await raw.write("a/b.bin", b"12345")
        info = await store.head("a/b.bin")
        assert (info.key, info.size) == ("a/b.bin", 5)
        assert (info.etag is not None) is self.etags
        assert info.modified is None or info.modified > 0

    async def test_what_is_missing_is_named(self, store: Store, raw: RawObjects) -> None:
        await raw.write("there", b"1")
        for call in (store.head, store.get, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(ObjectNotFoundError) as caught:
                await call("no/such.bin")
            assert store.object_url("no/such.bin") in str(caught.value)

    async def test_whole_objects(self, store: Store, raw: RawObjects) -> None:
        data = os.urandom(300_000)
        await raw.write("large", data)
        await raw.write("empty", b"")
        assert await store.get("large") == data
        assert await store.get("empty") == b""
        assert (await store.head("empty")).size == 0

    async def test_ranges(self, store: Store, raw: RawObjects) -> None:
        data = os.urandom(1000)
        await raw.write("a", data)
        for start, end in ((0, 1000), (0, 1), (999, 1000), (10, 990)):
            assert await store.get_range("a", start, end) == data[start:end]
        assert await store.get_range("a", 7, 7) == b""

    async def test_ranges_that_are_not_there(self, store: Store, raw: RawObjects) -> None:
        await raw.write("a", bytes(1000))
        for start, end in ((990, 1001), (1000, 1001), (5000, 5001)):
            with pytest.raises(RangeError):
                await store.get_range("a", start, end)
        for start, end in ((5, 4), (-1, 4)):
            with pytest.raises(ValueError, match="no such range"):
                await store.get_range("a", start, end)

    async def test_reading_into_a_buffer(self, store: Store, raw: RawObjects) -> None:
        data = os.urandom(200_000)
        await raw.write("a", data)
        events: list[int | str | None] = []
        out = bytearray(len(data))
        etag = await store.read_into(
            "a",
            1000,
            memoryview(out)[500:-1000],
            on_etag=lambda etag: events.append(etag or "no etag"),
            on_progress=events.append,
        )
        assert out[500:-1000] == data[1000 : 1000 + 198_500]
        assert not any(out[:500])
        assert not any(out[-1000:])
        assert events[0] == (etag or "no etag")
        assert sum(count for count in events[1:] if isinstance(count, int)) == 198_500
        if self.etags:
            assert etag == (await store.head("a")).etag

    async def test_another_version_is_refused(self, store: Store, raw: RawObjects) -> None:
        if not self.etags:
            pytest.skip("this store has no versions")
        await raw.write("a", b"first")
        etag = (await store.head("a")).etag
        assert await store.get_range("a", 0, 5, etag=etag) == b"first"
        await raw.write("a", b"other, and longer")
        with pytest.raises(ObjectChangedError):
            await store.get_range("a", 0, 5, etag=etag)
        with pytest.raises(ObjectChangedError):
            async with store.stream("a", etag=etag):
                pass

    async def test_streams(self, store: Store, raw: RawObjects) -> None:
        data = os.urandom(3_000_000)
        await raw.write("a", data)
        for start in (0, 1, 2_999_999):
            async with store.stream("a", start) as pieces:
                assert b"".join([piece async for piece in pieces]) == data[start:]
                assert pieces.size in (len(data), None)
                assert (pieces.etag is not None) is self.etags
        async with store.stream("a") as pieces:
            assert data.startswith(await anext(pieces))
        with pytest.raises(ObjectNotFoundError):
            async with store.stream("no/such.bin"):
                pass

    async def test_listing(self, store: Store, raw: RawObjects) -> None:
        if not self.lists:
            pytest.skip("this store cannot list")
        keys = sorted(["a/1", "a/2/x", "a.txt", "a/10", "b", "ab/c", "ü"])
        for key in keys:
            await raw.write(key, key.encode())
        found = [info async for info in store.list()]
        assert [info.key for info in found] == keys
        assert [info.size for info in found] == [len(key.encode()) for key in keys]
        for prefix in ("a", "a/", "a/1", "a/2/x", "b", "none/at/all"):
            expected = [key for key in keys if key.startswith(prefix)]
            assert [info.key async for info in store.list(prefix)] == expected
        assert [info.key async for info in store.list("a", after="a/1")] == [
            key for key in keys if key.startswith("a") and key > "a/1"
        ]

    async def test_odd_keys(self, store: Store, raw: RawObjects) -> None:
        await raw.write(ODD_KEY, b"odd")
        assert await store.get(ODD_KEY) == b"odd"
        assert (await store.head(ODD_KEY)).size == 3
        if self.lists:
            assert [info.key async for info in store.list()] == [ODD_KEY]

    async def test_many_reads_at_once(self, store: Store, raw: RawObjects) -> None:
        data = os.urandom(10_000)
        await raw.write("a", data)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(store.get_range("a", at, at + 500))
                for at in range(0, 10_000, 500)
            ]
        assert b"".join(task.result() for task in tasks) == data

    async def test_it_is_configuration_until_it_is_used(
        self, store: Store, raw: RawObjects
    ) -> None:
        await raw.write("a", b"12345")
        assert await store.get("a") == b"12345"
        async with pickle.loads(pickle.dumps(store)) as other:
            assert await other.get("a") == b"12345"
        await store.aclose()
        await store.aclose()
        assert await store.get("a") == b"12345"

    async def test_each_loop_opens_its_own(self, store: Store, raw: RawObjects) -> None:
        await raw.write("a", b"12345")
        assert await store.get("a") == b"12345"

        async def on_another_loop() -> bytes:
            async with store:
                return await store.get("a")

        assert await asyncio.to_thread(asyncio.run, on_another_loop()) == b"12345"
        assert await store.get("a") == b"12345"


class StoreContract(ReadContract):
    """What a store must do.

    Attributes:
        conditional: The store can write only where nothing is.
    """

    conditional = True

    async def test_put(self, store: Store, raw: RawObjects) -> None:
        await store.put("x/y/z.bin", b"first")
        assert await raw.read("x/y/z.bin") == b"first"
        await store.put("x/y/z.bin", [b"sec", bytearray(b"on"), memoryview(b"d")])
        assert await raw.read("x/y/z.bin") == b"second"
        await store.put("x/y/z.bin", b"")
        assert await raw.read("x/y/z.bin") == b""
        await store.put(ODD_KEY, b"odd")
        assert await raw.read(ODD_KEY) == b"odd"

    async def test_put_if_absent(self, store: Store, raw: RawObjects) -> None:
        if not self.conditional:
            pytest.skip("this store cannot")
        await store.put("a", b"first", if_absent=True)
        with pytest.raises(ObjectExistsError):
            await store.put("a", b"second", if_absent=True)
        assert await raw.read("a") == b"first"
        assert await raw.unfinished() == 0

    async def test_put_file(self, store: Store, raw: RawObjects, tmp_path: Path) -> None:
        source = tmp_path / "source"
        for nbytes in (0, 10_000, 2 * PART_NBYTES + 12_345):
            data = os.urandom(nbytes)
            source.write_bytes(data)
            await store.put_file("copied", source)
            assert await raw.read("copied") == data
        assert await raw.unfinished() == 0
        with pytest.raises(FileNotFoundError, match="nothing-here"):
            await store.put_file("never", tmp_path / "nothing-here")
        assert await raw.read("never") is None

    async def test_put_stream(self, store: Store, raw: RawObjects) -> None:
        block = os.urandom(1 << 20)
        for blocks in (0, 1, 17):
            await store.put_stream("streamed", _pieces(block, blocks))
            assert await raw.read("streamed") == block * blocks
        assert await raw.unfinished() == 0

    async def test_a_stream_that_fails_leaves_nothing(self, store: Store, raw: RawObjects) -> None:
        async def failing() -> AsyncIterator[bytes]:
            async for piece in _pieces(bytes(1 << 20), 18):
                yield piece
            raise LookupError("the source is gone")

        with pytest.raises(LookupError, match="the source is gone"):
            await store.put_stream("streamed", failing())
        assert await raw.read("streamed") is None
        assert await raw.unfinished() == 0

    async def test_a_cancelled_stream_leaves_nothing(self, store: Store, raw: RawObjects) -> None:
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            async for piece in _pieces(bytes(1 << 20), 18):
                yield piece
            begun.set()
            await asyncio.get_running_loop().create_future()

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(store.put_stream("streamed", endless()))
            await begun.wait()
            writing.cancel()
        assert writing.cancelled()
        assert await raw.read("streamed") is None
        assert await raw.unfinished() == 0

    async def test_copy(self, store: Store, raw: RawObjects) -> None:
        await raw.write("a/b", b"12345")
        await store.copy("a/b", "c/d")
        assert await raw.read("c/d") == b"12345"
        assert await raw.read("a/b") == b"12345"
        with pytest.raises(ObjectNotFoundError):
            await store.copy("no/such", "e")
        assert await raw.read("e") is None

    async def test_delete(self, store: Store, raw: RawObjects) -> None:
        await raw.write("a", b"1")
        await store.delete("a")
        assert await raw.read("a") is None
        await store.delete("a")


async def _pieces(block: bytes, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield block
