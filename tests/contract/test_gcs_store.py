"""GcsStore keeps the contract, against an emulator."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from aiolit.errors import AccessDeniedError, ConfigError, ObjectNotFoundError
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.gcs import GcsStore
from aiolit.testing.faulty_server import Answer, FaultyServer
from aiolit.testing.store_contract import RawObjects, StoreContract

ROOT = "a folder/data"


class RawBucket(RawObjects):
    """A bucket of its own, through urllib."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self._call("POST", "/storage/v1/b", json.dumps({"name": self.bucket}).encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json" if "upload" not in path else "x/y"}
        request = urllib.request.Request(f"{self._url}{path}", body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            data: bytes = response.read()
        return data

    def _object(self, key: str) -> str:
        return f"/storage/v1/b/{self.bucket}/o/{quote(f'{ROOT}/{key}', safe='')}?alt=media"

    async def write(self, key: str, data: bytes) -> None:
        name = quote(f"{ROOT}/{key}", safe="")
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=media&name={name}"
        await asyncio.to_thread(self._call, "POST", path, data)

    async def read(self, key: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self._call, "GET", self._object(key))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return None


@pytest.fixture
def bucket(gcs_url: str) -> RawBucket:
    return RawBucket(gcs_url)


class TestGcsStore(StoreContract):
    @pytest.fixture
    async def store(self, bucket: RawBucket, gcs_url: str) -> AsyncIterator[Store]:
        options = {"endpoint": gcs_url, "anon": True}
        async with GcsStore(f"gs://{bucket.bucket}/{ROOT}", options) as store:
            yield store

    @pytest.fixture
    def raw(self, bucket: RawBucket) -> RawObjects:
        return bucket


@pytest.fixture
def environment() -> Iterator[os._Environ[str]]:
    """The process's variables; put back afterwards."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_the_emulators_variable(
    bucket: RawBucket, gcs_url: str, environment: os._Environ[str], scheme: str
) -> None:
    await bucket.write("a", b"12345")
    environment["STORAGE_EMULATOR_HOST"] = gcs_url.replace("http://", scheme)
    url = f"gs://{bucket.bucket}/{ROOT}"
    async with open_store(url, storage_options={"project": "mine"}) as store:
        assert await store.get_range("a", 1, 3) == b"23"


async def test_a_bucket_that_is_not_there(gcs_url: str) -> None:
    options = {"endpoint": gcs_url, "anon": True}
    async with open_store("gs://no-such-bucket", storage_options=options) as store:
        for call in (store.get("a"), store.put("a", b"1")):
            with pytest.raises(ObjectNotFoundError, match="no-such-bucket"):
                await call


async def test_who_asks_and_who_pays() -> None:
    async with FaultyServer() as server:
        server.answers.extend([Answer(status=200, body=b"1"), Answer(status=403)])
        options = {"endpoint": server.url, "token": "secret", "project": "payer"}
        async with open_store("gs://bucket/x", storage_options=options) as store:
            assert await store.get("a") == b"1"
            with pytest.raises(AccessDeniedError, match="GOOGLE_APPLICATION_CREDENTIALS"):
                await store.get("a")
        asked = server.asked[0]
        assert asked.headers["authorization"] == "Bearer secret"
        assert asked.path == "/storage/v1/b/bucket/o/x%2Fa?alt=media&userProject=payer"


async def test_a_service_account_signs_in(tmp_path: Path) -> None:
    """Its key is exchanged for a token, which the store then sends."""
    async with FaultyServer() as server:
        key_file = tmp_path / "key.json"
        key_file.write_text(
            json.dumps(
                {
                    "type": "authorized_user",
                    "client_id": "me",
                    "client_secret": "s",
                    "refresh_token": "r",
                    "token_uri": f"{server.url}/token",
                }
            )
        )
        token = b'{"access_token": "fresh", "expires_in": 3600}'
        json_type = {"Content-Type": "application/json"}
        server.answers.extend(
            [
                Answer(status=200, body=token, headers=json_type),
                Answer(status=200, body=b"1"),
                Answer(status=200, body=b"2"),
            ]
        )
        options = {"endpoint": server.url, "service_file": str(key_file)}
        async with open_store("gs://bucket", storage_options=options) as store:
            assert await store.get("a") == b"1"
            assert await store.get("a") == b"2"
        assert [asked.method for asked in server.asked] == ["POST", "GET", "GET"]
        assert server.asked[2].headers["authorization"] == "Bearer fresh"


async def test_a_resumable_upload_goes_on_where_the_server_is() -> None:
    """The first part's answer is lost; the server says what it has, and gets the rest."""
    part = 16 << 20
    async with FaultyServer() as server:
        server.answers.extend(
            [
                Answer(status=200, headers={"Location": f"{server.url}/session"}),
                Answer(silent=True, then="close"),
                Answer(silent=True, then="close"),
                Answer(status=308, headers={"Range": "bytes=0-99"}),
                Answer(status=308, headers={"Range": f"bytes=0-{part - 1}"}),
                Answer(status=200),
            ]
        )

        async def chunks() -> AsyncIterator[bytes]:
            yield bytes(part)
            yield b"end"

        options = {"endpoint": server.url, "anon": True}
        async with open_store("gs://bucket", storage_options=options) as store:
            await store.put_stream("a", chunks())
        ranges = [asked.headers.get("content-range") for asked in server.asked]
        assert ranges == [
            None,
            f"bytes 0-{part - 1}/*",
            f"bytes 0-{part - 1}/*",
            "bytes */*",
            f"bytes 100-{part - 1}/*",
            f"bytes {part}-{part + 2}/{part + 3}",
        ]


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="did you mean 'project'"):
        open_store("gs://bucket", storage_options={"projct": "x"})
    with pytest.raises(ConfigError, match="gs://bucket/prefix"):
        open_store("gs://")
