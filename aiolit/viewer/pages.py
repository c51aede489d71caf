"""The viewer's pages over HTTP: one page, what it asks for, and nothing for other origins."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from aiolit.errors import AiolitError, ConfigError
from aiolit.runtime.blocking import in_thread
from aiolit.viewer.gauges import Gauges
from aiolit.viewer.leaves import one_sentence
from aiolit.viewer.nodes import Shown
from aiolit.viewer.samples import Samples

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PERIOD_S = 1.0  # between two looks at the gauges
_MOST_SAMPLES = 100
_STATIC = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Pages:
    """What is served: a data set to browse, a loader to watch, or both.

    Args:
        samples: The data set.
        gauges: The loader.
        host: The address that is listened on.
    """

    def __init__(self, samples: Samples | None, gauges: Gauges | None, host: str) -> None:
        self._samples, self._gauges = samples, gauges
        self._names = {"localhost", host, socket.gethostname()}
        self._closing = asyncio.Event()
        # Whoever can reach the port but was not given the address finds nothing.
        self.path = f"/{secrets.token_urlsafe(9)}/"

    def application(self) -> web.Application:
        """Return the application for the running loop."""
        app = web.Application(middlewares=[self._guard])
        for path, handler in (
            ("", self._page),
            ("static/{name}", self._static),
            ("api/about", self._about),
            ("api/schema", self._schema),
            ("api/chunks", self._chunks),
            ("api/samples", self._show),
            ("api/live", self._live),
            ("media/{sample:[0-9]+}/{number:[0-9]+}", self._media),
        ):
            app.router.add_get(self.path + path, handler)
        app.on_shutdown.append(self._end)
        return app

    async def _end(self, app: web.Application) -> None:
        self._closing.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other hosts' names, add the headers, and turn errors into one sentence."""
        response: web.StreamResponse
        if not is_own_name(request.headers.get("Host", ""), self._names):
            # A page of somebody else's whose name leads here by now (DNS rebinding).
            response = _failed(403, "this address is not one of the viewer's")
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = _failed(error.status, "there is nothing here; open the whole address")
            except (IndexError, ConfigError) as error:
                response = _failed(404, one_sentence(error))
            except (AiolitError, OSError) as error:
                response = _failed(502, one_sentence(error))
        if not response.prepared:
            response.headers.update(_HEADERS | dict(response.headers))
        return response

    async def _page(self, request: web.Request) -> web.Response:
        return _static_file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return _static_file(request.match_info["name"])

    async def _about(self, request: web.Request) -> web.Response:
        facts = None if self._samples is None else self._samples.browser.facts()
        return web.json_response({"data": facts, "live": self._gauges is not None})

    async def _chunks(self, request: web.Request) -> web.Response:
        return web.json_response(self._browsed().browser.chunks())

    async def _schema(self, request: web.Request) -> web.Response:
        """Say which leaves there are; names that the index lacks are those of the first sample."""
        samples = self._browsed()
        leaves = samples.browser.facts().get("leaves", [])
        if samples.browser.count and all(leaf["path"].startswith("leaf ") for leaf in leaves):
            (first,) = await samples.get([0])
            if isinstance(first, Shown):
                children = first.tree.get("children", [])
                if len(children) == len(leaves):
                    for leaf, child in zip(leaves, children, strict=True):
                        leaf["path"] = child["name"]
        return web.json_response({"leaves": leaves})

    async def _show(self, request: web.Request) -> web.Response:
        samples = self._browsed()
        first = _whole(request, "first", 0)
        count = min(_whole(request, "count", 1), _MOST_SAMPLES, samples.browser.count - first)
        numbers = range(first, first + max(1, count))
        found = [
            {"number": number, "tree": one.tree}
            if isinstance(one, Shown)
            else {"number": number, "error": one}
            for number, one in zip(numbers, await samples.get(numbers), strict=True)
        ]
        return web.json_response({"first": first, "samples": found})

    async def _media(self, request: web.Request) -> web.Response:
        sample, number = (int(request.match_info[name]) for name in ("sample", "number"))
        (found,) = await self._browsed().get([sample])
        if isinstance(found, str):
            return _failed(502, found)
        if number >= len(found.media):
            raise IndexError(f"sample {sample:,} has no part {number}")
        media = found.media[number]
        return _part(request, media.mime, await in_thread(media.content))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Send the gauges as server-sent events until one of the two sides leaves."""
        if self._gauges is None:
            raise ConfigError("no loader is watched")
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the page was left
            while not self._closing.is_set():
                figures = json.dumps(await in_thread(self._gauges.now), default=str)
                await response.write(f"data: {figures}\n\n".encode())
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PERIOD_S):
                        await self._closing.wait()
            # Said in words: a forked worker may hold the connection open for longer.
            await response.write(b"event: end\ndata: \n\n")
        return response

    def _browsed(self) -> Samples:
        if self._samples is None:
            raise ConfigError("there is no data set to browse, only a loader to watch")
        return self._samples


@asynccontextmanager
async def listening(pages: Pages, host: str, port: int) -> AsyncIterator[str]:
    """Serve pages on the running loop while the block runs; yield their address.

    Raises:
        ConfigError: The host or the port cannot be used.
    """
    runner = web.AppRunner(pages.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"port {port} of {host} cannot be listened on: {error.strerror or error}"
            ) from error
        bound = runner.addresses[0][1]
        yield f"http://{shown_host(host)}:{bound}{pages.path}"
    finally:
        await runner.cleanup()


def shown_host(host: str) -> str:
    """Return the name under which a browser finds an address that is listened on."""
    if host in ("", "0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def is_own_name(host: str, names: set[str]) -> bool:
    """Whether a request's ``Host`` is a number, or one of our own names, which others cannot
    point elsewhere."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in {one.lower() for one in names}:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _static_file(name: str) -> web.Response:
    kind = _STATIC.get(name[name.rfind(".") :])
    file = files("aiolit.viewer").joinpath("static", name)
    if kind is None or not file.is_file():
        raise web.HTTPNotFound
    return web.Response(body=file.read_bytes(), content_type=kind, charset="utf-8")


def _part(request: web.Request, mime: str, data: bytes) -> web.Response:
    """Answer with bytes, or with the range of them that a player asks for."""
    headers = {
        "Content-Type": mime,
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if mime == "application/octet-stream":
        headers["Content-Disposition"] = 'attachment; filename="leaf.bin"'
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)
    start, stop, _ = slice(wanted.start, wanted.stop).indices(len(data))
    if (start, stop) == (0, len(data)):
        return web.Response(body=data, headers=headers)
    if start >= stop:
        headers["Content-Range"] = f"bytes */{len(data)}"
        return web.Response(status=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return web.Response(status=206, body=data[start:stop], headers=headers)


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ConfigError(f"{name}={text!r} is no whole number")
    return int(text)


def _failed(status: int, sentence: str) -> web.Response:
    data: dict[str, Any] = {"error": sentence}
    return web.json_response(data, status=status)
