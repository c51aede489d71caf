"""HttpStore keeps the reading half of the contract, against aiohttp's file server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from aiolit.errors import AccessDeniedError, ConfigError, RangeError, StoreError
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.http import HttpStore
from aiolit.testing.store_contract import RawObjects, ReadContract

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(*routes: web.AbstractRouteDef) -> AsyncIterator[str]:
    """Run a web server on a free port."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class RawFolder(RawObjects):
    """The folder that is served."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def read(self, key: str) -> bytes | None:
        return (self._root / key).read_bytes()


class TestHttpStore(ReadContract):
    lists = False

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        async with (
            serving(web.static("/files", tmp_path)) as url,
            HttpStore(f"{url}/files/") as store,
        ):
            yield store

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawObjects:
        return RawFolder(tmp_path)

    async def test_keys_cannot_leave_the_root(self, store: Store, tmp_path: Path) -> None:
        for key in ("../a", "a/../../b", "./a"):
            with pytest.raises(ConfigError, match="cannot be a key"):
                await store.get(key)

    async def test_writing_and_listing_are_refused(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"1")
        for call in (
            store.put("a", b"1"),
            store.put_file("a", tmp_path / "file"),
            store.copy("a", "b"),
            store.delete("a"),
        ):
            with pytest.raises(StoreError, match="http:// is for reading only"):
                await call
        with pytest.raises(StoreError, match="cannot be listed"):
            store.list()


async def test_a_server_without_ranges() -> None:
    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=bytes(range(100)))

    async with serving(web.get("/a", whole)) as url, open_store(url) as store:
        assert await store.get("a") == bytes(range(100))
        assert await store.get_range("a", 0, 10) == bytes(range(10))
        with pytest.raises(RangeError, match="does not serve byte ranges"):
            await store.get_range("a", 1, 10)


async def test_an_address_that_is_signed_for_get() -> None:
    """It refuses a HEAD, and its signature is not in the messages."""

    async def signed(request: web.Request) -> web.StreamResponse:
        if request.method != "GET" or request.query != {"sig": "secret"}:
            raise web.HTTPForbidden
        return web.Response(
            status=206, body=b"1", headers={"Content-Range": "bytes 0-0/1234", "ETag": '"v"'}
        )

    async with (
        serving(web.get("/x/a", signed)) as url,
        open_store(f"{url}/x?sig=secret") as store,
    ):
        info = await store.head("a")
        assert (info.size, info.etag) == (1234, '"v"')
        assert "secret" not in repr(store)


async def test_headers_stay_with_the_first_host() -> None:
    seen: list[str | None] = []

    async def end(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=b"12345")

    async with serving(web.get("/end", end)) as other:

        async def begin(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            where = {"near": "/second", "far": f"{other}/end", "loop": "/files/loop"}
            raise web.HTTPFound(where[request.match_info["name"]])

        async def second(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            return web.Response(body=b"67890")

        routes = [web.get("/files/{name}", begin), web.get("/second", second)]
        async with serving(*routes) as url:
            options = {"headers": {"Authorization": "secret"}}
            async with open_store(f"{url}/files", storage_options=options) as store:
                assert await store.get("far") == b"12345"
                assert seen == ["secret", None]
                assert await store.get("near") == b"67890"
                assert seen[2:] == ["secret", "secret"]
                with pytest.raises(StoreError, match="redirects"):
                    await store.get("loop")


async def test_a_login_is_asked_for() -> None:
    async def refuse(request: web.Request) -> web.Response:
        raise web.HTTPUnauthorized

    async with serving(web.get("/a", refuse)) as url, open_store(url) as store:
        with pytest.raises(AccessDeniedError, match=r"401.*'headers'"):
            await store.get("a")


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="did you mean 'headers'"):
        open_store("https://host/x", storage_options={"header": {}})
    with pytest.raises(ConfigError, match="session_options"):
        open_store("https://host/x", session_options={"region_name": "x"})
    with pytest.raises(ConfigError, match="no host"):
        open_store("https:///x")
