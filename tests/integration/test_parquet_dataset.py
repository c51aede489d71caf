"""Parquet data sets from folders and an S3 server: index, rows, ranges, epochs, workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from aiolit.errors import (
    ChunkFormatError,
    ConfigError,
    DatasetNotFoundError,
    ObjectChangedError,
    ObjectNotFoundError,
    SchemaError,
)
from aiolit.format.dataset_info import loader_name
from aiolit.format.index import parse_index
from aiolit.processing.parquet_index import index_hf_dataset, index_parquet_dataset
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.streaming.async_dataset import AsyncStreamingDataset
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.item_loader import ParquetLoader
from benchmarks.s3_server import S3Server, missing_programs

pytestmark = pytest.mark.keeps_open(
    *("sockets", "threads", "files", "environment"),
    reason="connections and threads of the process's portal; torch's handler of SIGCHLD",
)

# Files and their row groups; sorted by key they hold 0, 1, 2, ...
FILES = {"a/part-0": [50, 3, 47], "a/part-1": [1], "b/c/part-2": [30, 30, 30, 11], "part-3": [60]}
COUNT = 262
SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("bulk", pa.binary())])


def row(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "text": f"row {number}",
        "bulk": bytes(number * 7 % 256 for _ in range(2000)),
    }


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [row(number) for number in range(first, first + count)]


def fill(folder: Path) -> Path:
    first = 0
    for name, groups in FILES.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, SCHEMA, compression="none", use_dictionary=False) as writer:
            for count in groups:
                writer.write_table(pa.Table.from_pylist(rows(count, first), schema=SCHEMA))
                first += count
    return folder


def as_list(batch: list[Any]) -> list[Any]:
    return batch


def ids(loader: Any) -> list[int]:
    return [sample["id"] for batch in loader for sample in batch]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    fill(root / "bucket" / "rows")
    fill(root / "bucket" / "bare")
    with S3Server(root) as running:
        index_parquet_dataset("s3://bucket/rows/", storage_options=running.storage_options)
        yield running


@pytest.fixture
def remote(server: S3Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "input_dir": "s3://bucket/rows",
        "cache_dir": tmp_path / "cache",
        "storage_options": server.storage_options,
    }


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    index_parquet_dataset(fill(tmp_path / "rows"))
    return {"input_dir": tmp_path / "rows"}


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def loader_of(place: dict[str, Any], **options: Any) -> StreamingDataLoader:
    own = {key: options.pop(key) for key in ("rank", "world_size", "drop_last") if key in options}
    dataset = StreamingDataset(**place, item_loader=ParquetLoader(), **own)
    return StreamingDataLoader(dataset, batch_size=8, collate_fn=as_list, **options)


def test_the_index_is_that_of_the_format(tmp_path: Path, server: S3Server) -> None:
    index_parquet_dataset(fill(tmp_path / "rows"), tmp_path / "index")
    assert not (tmp_path / "rows" / "index.json").exists()
    here = json.loads((tmp_path / "index" / "index.json").read_bytes())
    there = json.loads((server.root / "bucket" / "rows" / "index.json").read_bytes())
    assert here["chunks"] == there["chunks"]
    assert here["config"] == there["config"]
    assert here["config"] == {
        "chunk_bytes": None,
        "chunk_size": None,
        "compression": None,
        "data_format": ["int64", "string", "binary"],
        "data_spec": None,
        "encryption": None,
        "item_loader": "ParquetLoader",
    }
    assert 0 < here["chunks"][0].pop("footer_bytes") < 20_000
    assert here["chunks"][0] == {
        "filename": "a/part-0.parquet",
        "chunk_size": 100,
        "chunk_bytes": (tmp_path / "rows" / "a" / "part-0.parquet").stat().st_size,
        "dim": None,
        "row_groups": [50, 3, 47],
    }


def test_rows_by_number(place: dict[str, Any]) -> None:
    dataset = StreamingDataset(**place, item_loader=ParquetLoader())
    assert len(dataset) == COUNT
    assert dataset[0] == row(0)
    assert dataset[-1] == row(COUNT - 1)
    assert dataset[[100, 101, 53, 52, 131]] == [row(number) for number in (100, 101, 53, 52, 131)]
    assert dataset[40:60] == rows(20, 40)
    with pytest.raises(IndexError):
        dataset[COUNT]


@pytest.mark.parametrize("options", [{}, {"low_memory": False, "pre_load_chunk": True}])
def test_columns_and_options(place: dict[str, Any], options: dict[str, Any]) -> None:
    loader = ParquetLoader(columns=["text", "id"], **options)
    dataset = StreamingDataset(**place, item_loader=loader)
    assert list(dataset) == [{"text": f"row {number}", "id": number} for number in range(COUNT)]
    with pytest.raises(ConfigError, match="'words'"):
        StreamingDataset(**place, item_loader=ParquetLoader(columns=["words"]))[0]


def test_epochs(place: dict[str, Any]) -> None:
    assert ids(loader_of(place)) == list(range(COUNT))
    loader = loader_of(place, shuffle=True)
    first, second = ids(loader), ids(loader)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert first != sorted(first)
    ranks = [
        ids(loader_of(place, shuffle=True, rank=rank, world_size=2, drop_last=False))
        for rank in range(2)
    ]
    assert sorted(ranks[0] + ranks[1]) == list(range(COUNT))


def test_a_saved_state_goes_on_with_the_rest(place: dict[str, Any]) -> None:
    loader = loader_of(place, shuffle=True)
    batches = iter(loader)
    before = [sample["id"] for _ in range(9) for sample in next(batches)]
    state = json.loads(json.dumps(loader.state_dict()))
    batches.close()  # type: ignore[attr-defined]
    again = loader_of(place, shuffle=True)
    again.load_state_dict(state)
    assert before + ids(again) == ids(loader_of(place, shuffle=True))


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers(remote: dict[str, Any], context: str, workers: int) -> None:
    dataset = StreamingDataset(**remote, item_loader=ParquetLoader())
    assert dataset[7] == row(7)  # the parent has read and decoded before
    loader = StreamingDataLoader(
        dataset,
        batch_size=8,
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=as_list,
    )
    assert sorted(ids(loader)) == list(range(COUNT))


def test_torchs_own_loader(local: dict[str, Any]) -> None:
    dataset = StreamingDataset(**local, item_loader=ParquetLoader(columns=["id"]))
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=8, num_workers=2)
    found = [number for batch in loader for number in batch["id"].tolist()]
    assert sorted(found) == list(range(COUNT))


def test_one_row_costs_a_footer_and_its_row_group(remote: dict[str, Any], server: S3Server) -> None:
    dataset = StreamingDataset(**remote, item_loader=ParquetLoader())
    server.reset()
    assert dataset[50] == row(50)
    counters = server.counters()
    assert counters.get == counters.requests == 2
    assert counters.bytes_out < 50_000  # of 200 kB; three rows are in the row group
    server.reset()
    assert dataset[51] == row(51)
    assert server.counters().requests == 0
    one = StreamingDataset(**remote, item_loader=ParquetLoader(columns=["text"]))
    server.reset()
    assert one[200] == {"text": "row 200"}
    assert server.counters().bytes_out < 20_000


def test_an_epoch_fetches_the_data_once(remote: dict[str, Any], server: S3Server) -> None:
    total = sum(
        path.stat().st_size for path in (server.root / "bucket" / "rows").rglob("*.parquet")
    )
    loader = loader_of(remote, shuffle=True)
    server.reset()
    ids(loader)
    assert server.counters().bytes_out < 1.1 * total
    server.reset()
    ids(loader)
    assert server.counters().requests == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_row_groups_that_two_ranks_share_are_fetched_once(
    remote: dict[str, Any], server: S3Server, workers: int
) -> None:
    """Ranks and workers cut row groups, which can only be fetched whole: once for the host."""
    total = sum(
        path.stat().st_size for path in (server.root / "bucket" / "rows").rglob("*.parquet")
    )
    loaders = [
        loader_of(remote, shuffle=True, rank=rank, world_size=2, num_workers=workers)
        for rank in (0, 1)
    ]
    server.reset()
    read = [
        sample["id"]
        for pair in zip(*loaders, strict=True)  # in step, as ranks go
        for batch in pair
        for sample in batch
    ]
    assert len(set(read)) == len(read) == COUNT // 16 * 16
    counters = server.counters()
    assert counters.bytes_out - 450 * counters.requests <= 1.05 * total


def test_rows_that_cannot_be_read_are_skipped(remote: dict[str, Any], server: S3Server) -> None:
    dataset = StreamingDataset(**remote, item_loader=ParquetLoader(), on_error="skip")
    folder = server.root / "bucket" / "rows"
    gone = (folder / "part-3.parquet").rename(folder / "part-3.gone")
    try:
        loader = StreamingDataLoader(dataset, batch_size=8, collate_fn=as_list)
        with pytest.warns(UserWarning, match=r"samples are skipped: .*part-3\.parquet") as told:
            found = ids(loader)
        assert len(told) == 1
        assert len(found) == COUNT
        assert set(found) == set(range(202))
        assert loader.stats()["skipped"] == 60
        with pytest.raises(ObjectNotFoundError):
            dataset[-1]
    finally:
        gone.rename(folder / "part-3.parquet")


@pytest.mark.parametrize("options", [{"max_cache_size": 60_000}, {"cache": "memory"}])
def test_little_room(remote: dict[str, Any], options: dict[str, Any]) -> None:
    loader = loader_of({**remote, **options}, shuffle=True)
    assert sorted(ids(loader)) == list(range(COUNT))


async def finish(store: Store) -> None:
    async with store:
        await store.delete("zz.parquet")


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_folder_without_an_index(
    where: str, tmp_path: Path, server: S3Server, request: pytest.FixtureRequest
) -> None:
    place: dict[str, Any] = {"input_dir": "s3://bucket/bare", "cache_dir": tmp_path / "cache"}
    place["storage_options"] = server.storage_options
    folder = server.root / "bucket" / "bare"
    if where == "local":
        folder = place["input_dir"] = fill(tmp_path / "rows")
    dataset = StreamingDataset(**place)
    assert isinstance(dataset.source.loader, ParquetLoader)
    assert [sample["id"] for sample in dataset] == list(range(COUNT))
    assert not (folder / "index.json").exists()
    server.reset()
    assert len(StreamingDataset(**place)) == COUNT
    assert server.counters().get <= 2  # no footer is read again: no index there, and a listing
    pq.write_table(pa.Table.from_pylist(rows(5, COUNT), schema=SCHEMA), tmp_path / "extra")
    store = open_store(place["input_dir"], storage_options=server.storage_options)
    request.addfinalizer(lambda: portal().call(finish, store))
    portal().call(store.put_file, "zz.parquet", tmp_path / "extra")
    assert StreamingDataset(**place)[-1] == row(COUNT + 4)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("part-[12].parquet", None),
        ("part-*.parquet", COUNT),
        ("*-3.parquet", 60),
        ("a*.parquet", 101),
    ],
)
def test_patterns(remote: dict[str, Any], pattern: str, found: int | None) -> None:
    place = {**remote, "input_dir": f"s3://bucket/rows/{pattern}"}
    if found is None:
        with pytest.raises(DatasetNotFoundError):
            StreamingDataset(**place)
    else:
        assert len(StreamingDataset(**place)) == found


def test_a_pattern_of_an_index_elsewhere(local: dict[str, Any], tmp_path: Path) -> None:
    folder = local["input_dir"]
    dataset = StreamingDataset(f"{folder}/*-3.parquet", index_path=folder)
    assert [sample["id"] for sample in dataset] == list(range(202, COUNT))
    with pytest.raises(DatasetNotFoundError, match="x-"):
        StreamingDataset(f"{folder}/x-*.parquet", index_path=folder)
    index_parquet_dataset(f"{folder}/*-3.parquet", tmp_path / "three")
    assert len(StreamingDataset(folder, index_path=tmp_path / "three")) == 60


@pytest.mark.parametrize("where", ["local", "remote"])
def test_an_index_of_litdata_is_read(
    where: str, local: dict[str, Any], remote: dict[str, Any]
) -> None:
    path = local["input_dir"] / "index.json"
    value = json.loads(path.read_bytes())
    for chunk in value["chunks"]:
        del chunk["row_groups"], chunk["footer_bytes"]
    value["chunks"].reverse()
    path.write_text(json.dumps(value))
    place = local if where == "local" else {**remote, "index_path": path}
    dataset = StreamingDataset(**place, item_loader=ParquetLoader(), shuffle=True)
    assert sorted(sample["id"] for sample in dataset) == list(range(COUNT))
    assert dataset[0] == row(202)


def test_what_cannot_be_indexed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(DatasetNotFoundError, match="no Parquet files"):
            index_parquet_dataset(folder)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    pq.write_table(pa.table({"id": [1], "x": [1]}), mixed / "a.parquet")
    pq.write_table(pa.table({"id": [1], "x": ["1"]}), mixed / "b.parquet")
    with pytest.raises(SchemaError, match=r"'x' is int64 in .*a\.parquet and string in .*b\.parq"):
        index_parquet_dataset(mixed)
    pq.write_table(pa.table({"id": [1], "y": [1]}), mixed / "b.parquet")
    with pytest.raises(SchemaError, match=r"'x' is int64 in .* and missing"):
        index_parquet_dataset(mixed)
    pq.write_table(pa.table({"x": [1], "id": [1]}), mixed / "b.parquet")
    with pytest.raises(SchemaError, match="another order"):
        index_parquet_dataset(mixed)
    (mixed / "b.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ChunkFormatError, match=r"b\.parquet"):
        index_parquet_dataset(mixed)
    assert not (mixed / "index.json").exists()
    for wrong in ("", None, 3):
        with pytest.raises(ConfigError):
            index_parquet_dataset(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_workers"):
        index_parquet_dataset(mixed, num_workers=0)
    with pytest.raises(ConfigError, match="hf://"):
        index_hf_dataset("s3://bucket/rows")


def test_a_replaced_file_is_an_error(remote: dict[str, Any], server: S3Server) -> None:
    folder = server.root / "bucket" / "replaced"
    fill(folder)
    index_parquet_dataset("s3://bucket/replaced", storage_options=server.storage_options)
    dataset = StreamingDataset(**{**remote, "input_dir": "s3://bucket/replaced"})
    assert dataset[0] == row(0)
    (folder / "a" / "part-0.parquet").write_bytes(
        (folder / "b" / "c" / "part-2.parquet").read_bytes()
    )
    with pytest.raises((ObjectChangedError, ChunkFormatError), match="part-0"):
        dataset[99]
    (folder / "part-3.parquet").write_bytes((folder / "a" / "part-1.parquet").read_bytes())
    with pytest.raises((ObjectChangedError, ChunkFormatError, OSError), match="part-3"):
        dataset[-1]


def test_the_index_parses_as_one_of_parquet(local: dict[str, Any]) -> None:
    data = (local["input_dir"] / "index.json").read_bytes()
    index = parse_index(data, source="index.json")
    assert loader_name(index.config) == "ParquetLoader"
    assert [chunk.extra["row_groups"] for chunk in index.chunks] == list(FILES.values())


async def test_the_async_twin(remote: dict[str, Any]) -> None:
    async with AsyncStreamingDataset(**remote, item_loader=ParquetLoader()) as dataset:
        assert await dataset.get_many([3, 250]) == [row(3), row(250)]
        found = [sample["id"] async for batch in dataset.batches(8) for sample in batch]
    assert found == list(range(COUNT))
