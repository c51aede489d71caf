"""Objects in this process's memory: for tests and for trying things out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import ClassVar

from aiolit.errors import ObjectChangedError, ObjectExistsError, ObjectNotFoundError, RangeError
from aiolit.store.base import ByteStream, Data, ObjectInfo, Store, check_range, joined
from aiolit.store.upload import Upload

_PIECE_NBYTES = 1 << 20


class MemoryStore(Store):
    """Objects in a dictionary; a pickle takes a copy of them along.

    Args:
        url: What messages call the store.
    """

    _shared: ClassVar[dict[str, MemoryStore]] = {}

    def __init__(self, url: str = "memory://") -> None:
        self.url = url
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}

    @classmethod
    def shared(cls, url: str) -> MemoryStore:
        """Return the one store of this process that has this URL."""
        return cls._shared.setdefault(url.rstrip("/"), cls(url))

    def _find(self, key: str, etag: str | None = None) -> tuple[bytes, ObjectInfo]:
        url = self.object_url(key)
        try:
            data, info = self._objects[key]
        except KeyError:
            raise ObjectNotFoundError(f"there is no object {url}", url=url) from None
        if etag is not None and info.etag != etag:
            raise ObjectChangedError(f"{url} was replaced while it was read", url=url)
        return data, info

    async def head(self, key: str) -> ObjectInfo:
        return self._find(key)[1]

    async def get(self, key: str) -> bytes:
        return self._find(key)[0]

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> str | None:
        end = start + len(out)
        check_range(self, key, start, end)
        data, info = self._find(key, etag)
        if end > len(data):
            url = self.object_url(key)
            raise RangeError(f"{url} has {len(data)} bytes: no {start} to {end}", url=url)
        if on_etag is not None:
            on_etag(info.etag)
        out[:] = memoryview(data)[start:end]
        if on_progress is not None and len(out):
            on_progress(len(out))
        return info.etag

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        yield _Pieces(*self._find(key, etag), start)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        for key in sorted(self._objects):
            if key.startswith(prefix) and key > after and key in self._objects:
                yield self._objects[key][1]

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        if if_absent and key in self._objects:
            url = self.object_url(key)
            raise ObjectExistsError(f"{url} is there already", url=url)
        self._write(key, joined(data))

    def _write(self, key: str, data: bytes) -> None:
        etag = blake2b(data, digest_size=16).hexdigest()
        self._objects[key] = data, ObjectInfo(key, len(data), etag, time.time())

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        return _MemoryUpload(self, key)

    async def copy(self, src: str, dst: str) -> None:
        self._write(dst, self._find(src)[0])

    async def delete(self, key: str) -> None:
        self._objects.pop(key, None)


class _Pieces(ByteStream):
    def __init__(self, data: bytes, info: ObjectInfo, start: int) -> None:
        self.etag, self.size = info.etag, info.size
        self._data, self._at = data, start

    async def __anext__(self) -> bytes:
        if self._at >= len(self._data):
            raise StopAsyncIteration
        piece = self._data[self._at : self._at + _PIECE_NBYTES]
        self._at += len(piece)
        return piece


class _MemoryUpload(Upload):
    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store, self._key = store, key
        self._parts: dict[int, bytes] = {}

    async def put_part(self, number: int, data: memoryview) -> None:
        self._parts[number] = bytes(data)

    async def complete(self) -> None:
        await self._store.put(self._key, [self._parts[number] for number in sorted(self._parts)])

    async def abort(self) -> None:
        self._parts.clear()
