"""Cache folders on disks that are full, fill up, or cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiolit.errors import CacheError
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset

pytestmark = pytest.mark.keeps_open("threads", "files", reason="the process's portal and its cache")

COUNT = 60
Read = Callable[..., list[Any]]


def content(number: int) -> bytes:
    return bytes([number]) * 20_000


EXPECTED = [content(number) for number in range(COUNT)]


def chunks(folder: Path, place: Path, **options: Any) -> list[Any]:
    dataset = StreamingDataset(f"local:{folder / 'chunks'}", place, **options)
    return [one["x"] for one in dataset]


def packed(folder: Path, place: Path, **options: Any) -> list[Any]:
    dataset = StreamingDataset(f"local:{folder / 'packed'}", place, **options)
    return [one["x"] for one in dataset]


def parquet(folder: Path, place: Path, **options: Any) -> list[Any]:
    dataset = StreamingDataset(f"local:{folder / 'parquet'}", place, **options)
    return [one["x"] for one in dataset]


def raw(folder: Path, place: Path, **options: Any) -> list[Any]:
    if options:
        pytest.skip("raw files are not cached unless it is asked for")
    return list(StreamingRawDataset(f"local:{folder / 'raw'}", place, cache_files=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    samples = [{"x": one} for one in EXPECTED]
    write_dataset(path / "chunks", samples, chunk_size=10)
    write_dataset(path / "packed", samples, chunk_size=10, compression="zstd")
    (path / "parquet").mkdir()
    table = pa.table({"x": EXPECTED})
    pq.write_table(
        table,
        path / "parquet" / "a.parquet",
        row_group_size=10,
        use_dictionary=False,
        compression="none",
    )
    (path / "raw").mkdir()
    for number, one in enumerate(EXPECTED):
        (path / "raw" / f"{number:02}").write_bytes(one)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a disk of half a megabyte; the data is more than twice that."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only one who may mount can have a disk that is full")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("read", [chunks, packed, parquet, raw])
def test_a_disk_that_fills_up(folder: Path, disk: Path, read: Read) -> None:
    """What has no room is read and not kept, with one warning; what is kept is used again."""
    with pytest.warns(UserWarning, match=f"disk of the cache folder {disk}.* is full") as told:
        assert read(folder, disk / "cache") == EXPECTED
    assert len(told) == 1
    with pytest.warns(UserWarning, match="is full"):
        assert read(folder, disk / "cache") == EXPECTED


@pytest.mark.parametrize("read", [chunks, packed, parquet, raw])
def test_a_disk_without_a_byte(folder: Path, disk: Path, read: Read) -> None:
    """Not even the ledger has room: nothing is kept."""
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, os.statvfs(disk).f_bavail * 4096)
    with pytest.warns(UserWarning, match="is full"):
        assert read(folder, disk / "cache") == EXPECTED


@pytest.mark.parametrize("read", [chunks, packed, parquet, raw])
def test_a_disk_that_cannot_be_written(folder: Path, disk: Path, read: Read) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(CacheError, match=f"{disk}/cache.*give another cache_dir"):
        read(folder, disk / "cache")
    assert read(folder, disk / "cache", cache="memory") == EXPECTED
