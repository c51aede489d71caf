"""The S3 server of the benchmarks serves what it should, counts it, and ends with its block."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from benchmarks.s3_server import S3Server, Shape

BODY = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    root = tmp_path_factory.mktemp("buckets")
    (root / "bucket" / "folder").mkdir(parents=True)
    (root / "bucket" / "folder" / "object.bin").write_bytes(BODY)
    with S3Server(root) as running:
        yield running


@pytest.fixture
def fresh(server: S3Server) -> Iterator[S3Server]:
    server.reset()
    yield server
    server.shape(Shape())


@pytest.fixture
def client(server: S3Server) -> Iterator[Any]:
    client = boto3.client("s3", **server.storage_options)
    yield client
    client.close()


def get(server: S3Server, key: str, span: str | None = None) -> bytes:
    request = urllib.request.Request(f"{server.endpoint}/bucket/{key}")
    if span is not None:
        request.add_header("Range", f"bytes={span}")
    with urllib.request.urlopen(request, timeout=30) as response:
        body: bytes = response.read()
    return body


@pytest.mark.parametrize(
    ("span", "expected"),
    [(None, BODY), ("10-19", BODY[10:20]), ("-7", BODY[-7:]), ("1048000-", BODY[1048000:])],
)
def test_objects_and_ranges(fresh: S3Server, span: str | None, expected: bytes) -> None:
    assert get(fresh, "folder/object.bin", span) == expected


@pytest.mark.parametrize(
    ("key", "span", "status"),
    [("nothing", None, 404), ("folder", None, 404), ("folder/object.bin", "9999999-", 416)],
)
def test_refusals_are_those_of_s3(fresh: S3Server, key: str, span: str | None, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(fresh, key, span)
    with caught.value as response:
        assert response.status == status
        assert b"<Error><Code>" in response.read()


def test_counters(fresh: S3Server) -> None:
    get(fresh, "folder/object.bin")
    get(fresh, "folder/object.bin", "0-99")
    counters = fresh.counters()
    assert (counters.requests, counters.get, counters.errors, counters.active) == (2, 2, 0, 0)
    assert len(BODY) + 100 < counters.bytes_out < len(BODY) + 3000
    fresh.reset()
    assert fresh.counters().requests == 0


def test_the_first_byte_is_late_and_the_rate_is_kept(fresh: S3Server) -> None:
    fresh.shape(Shape(first_byte_ms=50, sigma=0.0, bytes_per_second=4_000_000))
    start = time.perf_counter()
    get(fresh, "folder/object.bin", "0-0")
    delayed = time.perf_counter()
    get(fresh, "folder/object.bin")
    assert delayed - start >= 0.05
    # 1 MB at 4 MB/s is 0.25 s, of which the last 256 KiB are not waited for.
    assert time.perf_counter() - delayed >= 0.05 + 0.18


def test_errors_can_be_asked_for(fresh: S3Server) -> None:
    fresh.shape(Shape(error_share=1.0))
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        get(fresh, "folder/object.bin")
    caught.value.close()


def test_writing_listing_and_conditions(fresh: S3Server, client: Any) -> None:
    client.put_object(Bucket="bucket", Key="new/é +%.bin", Body=b"one", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="bucket", Key="new/é +%.bin", Body=b"two", IfNoneMatch="*")
    assert client.get_object(Bucket="bucket", Key="new/é +%.bin")["Body"].read() == b"one"
    listed = client.list_objects_v2(Bucket="bucket", Prefix="new/")["Contents"]
    assert [entry["Key"] for entry in listed] == ["new/é +%.bin"]
    etag = client.head_object(Bucket="bucket", Key="folder/object.bin")["ETag"]
    client.get_object(Bucket="bucket", Key="folder/object.bin", IfMatch=etag)["Body"].close()
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.get_object(Bucket="bucket", Key="folder/object.bin", IfMatch='"other"')


def test_nothing_is_left_after_the_block(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server:
        pids = server.pids
        assert len(pids) == 2
        endpoint = server.endpoint
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert server.pids == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(endpoint, timeout=5)
