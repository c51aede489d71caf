"""Objects on a web server that serves byte ranges; for reading only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from aiolit.errors import ConfigError, StoreError
from aiolit.store.base import ObjectInfo
from aiolit.store.http_reads import HttpReads, Versioned
from aiolit.store.http_semantics import (
    content_length,
    if_match,
    modified,
    range_header,
    status_error,
    whole_size,
)
from aiolit.store.loop_bound import LoopBound
from aiolit.store.options import check_key, reject_unknown, take_connection_options
from aiolit.store.read_only import ReadOnly
from aiolit.store.redirects import follow
from aiolit.store.transport import ConnectionOptions, Transport

_ACCESS_HELP = (
    "a server that wants a login takes it from storage_options={'headers': {'Authorization': ...}}"
)
_NO_HEAD = frozenset({403, 405, 501})


class HttpStore(LoopBound[Transport], HttpReads, ReadOnly):
    """The files below ``https://host/path``.

    The server must answer range requests; a read that begins at 0 works without. There is no
    standard way to list, so ``list`` is an error. Redirects are followed; the headers that were
    given are sent to the first host only.

    Args:
        url: ``http://`` or ``https://``; a query is kept, behind each key.
        storage_options: ``headers``, a mapping; ``verify``; and ``max_connections``,
            ``connect_timeout_s``, ``stall_timeout_s``.
        session_options: None are known.

    Raises:
        ConfigError: An unknown option, or a URL without a host.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = dict(storage_options or {})
        connection = take_connection_options(given)
        scheme, _, rest = url.partition("://")
        reject_unknown(given, ("headers", "verify"), which="storage_options", scheme=scheme)
        reject_unknown(session_options or {}, (), which="session_options", scheme=scheme)
        if not rest.partition("/")[0].partition("?")[0]:
            raise ConfigError(f"{url!r} has no host")
        base, mark, query = url.partition("?")
        # A query is often a signature: it is sent, but not shown.
        self.url = base.rstrip("/")
        self._query = mark + query
        self._private: dict[str, str] = dict(given.get("headers") or {})
        self._connection = ConnectionOptions(verify=given.get("verify", True), **connection)

    async def _open_client(self) -> Transport:
        return Transport(self._connection)

    def _address(self, key: str) -> str:
        return f"{self.url}/{quote(check_key(key, self.url), safe='/-_.~')}{self._query}"

    async def _send(
        self, method: str, key: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        followed = await follow(
            await self._client(),
            method,
            self._address(key),
            url=self.object_url(key),
            headers=headers,
            private=self._private,
        )
        return followed.response

    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        response = await self._send("GET", key, {**headers, **if_match(etag)})
        self._check(response, key)
        return Versioned(response, response.headers.get("ETag"))

    def _check(self, response: aiohttp.ClientResponse, key: str) -> None:
        if response.status >= 300:
            response.release()
            raise status_error(
                response.status,
                response.headers,
                url=self.object_url(key),
                detail=response.reason or "",
                access_help=_ACCESS_HELP,
            )

    async def head(self, key: str) -> ObjectInfo:
        async with await self._send("HEAD", key, {}) as response:
            if response.status not in _NO_HEAD:
                self._check(response, key)
                return self._info(key, response, content_length(response.headers))
        # Addresses that are signed for GET refuse a HEAD.
        async with await self._send("GET", key, {"Range": range_header(0, 1)}) as response:
            if response.status == 416:
                return self._info(key, response, 0)
            self._check(response, key)
            return self._info(key, response, whole_size(response.status, response.headers))

    def _info(self, key: str, response: aiohttp.ClientResponse, size: int | None) -> ObjectInfo:
        if size is None:
            url = self.object_url(key)
            raise StoreError(f"{url}: the server does not say its size", url=url)
        return ObjectInfo(key, size, response.headers.get("ETag"), modified(response.headers))

    def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """Raise a ``StoreError``: a web server has no listing."""
        url = self.object_url(prefix)
        raise StoreError(
            f"{url} cannot be listed: there is no standard way over HTTP; name the files, or use "
            "a data set that has an index.json",
            url=url,
        )
