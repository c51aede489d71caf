"""Writing to and reading from an S3 server."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiolit.errors import ConfigError, StoreError
from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.processing import functions as ld
from aiolit.processing.readers import ParquetReader


class Bucket:
    def __init__(self, endpoint_url: str) -> None:
        self.options: dict[str, Any] = {
            "endpoint_url": endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "someone",
            "aws_secret_access_key": "secret",
        }
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client: Any = boto3.client("s3", **self.options)
        self.client.create_bucket(Bucket=self.name)

    def url(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def body(self, key: str) -> bytes:
        with self.client.get_object(Bucket=self.name, Key=key)["Body"] as body:
            data: bytes = body.read()
        return data

    def read(self, prefix: str) -> list[Any]:
        index = parse_index(self.body(f"{prefix}/index.json"), source=prefix)
        loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source=prefix)
        samples: list[Any] = []
        for chunk in index.chunks:
            data = memoryview(self.body(f"{prefix}/{chunk.filename}"))
            reader = loader.open(data, chunk, chunk.filename)
            samples += [reader.sample(number) for number in range(chunk.num_items)]
        return samples


@pytest.fixture
def bucket(moto_url: str) -> Iterator[Bucket]:
    made = Bucket(moto_url)
    yield made
    made.client.close()


pytestmark = pytest.mark.keeps_open("sockets", reason="the portal keeps its connections to reuse")


def write(bucket: Bucket, key: str, first: int = 0, **options: Any) -> None:
    ld.optimize(
        lambda i: {"i": i, "text": str(i)},
        range(first, first + 40),
        bucket.url(key),
        chunk_size=10,
        num_workers=2,
        storage_options=bucket.options,
        verbose=False,
        **options,
    )


def samples(first: int, stop: int) -> list[dict[str, Any]]:
    return [{"i": i, "text": str(i)} for i in range(first, stop)]


def test_optimize_append_overwrite_merge(bucket: Bucket) -> None:
    write(bucket, "a")
    assert bucket.read("a") == samples(0, 40)
    with pytest.raises(ConfigError, match="already"):
        write(bucket, "a")
    write(bucket, "a", 40, mode="append")
    assert bucket.read("a") == samples(0, 80)
    write(bucket, "a", 5, mode="overwrite")
    assert bucket.read("a") == samples(5, 45)
    assert len(bucket.keys("a/")) == 5
    write(bucket, "b", 45, use_checkpoint=True)
    ld.merge_datasets(
        [bucket.url("a"), bucket.url("b")],
        bucket.url("deep/er/ab"),
        storage_options=bucket.options,
    )
    assert bucket.read("deep/er/ab") == samples(5, 85)
    walked = ld.walk(bucket.url(""), storage_options=bucket.options)
    found = {folder.removeprefix(bucket.url("")): names for folder, _, names in walked}
    assert found["b"] == [*(f"chunk-0-{n}.bin" for n in range(4)), "index.json"]
    assert "deep/er/ab" in found


def test_merge_of_a_local_and_a_remote_data_set(bucket: Bucket, tmp_path: Path) -> None:
    write(bucket, "a")
    ld.optimize(
        lambda i: {"i": i, "text": str(i)},
        range(40, 60),
        tmp_path / "b",
        chunk_size=10,
        num_workers=1,
        verbose=False,
    )
    for output in (str(tmp_path / "ab"), bucket.url("ab")):
        ld.merge_datasets([bucket.url("a"), tmp_path / "b"], output, storage_options=bucket.options)
    assert bucket.read("ab") == samples(0, 60)
    assert len(list((tmp_path / "ab").iterdir())) == 7


def test_a_failure_leaves_nothing(bucket: Bucket) -> None:
    with pytest.raises(ZeroDivisionError):
        ld.optimize(
            lambda i: 1 // (i - 300),
            range(1000),
            bucket.url("a"),
            chunk_size=10,
            num_workers=2,
            storage_options=bucket.options,
            verbose=False,
        )
    assert bucket.keys() == []


def test_a_failed_upload_fails_the_job(bucket: Bucket) -> None:
    """The bucket is gone when the first chunk is stored."""
    with pytest.raises(StoreError, match="no-such-bucket"):
        ld.optimize(
            lambda i: i,
            range(100_000),
            "s3://no-such-bucket/a",
            chunk_size=10,
            num_workers=2,
            storage_options=bucket.options,
            verbose=False,
        )


def test_remote_inputs_are_downloaded_ahead_and_removed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    for n in range(20):
        bucket.client.put_object(Bucket=bucket.name, Key=f"raw/{n}.txt", Body=b"%d" % n)

    def upper(path: str, output_dir: str) -> None:
        Path(output_dir, Path(path).name).write_text(f"<{Path(path).read_text()}>")

    ld.map(
        upper,
        [bucket.url(f"raw/{n}.txt") for n in range(20)],
        bucket.url("cooked"),
        num_workers=2,
        storage_options=bucket.options,
        verbose=False,
    )
    assert sorted(bucket.keys("cooked/")) == sorted(f"cooked/{n}.txt" for n in range(20))
    assert bucket.body("cooked/7.txt") == b"<7>"
    ld.optimize(
        lambda pair: {"text": Path(pair[0]).read_text(), "label": pair[1]},
        [(bucket.url(f"raw/{n}.txt"), n) for n in range(20)],
        tmp_path / "out",
        input_dir=bucket.url("raw"),
        chunk_size=10,
        num_workers=2,
        num_downloaders=2,
        storage_options=bucket.options,
        verbose=False,
    )
    assert list(work.iterdir()) == []


def test_a_missing_input_is_named(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"raw/none\.txt"):
        ld.optimize(
            lambda path: path,
            [bucket.url("raw/none.txt")],
            tmp_path / "out",
            chunk_size=10,
            num_workers=1,
            storage_options=bucket.options,
            verbose=False,
        )


def test_parquet_files_are_read_by_row_groups(bucket: Bucket, tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 30)):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"i": list(range(first, first + 30))}), sink, row_group_size=10)
        body = sink.getvalue().to_pybytes()
        bucket.client.put_object(Bucket=bucket.name, Key=f"raw/{name}.parquet", Body=body)
    ld.optimize(
        lambda table: iter(table["i"].to_pylist()),
        [bucket.url("raw/a.parquet"), bucket.url("raw/b.parquet")],
        bucket.url("out"),
        chunk_size=25,
        num_workers=2,
        reader=ParquetReader(num_rows=10, storage_options=bucket.options),
        storage_options=bucket.options,
        verbose=False,
    )
    assert bucket.read("out") == list(range(60))
