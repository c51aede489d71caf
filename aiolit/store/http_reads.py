"""Reading over HTTP, the same for every store that answers range requests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp

from aiolit.store.base import ByteStream, Store, check_range
from aiolit.store.http_semantics import check_start, check_version, range_header
from aiolit.store.transport import NetworkErrors, ResponseStream, receive


class Versioned(NamedTuple):
    """An answer, and the version of the object that it is of."""

    response: aiohttp.ClientResponse
    etag: str | None


class HttpReads(Store):
    """``read_into`` and ``stream`` by GET; a subclass says where to and who signs."""

    @abstractmethod
    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        """Open the answer to a GET, of version ``etag`` where the server can be told.

        The caller leaves the answer by its ``async with`` block.

        Raises:
            StoreError: The answer's status is 300 or more.
        """

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
        """Fill ``out``; see ``Store.read_into``."""
        end = start + len(out)
        check_range(self, key, start, end)
        if start == end:
            return etag
        url = self.object_url(key)
        response, version = await self._get(key, {"Range": range_header(start, end)}, etag)
        async with response:
            check_version(etag, version, url=url)
            await receive(
                response,
                start,
                out,
                url=url,
                version=version,
                on_etag=on_etag,
                on_progress=on_progress,
            )
            return version

    async def get_at_once(self, key: str) -> bytes:
        """Return a small object; see ``Store.get_at_once``."""
        url = self.object_url(key)
        response, _ = await self._get(key, {}, None)
        async with response:
            check_start(response.status, response.headers, 0, url=url)
            with NetworkErrors(url):
                return await response.read()

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        """Open the object from ``start`` to its end; see ``Store.stream``."""
        url = self.object_url(key)
        headers = {"Range": range_header(start, None)} if start else {}
        response, version = await self._get(key, headers, etag)
        async with response:
            check_version(etag, version, url=url)
            check_start(response.status, response.headers, start, url=url)
            yield ResponseStream(response, version, url)
