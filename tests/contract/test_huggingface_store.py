"""HuggingFaceStore against a stand-in for the Hub: the Hub on one port, its CDN on another."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha1, sha256

import pytest
from aiohttp import web

from aiolit.errors import AccessDeniedError, ConfigError, ObjectNotFoundError, StoreError
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.hub_url import HubUrl, parse_hub_url
from aiolit.store.huggingface import HuggingFaceStore
from aiolit.testing.store_contract import RawObjects, ReadContract

LARGE = 1000
PAGE = 3


class Hub:
    """Repositories as the Hub serves them: small files itself, large ones by a signed address."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.token: str | None = None
        self.signature = 1
        self.asked: list[str] = []
        self.hub = self.cdn = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        hub, cdn = web.Application(), web.Application()
        hub.router.add_route("*", "/datasets/owner/name/resolve/{rev}/{path:.*}", self.resolve)
        hub.router.add_get("/api/datasets/owner/name/tree/{rev}", self.tree)
        hub.router.add_get("/api/datasets/owner/name/tree/{rev}/{path:.*}", self.tree)
        hub.router.add_route("*", "/{other:.*}", self.no_repository)
        cdn.router.add_get("/blob/{path:.*}", self.blob)
        runners = [web.AppRunner(app, shutdown_timeout=1) for app in (hub, cdn)]
        addresses = []
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            addresses.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        self.hub, self.cdn = addresses
        try:
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    def check(self, request: web.Request) -> None:
        self.asked.append(f"{request.method} hub")
        wanted = None if self.token is None else f"Bearer {self.token}"
        if wanted is not None and request.headers.get("Authorization") != wanted:
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "GatedRepo"})
        if request.match_info["rev"] not in ("main", "refs/convert/parquet"):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        self.check(request)
        path = request.match_info["path"]
        data = self.files.get(path)
        if data is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        if len(data) < LARGE:
            return ranged(request, data, {"ETag": f'"{sha1(data).hexdigest()}"'})
        raise web.HTTPFound(
            f"{self.cdn}/blob/{request.rel_url.raw_path.partition('/resolve/')[2]}"
            f"?sig={self.signature}",
            headers={
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{sha256(data).hexdigest()}"',
            },
        )

    async def blob(self, request: web.Request) -> web.StreamResponse:
        self.asked.append("GET cdn")
        if "Authorization" in request.headers:
            raise web.HTTPBadRequest(reason="the token was leaked")
        if request.query["sig"] != str(self.signature):
            raise web.HTTPForbidden
        data = self.files[request.match_info["path"].partition("/")[2]]
        return ranged(request, data, {"ETag": '"another"'})

    async def tree(self, request: web.Request) -> web.Response:
        self.check(request)
        folder = request.match_info.get("path", "")
        names = [n for n in self.files if not folder or n.startswith(f"{folder}/")]
        if folder and not names:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        at = int(request.query.get("cursor", "0"))
        entries = [self.entry(name) for name in names[at : at + PAGE]]
        headers = {}
        if at + PAGE < len(names):
            headers["Link"] = f'<{request.url.update_query(cursor=at + PAGE)}>; rel="next"'
        return web.Response(text=json.dumps(entries), headers=headers)

    def entry(self, name: str) -> dict[str, object]:
        data = self.files[name]
        entry = {
            "type": "file",
            "path": name,
            "size": len(data),
            "oid": sha1(data).hexdigest(),
        }
        return entry if len(data) < LARGE else {**entry, "lfs": {"oid": sha256(data).hexdigest()}}

    async def no_repository(self, request: web.Request) -> web.Response:
        raise web.HTTPUnauthorized(headers={"X-Error-Code": "RepoNotFound"})


def ranged(request: web.Request, data: bytes, headers: dict[str, str]) -> web.Response:
    asked = request.http_range
    start = asked.start or 0
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(len(data))})
    if asked.start is None and asked.stop is None:
        return web.Response(body=data, headers=headers)
    if start >= len(data):
        raise web.HTTPRequestRangeNotSatisfiable
    part = data[start : asked.stop]
    span = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
    return web.Response(status=206, body=part, headers={**headers, "Content-Range": span})


class RawHub(RawObjects):
    """The stand-in's files."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def write(self, key: str, data: bytes) -> None:
        self._hub.files[f"data/{key}"] = data

    async def read(self, key: str) -> bytes | None:
        return self._hub.files.get(f"data/{key}")


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = Hub()
    async with hub.serving():
        yield hub


def open_hub(hub: Hub, path: str = "data", **options: object) -> Store:
    url = f"hf://datasets/owner/name/{path}"
    return open_store(url, storage_options={"endpoint": hub.hub, "anon": True, **options})


class TestHuggingFaceStore(ReadContract):
    @pytest.fixture
    async def store(self, hub: Hub) -> AsyncIterator[Store]:
        url = "hf://datasets/owner/name@main/data"
        async with HuggingFaceStore(url, {"endpoint": hub.hub, "anon": True}) as store:
            yield store

    @pytest.fixture
    def raw(self, hub: Hub) -> RawObjects:
        return RawHub(hub)


async def test_the_token_is_for_the_hub_only(hub: Hub) -> None:
    """The stand-in's CDN answers 400 to a request that has it."""
    hub.files = {"data/large": bytes(5000), "data/small": b"12345"}
    hub.token = "secret"
    async with open_hub(hub) as store:
        for call in (store.get("small"), store.get("large"), store.head("large")):
            with pytest.raises(AccessDeniedError, match="HF_TOKEN"):
                await call
        with pytest.raises(AccessDeniedError, match="HF_TOKEN"):
            await anext(store.list())
    async with open_hub(hub, anon=False, token="secret") as store:
        assert await store.get("small") == b"12345"
        assert await store.get("large") == bytes(5000)
        assert [info.key async for info in store.list()] == ["large", "small"]


@pytest.fixture
def environment() -> Iterator[os._Environ[str]]:
    """The process's variables; put back afterwards."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


async def test_token_and_endpoint_of_the_environment(
    hub: Hub, environment: os._Environ[str]
) -> None:
    hub.files, hub.token = {"a": b"1"}, "secret"
    environment["HF_TOKEN"], environment["HF_ENDPOINT"] = "secret", hub.hub
    async with open_store("hf://datasets/owner/name") as store:
        assert await store.get("a") == b"1"


async def test_a_signed_address_is_used_again_until_it_runs_out(hub: Hub) -> None:
    data = os.urandom(10_000)
    hub.files = {"data/large": data}
    async with open_hub(hub) as store:
        for at in (0, 1000, 2000):
            assert await store.get_range("large", at, at + 1000) == data[at : at + 1000]
        assert hub.asked == ["GET hub", "GET cdn", "GET cdn", "GET cdn"]
        hub.signature, hub.asked = 2, []
        assert await store.get_range("large", 5, 2000) == data[5:2000]
        assert hub.asked == ["GET cdn", "GET hub", "GET cdn"]
        assert (await store.head("large")).etag == f'"{sha256(data).hexdigest()}"'


async def test_what_is_missing(hub: Hub) -> None:
    hub.files = {"a": b"1"}
    options = {"endpoint": hub.hub, "anon": True}
    url = "hf://datasets/owner/name@nowhere"
    async with open_store(url, storage_options=options) as store:
        with pytest.raises(ObjectNotFoundError, match="no revision 'nowhere' of datasets/owner"):
            await store.get("a")
    async with open_store("hf://datasets/no/such", storage_options=options) as store:
        for call in (store.get("a"), anext(store.list())):
            with pytest.raises(ObjectNotFoundError, match="no repository datasets/no/such"):
                await call
    url = "hf://datasets/owner/name@refs/convert/parquet"
    async with open_store(url, storage_options=options) as store:
        assert await store.get("a") == b"1"
        with pytest.raises(StoreError, match="reading only"):
            await store.put("b", b"1")


def test_urls() -> None:
    assert parse_hub_url("hf://datasets/o/n/a/b/") == HubUrl("dataset", "o/n", "main", "a/b")
    assert parse_hub_url("hf://o/n@v1.0") == HubUrl("model", "o/n", "v1.0", "")
    assert parse_hub_url("hf://spaces/o/n@refs/pr/3/x") == HubUrl("space", "o/n", "refs/pr/3", "x")
    revision = parse_hub_url("hf://datasets/o/n@refs%2Fconvert%2Fparquet/x").revision
    assert revision == "refs/convert/parquet"
    for wrong in ("hf://", "hf://datasets/only", "hf://datasets/o"):
        with pytest.raises(ConfigError, match="hf://datasets/owner/name"):
            open_store(wrong)
