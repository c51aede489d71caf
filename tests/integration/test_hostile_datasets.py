"""Data sets made to harm, opened and read as users do: an error of ours, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from aiolit.errors import (
    AiolitError,
    CacheError,
    DatasetError,
    IndexFormatError,
    UntrustedDataError,
)
from aiolit.processing.parquet_index import index_parquet_dataset
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.runtime.portal import portal
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset
from aiolit.testing.faulty_server import FaultyServer

pytestmark = pytest.mark.keeps_open("sockets", "threads", reason="the process's portal")

COUNT = 40
LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
Change = Callable[[dict[str, Any]], None]


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def make_mds_pickle(folder: Path, item: bytes) -> None:
    """Make a data set of one MDS shard with one pickled sample."""
    sample = len(item).to_bytes(4, "little") + item
    data = b"".join(n.to_bytes(4, "little") for n in (1, 12, 12 + len(sample))) + sample
    (folder / "shard.mds").write_bytes(data)
    shard = {
        "column_encodings": ["pkl"],
        "column_names": ["x"],
        "column_sizes": [None],
        "compression": None,
        "raw_data": {"basename": "shard.mds", "bytes": len(data)},
        "samples": 1,
        "zip_data": None,
    }
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [{"n": n, "x": bytes([n]) * 500} for n in range(COUNT)]
    return write_dataset(tmp_path / "data", samples, chunk_size=10)


@pytest.fixture(autouse=True)
def little_memory_and_disk() -> Iterator[None]:
    """Fail what reserves much: no file of more than 1 GiB can be made meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def change(folder: Path, how: Change) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_bytes())
    how(index)
    path.write_text(json.dumps(index))


def read_all_ways(folder: Path, cache: Path) -> None:
    """Read everything in place, through a cache, through memory, and one by one."""
    ways: list[tuple[str, dict[str, Any]]] = [
        (str(folder), {}),
        (f"local:{folder}", {"max_cache_size": 0}),
        (f"local:{folder}", {"max_cache_size": "1MB"}),
        (f"local:{folder}", {"cache": "memory"}),
    ]
    for number, (place, more) in enumerate(ways):
        with pytest.raises(AiolitError) as caught:
            list(StreamingDataset(place, cache / str(number), **more))
        assert str(folder) in str(caught.value)
        with pytest.raises(AiolitError):
            StreamingDataset(place, cache / str(number), **more)[15]


# ---- indexes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "..", "chunk\0.bin", "\\\\host\\x"]
)
def test_names_that_lead_elsewhere(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes((folder / "chunk-0-0.bin").read_bytes())

    def rename(index: dict[str, Any]) -> None:
        index["chunks"][1]["filename"] = name

    change(folder, rename)
    with pytest.raises(IndexFormatError):
        StreamingDataset(folder)
    with pytest.raises(IndexFormatError):
        StreamingDataset(f"local:{folder}", tmp_path / "cache")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chunk_bytes", 2**63),
        ("chunk_bytes", 2**32),
        ("chunk_bytes", 2**31),
        ("chunk_size", 2**40),
        ("chunk_size", 10**6),
    ],
)
def test_giant_declared_sizes(folder: Path, tmp_path: Path, field: str, value: int) -> None:
    def grow(index: dict[str, Any]) -> None:
        index["chunks"][1][field] = value

    change(folder, grow)
    read_all_ways(folder, tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_blocks * 512 for path in left) < 4_000_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True},
        {"shuffle": True, "item_shuffle_window": 256},
        {"shuffle": True, "shuffle_window": "512MB"},
    ],
)
def test_a_billion_samples_that_are_not_there(
    folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Sizes that agree with each other: the plan of an epoch costs no memory before a chunk says
    otherwise."""

    def grow(index: dict[str, Any]) -> None:
        index["chunks"][1].update(chunk_size=10**9, chunk_bytes=4 * (10**9 + 2))
        del index["chunks"][1]["checksum_items"]

    change(folder, grow)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place in (str(folder), f"local:{folder}"):
        dataset = StreamingDataset(place, tmp_path / "cache", **options)
        with pytest.raises(AiolitError, match=r"chunk-0-1\.bin"):
            for _ in dataset:
                pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


def test_more_samples_than_there_can_be(folder: Path) -> None:
    def grow(index: dict[str, Any]) -> None:
        last = index["chunks"][-1] | {"chunk_size": 2**32 - 3, "chunk_bytes": 2**34}
        del last["checksum_items"]
        index["chunks"] += [last | {"filename": f"chunk-1-{n}.bin"} for n in range(70)]

    change(folder, grow)
    with pytest.raises(IndexFormatError, match=r"4294967293 in chunk-1-0\.bin"):
        StreamingDataset(folder)


@pytest.mark.parametrize("name", ["a" * 300 + ".bin", "x/" * 600 + "c.bin", "index.json/c.bin"])
def test_names_that_no_disk_holds(folder: Path, tmp_path: Path, name: str) -> None:
    def rename(index: dict[str, Any]) -> None:
        index["chunks"][1]["filename"] = name

    change(folder, rename)
    read_all_ways(folder, tmp_path / "cache")


def test_a_folder_in_the_place_of_a_chunk(folder: Path, tmp_path: Path) -> None:
    (folder / "chunk-0-1.bin").unlink()
    (folder / "chunk-0-1.bin").mkdir()
    read_all_ways(folder, tmp_path / "cache")


async def test_long_names_are_cached(folder: Path, tmp_path: Path) -> None:
    """Stores have longer names than disks: whole chunks and parts of chunks are found again."""
    name = "deep/" * 60 + "chunk.bin"

    def rename(index: dict[str, Any]) -> None:
        index["chunks"][1]["filename"] = name

    change(folder, rename)
    (folder / "deep").mkdir()
    async with FaultyServer() as server:
        for chunk in ("index.json", "chunk-0-0.bin", "chunk-0-2.bin", "chunk-0-3.bin"):
            server.objects[f"/data/{chunk}"] = (folder / chunk).read_bytes()
        server.objects[f"/data/{name}"] = (folder / "chunk-0-1.bin").read_bytes()

        def read(cache: str, first: int, stop: int) -> int:
            server.asked.clear()
            dataset = StreamingDataset(f"{server.url}/data", tmp_path / cache)
            try:
                found = [sample["n"] for sample in dataset.subset(slice(first, stop))]
                assert found == list(range(first, stop))
            finally:
                portal().call(dataset.source.aclose)
            return sum("deep" in asked.path for asked in server.asked)

        for cache, first, stop in (("whole", 10, 20), ("part", 12, 17)):
            assert await asyncio.to_thread(read, cache, first, stop) > 0
            assert await asyncio.to_thread(read, cache, first, stop) == 0


@pytest.mark.parametrize(
    "spec",
    [
        [1, {"type": "collections.deque", "context": str(2**70), "children_spec": [LEAF, LEAF]}],
        [1, {"type": "builtins.dict", "context": "[" * 9999 + "]" * 9999, "children_spec": []}],
        [1, {"type": {}, "context": [], "children_spec": [LEAF]}],
    ],
)
def test_trees_that_cannot_be(folder: Path, spec: object) -> None:
    def replant(index: dict[str, Any]) -> None:
        index["config"]["data_spec"] = json.dumps(spec)

    change(folder, replant)
    with pytest.raises(IndexFormatError, match="data_spec"):
        StreamingDataset(folder)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_trees(folder: Path, depth: int) -> None:
    tree = '{"type": "builtins.list", "context": null, "children_spec": ['
    leaf = '{"type": null, "context": null, "children_spec": []}'
    spec = f"[1, {tree * depth}{leaf}{']}' * depth}]"

    def deepen(index: dict[str, Any]) -> None:
        index["config"]["data_spec"] = spec

    change(folder, deepen)
    with pytest.raises(DatasetError):
        StreamingDataset(folder)[0]


def test_an_index_that_is_deep_itself(folder: Path) -> None:
    (folder / "index.json").write_text('{"chunks": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(IndexFormatError):
        StreamingDataset(folder)


def test_an_mds_index_that_leads_elsewhere(tmp_path: Path) -> None:
    shard = {
        "column_encodings": ["int"],
        "column_names": ["n"],
        "column_sizes": [8],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "raw_data": {"basename": "../secret.mds", "bytes": 100, "hashes": {}},
        "samples": 1,
        "size_limit": 1 << 26,
        "version": 2,
        "zip_data": None,
    }
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    with pytest.raises(IndexFormatError, match=r"secret\.mds"):
        StreamingDataset(tmp_path)
    shard["raw_data"] = {"basename": "shard.mds", "bytes": 2**33, "hashes": {}}
    shard["samples"] = 2**20
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    (tmp_path / "shard.mds").write_bytes(bytes(100))
    read_all_ways(tmp_path, tmp_path / "cache")
    shard["raw_data"] = {"basename": "shard.mds", "bytes": 4 * (10**9 + 2), "hashes": {}}
    shard["samples"] = 10**9
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    for place in (str(tmp_path), f"local:{tmp_path}"):
        dataset = StreamingDataset(place, tmp_path / "cache", shuffle=True)
        with pytest.raises(AiolitError, match=r"shard\.mds"):
            next(iter(dataset))
    shard["compression"] = "zstd"
    shard["zip_data"] = {"basename": "../shard.mds.zstd", "bytes": 10, "hashes": {}}
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    with pytest.raises(IndexFormatError, match=r"shard\.mds\.zstd"):
        StreamingDataset(tmp_path)


# ---- chunks --------------------------------------------------------------------------------------


def test_a_decompression_bomb(tmp_path: Path) -> None:
    """A chunk of some kilobytes that inflates to two gigabytes, and not to what the index says."""
    samples = [{"n": n, "x": bytes([n]) * 500} for n in range(COUNT)]
    folder = write_dataset(tmp_path / "data", samples, chunk_size=10, compression="zstd")
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    pieces = [packer.compress(bytes(8 << 20)) for _ in range(256)]
    (folder / "chunk-0-1.zstd.bin").write_bytes(b"".join([*pieces, packer.flush()]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_all_ways(folder, tmp_path / "cache")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize("leaf", ["pickle", "graph:pickle", "graph", "mds"])
async def test_pickles_of_others_are_not_loaded(tmp_path: Path, leaf: str) -> None:
    mark = tmp_path / "ran"
    pickled = pickle.dumps(Bomb(str(mark)))
    folder = write_dataset(tmp_path / "data", [{"x": pickled}], chunk_size=1)
    if leaf == "mds":
        make_mds_pickle(folder, pickled)
    else:
        change(folder, lambda index: index["config"].update(data_format=[leaf]))
    async with FaultyServer() as server:
        for path in folder.iterdir():
            server.objects[f"/data/{path.name}"] = path.read_bytes()

        def attempt(**options: Any) -> None:
            dataset = StreamingDataset(f"{server.url}/data", tmp_path / "cache", **options)
            try:
                dataset[0]
            finally:
                portal().call(dataset.source.aclose)

        with pytest.raises(UntrustedDataError):
            await asyncio.to_thread(attempt)
        assert not mark.exists()
        await asyncio.to_thread(attempt, allow_pickle=True)
        assert mark.exists()


# ---- the cache folder ----------------------------------------------------------------------------


def namespace_of(cache: Path) -> Path:
    (found,) = (path for path in cache.iterdir() if path.is_dir())
    return found


def test_links_in_the_cache_folder(folder: Path, tmp_path: Path) -> None:
    """Links in the place of files that were cached: none is followed, none is written through."""
    cache, secret = tmp_path / "cache", tmp_path / "secret"
    place = f"local:{folder}"
    expected = list(StreamingDataset(place, cache))
    secret.write_bytes(b"secret" * 1000)
    for path in namespace_of(cache).iterdir():
        path.unlink()
        path.symlink_to(secret)
        path.with_name(f"{path.name}.part").symlink_to(secret)
    assert list(StreamingDataset(place, cache)) == expected
    assert secret.read_bytes() == b"secret" * 1000


@pytest.mark.parametrize("name", ["ledger.sqlite3", "ledger.sqlite3-journal", "ledger.lock"])
def test_links_in_the_place_of_the_ledger(folder: Path, tmp_path: Path, name: str) -> None:
    cache, target = tmp_path / "cache", tmp_path / "target"
    cache.mkdir()
    if name == "ledger.sqlite3":
        with sqlite3.connect(target) as book:
            book.execute("CREATE TABLE mine (x)")
        book.close()
    else:
        target.write_bytes(b"mine")
    before = target.read_bytes()
    (cache / name).symlink_to(target)
    with pytest.raises(CacheError, match="link"):
        list(StreamingDataset(f"local:{folder}", cache))
    assert target.read_bytes() == before


def test_a_link_in_the_place_of_the_data_sets_folder(folder: Path, tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    list(StreamingDataset(f"local:{folder}", cache))
    namespace = namespace_of(cache)
    shutil.rmtree(namespace)
    elsewhere.mkdir()
    namespace.symlink_to(elsewhere)
    with pytest.raises(CacheError, match="symbolic link"):
        list(StreamingDataset(f"local:{folder}", cache))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("where", ["file", "folder"])
def test_links_in_the_place_of_a_list_of_files(tmp_path: Path, where: str) -> None:
    """The data set is listed, and nothing is read or written through the link."""
    data, cache, elsewhere = tmp_path / "data", tmp_path / "cache", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    (data / "a").write_bytes(b"1")
    assert StreamingRawDataset(str(data), cache)[0] == b"1"
    (copy,) = cache.glob("*/index.json.zstd")
    if where == "file":
        copy.unlink()
        copy.symlink_to("/dev/zero")
    else:
        shutil.rmtree(copy.parent)
        copy.parent.symlink_to(elsewhere)
    assert StreamingRawDataset(str(data), cache)[0] == b"1"
    assert list(elsewhere.iterdir()) == []


# ---- raw files and Parquet -----------------------------------------------------------------------


async def test_a_raw_index_beside_the_data(tmp_path: Path) -> None:
    """It names files elsewhere, on the server and on this host: it is not believed."""
    listing = {"files": [{"path": "http://X/data/../secret", "size": 6}], "created_at": 1.0}
    async with FaultyServer() as server:
        for path in ("http://X/data/../secret", "/etc/passwd", "http://other/x"):
            listing["files"] = [{"path": path.replace("http://X", server.url), "size": 6}]
            packed = zstandard.compress(json.dumps(listing).encode())
            server.objects["/data/index.json.zstd"] = packed
            with pytest.raises(AiolitError):
                await asyncio.to_thread(
                    StreamingRawDataset, f"{server.url}/data", tmp_path / "cache"
                )
        assert not [asked for asked in server.asked if "secret" in asked.path]


@pytest.mark.parametrize("seed", range(20))
def test_parquet_with_wild_metadata(tmp_path: Path, seed: int) -> None:
    """Any bytes of the footer changed: rows, or an error that names the file."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "a.parquet"
    table = pa.table({"n": list(range(100)), "x": [f"row {n}" * 10 for n in range(100)]})
    pq.write_table(table, path, row_group_size=25)
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    for _ in range(rng.integers(1, 6)):
        place = len(data) - 8 - int(rng.integers(1, length))
        data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    path.write_bytes(data)
    for where in (str(folder), f"local:{folder}"):
        with suppress(DatasetError):
            dataset = StreamingDataset(where, tmp_path / "cache")
            assert len(list(dataset)) == len(dataset)


def test_a_parquet_index_that_lies(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"n": list(range(100))}), folder / "a.parquet", row_group_size=25)
    index_parquet_dataset(folder)
    for field, value in (("chunk_bytes", 2**40), ("footer_bytes", 2**40), ("chunk_size", 10**12)):
        shutil.copytree(folder, tmp_path / field)

        def lie(index: dict[str, Any], field: str = field, value: int = value) -> None:
            index["chunks"][0][field] = value

        change(tmp_path / field, lie)
        with suppress(AiolitError):  # what is not needed may be wrong
            assert len(list(StreamingDataset(f"local:{tmp_path / field}", tmp_path / "c"))) == 100


@pytest.mark.parametrize("groups", [None, [2**36]])
def test_parquet_rows_that_are_not_there(tmp_path: Path, groups: list[int] | None) -> None:
    """Rows may take no bytes at all, so only the file's footer tells."""
    pq.write_table(pa.table({"n": list(range(100))}), tmp_path / "a.parquet")
    index_parquet_dataset(tmp_path)
    change(tmp_path, lambda index: index["chunks"][0].update(chunk_size=2**36, row_groups=groups))
    for place in (str(tmp_path), f"local:{tmp_path}"):
        dataset = StreamingDataset(place, tmp_path / "cache", shuffle=True)
        with pytest.raises(DatasetError, match=r"a\.parquet: the file has 100 rows"):
            next(iter(dataset))


def test_a_row_group_that_is_a_bomb(tmp_path: Path) -> None:
    nothing = pa.nulls(10**7, pa.int64())
    table = pa.table({f"c{n}": nothing for n in range(40)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10**7)
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    for place in (str(tmp_path), f"local:{tmp_path}"):
        dataset = StreamingDataset(place, tmp_path / "cache")
        with pytest.raises(DatasetError, match=r"a\.parquet: row group 0 .* 3200000000"):
            next(iter(dataset))


def test_bombs_do_go_off_where_they_are_let() -> None:
    """The bomb of these tests works."""
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(Bomb("/nonexistent/bomb")))
