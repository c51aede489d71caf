"""aiohttp, as every store over HTTP uses it."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from yarl import URL

from aiolit.errors import (
    ConfigError,
    ShortBodyError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from aiolit.store.base import ByteStream
from aiolit.store.http_semantics import check_partial, whole_size

# Measured: larger ones gain little with asyncio and lose a fifth with uvloop.
_READ_BUFFER_NBYTES = 1 << 16
_WRITE_NBYTES = 1 << 18
_ERROR_BODY_NBYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How a store connects.

    Attributes:
        max_connections: How many connections may be open at once; more requests wait for one.
        connect_timeout_s: The longest time to connect, in seconds.
        stall_timeout_s: The longest time without a byte, in seconds. There is no limit on the
            whole: a large object over a thin line is no failure.
        verify: Check the server's certificate: True, False, or the path of a CA bundle.
    """

    max_connections: int = 128
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    verify: bool | str = True

    def __post_init__(self) -> None:
        if self.max_connections < 1:
            raise ConfigError(f"max_connections={self.max_connections} must be at least 1")
        for name in ("connect_timeout_s", "stall_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be more than 0")


class Transport:
    """A pool of connections of one loop. Make it on the loop; close it there."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.max_connections, ssl=_tls(options.verify)),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=options.connect_timeout_s,
                sock_read=options.stall_timeout_s,
            ),
            # Bytes as they are stored: a range of an unpacked body would be nonsense.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BUFFER_NBYTES,
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("Content-Type",),
        )
        self._stall_timeout_s = options.stall_timeout_s
        # aiohttp's own trust_env also sends passwords of ~/.netrc along.
        self._proxies = urllib.request.getproxies()
        self._proxy_of: dict[tuple[str, str | None], str | None] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        address: str,
        *,
        url: str,
        headers: Mapping[str, str],
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and open its answer, whatever its status; no redirect is followed.

        The answer is an ``async with`` block of the caller's: leaving it with body left to read
        drops the connection. (Each store hands it on as it is. Context managers within context
        managers, one a layer, were a tenth of a small read.)

        Args:
            method: The verb.
            address: Where to; encoded already.
            url: What messages call the object.
            headers: All that the request needs.
            body: What to send.

        Raises:
            StoreUnavailableError: The server cannot be reached, or went away.
            StoreTimeoutError: No byte came for too long.
            StoreError: Its certificate is not trusted.
        """
        target = URL(address, encoded=True)
        with NetworkErrors(url):
            return await self._session.request(
                method,
                target,
                headers=headers,
                data=None if body is None else _Body(body, self._stall_timeout_s),
                allow_redirects=False,
                proxy=self._proxy(target) if self._proxies else None,
            )

    def _proxy(self, target: URL) -> str | None:
        origin = target.scheme, target.host
        if origin not in self._proxy_of:  # to look up who needs none takes as long as a request
            proxy = self._proxies.get(target.scheme)
            bypassed = target.host and urllib.request.proxy_bypass(target.host)
            self._proxy_of[origin] = None if bypassed else proxy
        return self._proxy_of[origin]


async def receive(
    response: aiohttp.ClientResponse,
    start: int,
    out: memoryview,
    *,
    url: str,
    version: str | None,
    on_etag: Callable[[str | None], None] | None,
    on_progress: Callable[[int], None] | None,
) -> None:
    """Copy the body of an answer to a range request into ``out``.

    Raises:
        RangeError: The answer holds other bytes.
        ShortBodyError: It ended early.
    """
    wanted = len(out)
    check_partial(response.status, response.headers, start, start + wanted, url=url)
    if on_etag is not None:
        on_etag(version)
    done, content = 0, response.content
    with NetworkErrors(url):
        while done < wanted:
            # Piece by piece as they came: readany() would join them, which is one more copy.
            piece, _ = await content.readchunk()
            if not piece and content.at_eof():
                raise ShortBodyError(
                    f"{url}: the body ended after {done} of {wanted} bytes", url=url
                )
            count = min(len(piece), wanted - done)
            out[done : done + count] = piece if count == len(piece) else piece[:count]
            done += count
            if on_progress is not None:
                on_progress(count)


class ResponseStream(ByteStream):
    """The body of an answer, piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse, version: str | None, url: str) -> None:
        self.etag = version
        self.size = whole_size(response.status, response.headers)
        self._response, self._url = response, url

    async def __anext__(self) -> bytes:
        with NetworkErrors(self._url):
            piece = await self._response.content.readany()
        if not piece:
            raise StopAsyncIteration
        return piece


async def error_body(response: aiohttp.ClientResponse, url: str) -> str:
    """Return the text of a refusing answer, or its beginning, and let the answer go."""
    pieces: list[bytes] = []
    with NetworkErrors(url):
        async with response:
            while sum(map(len, pieces)) < _ERROR_BODY_NBYTES:
                piece = await response.content.read(_ERROR_BODY_NBYTES)
                if not piece:
                    break
                pieces.append(piece)
    return b"".join(pieces).decode("utf-8", "replace")


async def json_body(response: aiohttp.ClientResponse, url: str) -> Any:
    """Return what an answer's body says in JSON.

    Raises:
        StoreError: It is something else.
    """
    with NetworkErrors(url):
        text = await response.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"{url}: the answer is not JSON: {text[:80]!r}", url=url) from error


class NetworkErrors:
    """Turns the errors of aiohttp that leave its block into the store's.

    A class, since a generator's context manager costs ten times as much, three times a request.
    """

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, StoreError):
            mapped = _mapped(error, self._url)
            if mapped is not None:
                raise mapped from error


def _mapped(error: BaseException, url: str) -> Exception | None:
    """Return what the store says of an error; None for what is no error of the network."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return StoreError(
                f"{url}: the server's certificate is not trusted ({error}); verify= takes the "
                "path of a CA bundle",
                url=url,
            )
        case aiohttp.ClientSSLError():
            return StoreError(f"{url}: no secure connection came about ({error})", url=url)
        case aiohttp.ClientConnectorDNSError():
            return _unreached(
                StoreUnavailableError(
                    f"{url}: the host {error.host!r} is unknown; check the URL, or endpoint_url, "
                    "and the network",
                    url=url,
                )
            )
        case aiohttp.ClientConnectorError():
            return _unreached(
                StoreUnavailableError(
                    f"{url}: no connection to {error.host}:{error.port} ({error.strerror})",
                    url=url,
                )
            )
        case aiohttp.ConnectionTimeoutError():
            return _unreached(
                StoreTimeoutError(f"{url}: no connection came about in time", url=url)
            )
        case aiohttp.InvalidURL():
            return ConfigError(f"{url}: {error} is not a URL")
        case TimeoutError():
            return StoreTimeoutError(f"{url}: no byte came for too long", url=url)
        case aiohttp.ClientPayloadError():
            return ShortBodyError(f"{url}: the body ended early ({error})", url=url)
        case aiohttp.ClientResponseError():
            # Not a refusal, which has a status: the parser gave up.
            return StoreError(
                f"{url}: what the server answered is not proper HTTP ({error.message})", url=url
            )
        case aiohttp.ClientError() | OSError():
            return StoreUnavailableError(
                f"{url}: the connection failed ({str(error) or type(error).__name__})", url=url
            )
    return None


_Error = StoreUnavailableError | StoreTimeoutError


def _unreached(error: _Error) -> _Error:
    error.reached = False
    return error


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


class _Body(aiohttp.Payload):
    """Buffers that are sent in slices, and again if aiohttp has to reconnect."""

    def __init__(self, parts: list[memoryview], stall_timeout_s: float) -> None:
        super().__init__(parts)
        self._parts, self._stall_timeout_s = parts, stall_timeout_s
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            for part in self._parts:
                for at in range(0, len(part), _WRITE_NBYTES):
                    # aiohttp watches for a stall only once the body is out.
                    async with asyncio.timeout(self._stall_timeout_s):
                        await writer.write(part[at : at + _WRITE_NBYTES])
        except BaseException:
            # A mere close() would wait until the peer has read what is buffered.
            if isinstance(writer, StreamWriter) and writer.transport is not None:
                writer.transport.abort()
            raise
