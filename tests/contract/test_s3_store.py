"""S3Store keeps the contract, and takes the options that boto3 and LitData take."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore
import pytest
from botocore.config import Config

from aiolit.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectNotFoundError,
    StoreUnavailableError,
)
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.retry import RetryPolicy
from aiolit.store.s3 import S3Store
from aiolit.store.s3_options import parse_s3_options
from aiolit.testing.store_contract import RawObjects, StoreContract

KEYS = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
ROOT = "a folder/data"


class RawBucket(RawObjects):
    """A bucket of its own, through boto3."""

    def __init__(self, url: str) -> None:
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self._client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", **KEYS, config=Config(retries={})
        )
        # Public, so that unsigned requests can be tried on it.
        self._client.create_bucket(Bucket=self.bucket, ACL="public-read")

    async def write(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(
            self._client.put_object,
            Bucket=self.bucket,
            Key=f"{ROOT}/{key}",
            Body=data,
            ACL="public-read",
        )

    async def read(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._read, f"{ROOT}/{key}")

    def _read(self, key: str) -> bytes | None:
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
        except self._client.exceptions.NoSuchKey:
            return None
        with answer["Body"] as body:
            data: bytes = body.read()
        return data

    async def unfinished(self) -> int:
        found = await asyncio.to_thread(self._client.list_multipart_uploads, Bucket=self.bucket)
        return len(found.get("Uploads", ()))

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def bucket(moto_url: str) -> Iterator[RawBucket]:
    raw = RawBucket(moto_url)
    yield raw
    raw.close()


def options(moto_url: str) -> dict[str, Any]:
    return {"endpoint_url": moto_url, "region_name": "us-east-1", **KEYS}


class TestS3Store(StoreContract):
    @pytest.fixture
    async def store(self, bucket: RawBucket, moto_url: str) -> AsyncIterator[Store]:
        async with S3Store(f"s3://{bucket.bucket}/{ROOT}", options(moto_url)) as store:
            yield store

    @pytest.fixture
    async def raw(self, bucket: RawBucket) -> RawObjects:
        return bucket


async def test_listing_goes_over_pages(bucket: RawBucket, moto_url: str) -> None:
    async with S3Store(f"s3://{bucket.bucket}/{ROOT}", options(moto_url)) as store:
        # A page of S3 holds 1000 keys; put through the client, whose calls are cheap here.
        async with asyncio.TaskGroup() as group:
            for part in range(8):
                group.create_task(_put_many(store, range(part, 1010, 8)))
        keys = [info.key async for info in store.list("many/")]
    assert keys == [f"many/{number:05}" for number in range(1010)]


async def _put_many(store: Store, numbers: range) -> None:
    for number in numbers:
        await store.put(f"many/{number:05}", b"")


@pytest.mark.parametrize(
    ("storage", "session"),
    [
        ({**KEYS, "endpoint_url": "URL"}, {"region_name": "us-east-1"}),
        ({"endpoint_url": "URL"}, {**KEYS, "region_name": "us-east-1"}),
        (
            {
                "AWS_ACCESS_KEY_ID": "someone",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "S3_ENDPOINT_URL": "URL",
            },
            None,
        ),
        ({**KEYS, "AWS_ENDPOINT_URL": "URL", "aws_session_token": "token"}, None),
        (
            {
                "endpoint_url": "URL",
                "config": Config(
                    signature_version=botocore.UNSIGNED,
                    retries={"max_attempts": 1000, "mode": "adaptive"},
                ),
            },
            None,
        ),
        ({"endpoint_url": "URL", "anon": True}, None),
        (
            {
                **KEYS,
                "endpoint_url": "URL",
                "config": Config(s3={"addressing_style": "path"}, max_pool_connections=3),
            },
            {},
        ),
    ],
)
async def test_options_as_users_write_them(
    bucket: RawBucket,
    moto_url: str,
    storage: dict[str, Any],
    session: dict[str, Any] | None,
) -> None:
    await bucket.write("a", b"12345")
    storage = {name: moto_url if value == "URL" else value for name, value in storage.items()}
    url = f"s3://{bucket.bucket}/{ROOT}"
    store = open_store(url, storage_options=storage, session_options=session)
    async with pickle.loads(pickle.dumps(store)) as store:
        assert await store.get_range("a", 1, 3) == b"23"
        assert [info.key async for info in store.list()] == ["a"]


async def test_virtual_hosts_are_addressed() -> None:
    """Only the name is looked at: no server answers to it here."""
    store = open_store(
        "s3://some-bucket/x",
        storage_options={
            **KEYS,
            "endpoint_url": "http://nowhere.invalid:9",
            "config": Config(s3={"addressing_style": "virtual"}),
        },
        retry=RetryPolicy(give_up_unreached_after_s=0),
    )
    async with store:
        with pytest.raises(StoreUnavailableError, match=r"'some-bucket\.nowhere\.invalid'"):
            await store.get("a")


async def test_profile_and_environment(
    bucket: RawBucket, moto_url: str, tmp_path: Path, aws_environment: dict[str, str]
) -> None:
    await bucket.write("a", b"12345")
    config = tmp_path / "config"
    config.write_text(
        "[profile mine]\naws_access_key_id = someone\naws_secret_access_key = secret\n"
        "region = us-east-1\n"
    )
    aws_environment["AWS_CONFIG_FILE"] = str(config)
    aws_environment["AWS_ENDPOINT_URL"] = moto_url
    url = f"s3://{bucket.bucket}/{ROOT}"
    async with open_store(url, session_options={"profile_name": "mine"}) as store:
        assert await store.get("a") == b"12345"
    async with open_store(url, session_options={"profile_name": "yours"}) as store:
        with pytest.raises(ConfigError, match="yours"):
            await store.get("a")
    async with open_store(url) as store:
        with pytest.raises(AccessDeniedError, match="no AWS credentials were found"):
            await store.get("a")


async def test_expiring_credentials_are_refreshed_once(
    bucket: RawBucket, moto_url: str, tmp_path: Path, aws_environment: dict[str, str]
) -> None:
    """A credential process gives keys for some minutes, which botocore renews at once."""
    await bucket.write("a", bytes(range(100)))
    calls = tmp_path / "calls"
    program = tmp_path / "credentials.py"
    program.write_text(
        "import datetime, json\n"
        f"calls = open({str(calls)!r}, 'a+')\n"
        "calls.write('x')\n"
        "calls.seek(0)\n"
        "first = len(calls.read()) <= 1\n"
        "lasts = datetime.timedelta(seconds=5 if first else 36000)\n"
        "until = (datetime.datetime.now(datetime.timezone.utc) + lasts).isoformat()\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'someone', 'SecretAccessKey': 'secret',\n"
        "                  'SessionToken': 'token', 'Expiration': until}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[profile brief]\ncredential_process = {sys.executable} {program}\n")
    aws_environment["AWS_CONFIG_FILE"] = str(config)
    store = open_store(
        f"s3://{bucket.bucket}/{ROOT}",
        storage_options={"endpoint_url": moto_url},
        session_options={"profile_name": "brief"},
    )
    async with store:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(store.get_range("a", n, n + 1)) for n in range(10)]
        assert b"".join(read.result() for read in reads) == bytes(range(10))
    assert len(calls.read_text()) == 2


@pytest.fixture
def aws_environment() -> Iterator[dict[str, str]]:
    """The process's environment; put back afterwards."""
    before = dict(os.environ)
    yield os.environ  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(before)


async def test_errors_say_what_to_do(bucket: RawBucket, moto_url: str) -> None:
    async with open_store("s3://no-such-bucket/x", storage_options=options(moto_url)) as store:
        for call in (store.get("a"), store.put("a", b"1"), anext(store.list())):
            with pytest.raises(ObjectNotFoundError, match="no bucket s3://no-such-bucket"):
                await call
    async with open_store(f"s3://{bucket.bucket}", storage_options=options(moto_url)) as store:
        with pytest.raises(ObjectNotFoundError) as caught:
            await store.get_range("x/y", 0, 1)
    assert f"s3://{bucket.bucket}/x/y" in str(caught.value)


@pytest.mark.parametrize(
    ("storage", "session", "message"),
    [
        ({"endpont_url": "x"}, None, "'endpont_url'.*did you mean 'endpoint_url'"),
        (None, {"profile": "x"}, "session_options has 'profile'"),
        ({"aws_access_key_id": "x"}, None, "only work together"),
        ({"config": {"region_name": "x"}}, None, "botocore.config.Config"),
        ({"config": Config(signature_version="s3")}, None, "signature_version='s3'"),
        ({"region_name": "a", "AWS_REGION": "b"}, None, "region_name twice"),
        ({"max_connections": 0}, None, "max_connections=0"),
    ],
)
def test_options_that_cannot_work(
    storage: dict[str, Any] | None, session: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store("s3://bucket/x", storage_options=storage, session_options=session)


def test_urls_that_cannot_work() -> None:
    for url in ("s3://", "s3:///key"):
        with pytest.raises(ConfigError, match="s3://bucket/prefix"):
            open_store(url)
    with pytest.raises(ConfigError, match=r"r2\.cloudflarestorage"):
        open_store("r2://bucket")
    open_store("r2://bucket", storage_options={"endpoint_url": "https://x.invalid"})


def test_of_two_places_the_client_wins() -> None:
    both = parse_s3_options({"region_name": "client"}, {"region_name": "session"})
    assert both.region_name == "client"
    config = Config(connect_timeout=3, read_timeout=4, max_pool_connections=5, region_name="c")
    taken = parse_s3_options({"config": config, "stall_timeout_s": 9}, None)
    assert taken.region_name == "c"
    assert taken.connection.connect_timeout_s == 3
    assert taken.connection.stall_timeout_s == 9
    assert taken.connection.max_connections == 5


async def test_a_forked_child_opens_its_own(bucket: RawBucket, moto_url: str) -> None:
    """The child reads with what the parent had open, and the parent goes on reading."""
    await bucket.write("a", b"12345")
    async with open_store(f"s3://{bucket.bucket}/{ROOT}", storage_options=options(moto_url)) as s:
        assert await s.get("a") == b"12345"
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=_read_in_child, args=(s, sender))
        child.start()
        sender.close()
        assert await asyncio.to_thread(receiver.poll, 30)
        assert json.loads(receiver.recv()) == "12345"
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0
        child.close()
        receiver.close()
        assert await s.get("a") == b"12345"


def _read_in_child(store: Store, sender: Any) -> None:
    async def read() -> bytes:
        async with store:
            return await store.get("a")

    # The fork happened inside a running loop, which this thread still takes for its own.
    asyncio.events._set_running_loop(None)
    sender.send(json.dumps(asyncio.run(read()).decode()))
