"""A store around a store: each verb passes through until a subclass says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from aiolit.store.base import Buffer, ByteStream, Data, ObjectInfo, Store
from aiolit.store.upload import Upload


class WrappedStore(Store):
    """Pass every verb on to ``inner``."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url

    async def head(self, key: str) -> ObjectInfo:
        return await self.inner.head(key)

    async def get(self, key: str) -> bytes:
        return await self.inner.get(key)

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        return await self.inner.get_range(key, start, end, etag=etag)

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
        return await self.inner.read_into(
            key, start, out, etag=etag, on_etag=on_etag, on_progress=on_progress
        )

    def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AbstractAsyncContextManager[ByteStream]:
        return self.inner.stream(key, start, etag=etag)

    def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        return self.inner.list(prefix, after=after)

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        await self.inner.put(key, data, if_absent=if_absent)

    async def put_file(self, key: str, path: str | Path) -> None:
        await self.inner.put_file(key, path)

    async def put_stream(self, key: str, chunks: AsyncIterator[Buffer]) -> None:
        await self.inner.put_stream(key, chunks)

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        return await self.inner.open_upload(key, nbytes=nbytes)

    async def copy(self, src: str, dst: str) -> None:
        await self.inner.copy(src, dst)

    async def delete(self, key: str) -> None:
        await self.inner.delete(key)

    async def aclose(self) -> None:
        await self.inner.aclose()

    def object_url(self, key: str) -> str:
        return self.inner.object_url(key)
