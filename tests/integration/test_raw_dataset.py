"""Raw files from folders and an S3 server: random access, loaders, ranks, state, cache."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from aiolit.errors import ConfigError, ObjectNotFoundError, StateError
from aiolit.raw.async_dataset import AsyncStreamingRawDataset
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.raw.index_file import INDEX_FILE
from aiolit.raw.indexer import FileIndexer, FileMetadata
from aiolit.runtime.portal import portal
from aiolit.store.connect import open_store
from aiolit.streaming.combined import CombinedStreamingDataset
from aiolit.streaming.dataloader import StreamingDataLoader
from benchmarks.s3_server import S3Server, missing_programs

COUNT = 103

pytestmark = pytest.mark.keeps_open(
    *("sockets", "threads", "files", "environment"),
    reason="connections and threads of the process's portal; torch's handler of SIGCHLD",
)


def content(number: int) -> bytes:
    return b"%d:" % number + bytes(number * 17 % 251 for _ in range(number * 37 % 500))


def as_list(batch: list[Any]) -> list[Any]:
    return batch


def fill(folder: Path) -> None:
    for number in range(COUNT):
        path = folder / f"{number % 3}" / f"{number:04}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))


def number_of(item: bytes) -> int:
    return int(item.partition(b":")[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    fill(root / "bucket" / "files")
    with S3Server(root) as running:
        yield running


@pytest.fixture
def local(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return the arguments of a data set of 103 files."""
    if request.param == "local":
        return {"input_dir": request.getfixturevalue("local"), "cache_dir": tmp_path / "cache"}
    s3: S3Server = request.getfixturevalue("server")
    return {
        "input_dir": "s3://bucket/files/",
        "cache_dir": tmp_path / "cache",
        "storage_options": s3.storage_options,
        "save_index": False,
    }


@pytest.fixture
def remote(server: S3Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "input_dir": "s3://bucket/files",
        "cache_dir": tmp_path / "cache",
        "storage_options": server.storage_options,
        "save_index": False,
    }


def test_items_by_number(place: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(**place)
    assert len(dataset) == len(dataset.files) == COUNT
    for index in (0, 5, -1, COUNT - 1, -COUNT):
        assert dataset[index] == content(int(Path(dataset.files[index].path).stem))


def test_slices_lists_and_iteration(place: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(**place)
    everything = list(dataset)
    assert [number_of(item) for item in everything] == sorted(
        range(COUNT), key=lambda n: (n % 3, n)
    )
    assert all(item == content(number_of(item)) for item in everything)
    assert dataset[10:3:-2] == everything[10:3:-2]
    assert dataset[[7, 0, 7]] == [everything[7], everything[0], everything[7]]
    assert dataset.get_many([]) == []


def test_what_is_no_index(place: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(**place)
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="103 items"):
            dataset[index]
    with pytest.raises(IndexError):
        dataset[[0, COUNT]]
    for wrong in ("0", 1.5, None):
        with pytest.raises(TypeError):
            dataset[wrong]


class Pairs(StreamingRawDataset):
    def setup(self, files: list[FileMetadata]) -> list[list[FileMetadata]]:
        return [[one, two] for one, two in zip(files[::2], files[1::2], strict=False)]


def sizes(item: bytes | list[bytes]) -> Any:
    return len(item) if isinstance(item, bytes) else [len(one) for one in item]


def test_groups_and_transforms(place: dict[str, Any]) -> None:
    files = list(StreamingRawDataset(**place))
    pairs = Pairs(**place)
    assert len(pairs) == COUNT // 2
    assert pairs[3] == files[6:8]
    assert Pairs(**place, transform=sizes)[3] == [len(files[6]), len(files[7])]
    doubled = StreamingRawDataset(**place, transform=[len, lambda size: size * 2])
    assert doubled[[1, 2]] == [2 * len(files[1]), 2 * len(files[2])]


class OwnItems(StreamingRawDataset):
    def __getitem__(self, index: Any) -> Any:
        return int(index), len(super().__getitem__(index))


def test_a_transform_that_is_assigned(place: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(**place)
    plain = list(dataset)

    def sized(item: Any, /) -> int:
        return len(item)

    dataset.transform = sized  # type: ignore[method-assign]
    sizes = [len(item) for item in plain]
    assert list(dataset) == dataset[list(range(COUNT))] == sizes
    (batch,) = StreamingDataLoader(dataset, batch_size=COUNT)
    assert batch.tolist() == sizes


def test_an_overridden_getitem_is_what_every_way_of_reading_yields(place: dict[str, Any]) -> None:
    expected = [(n, len(item)) for n, item in enumerate(StreamingRawDataset(**place))]
    dataset = OwnItems(**place)
    assert list(dataset) == expected
    assert dataset.__getitems__([2, 1]) == [expected[2], expected[1]]
    loader = StreamingDataLoader(dataset, batch_size=COUNT, collate_fn=as_list)
    assert list(loader) == [expected]


class WrongSetup(StreamingRawDataset):
    def setup(self, files: list[FileMetadata]) -> Any:
        return {"train": files}


class ForeignFiles(StreamingRawDataset):
    def setup(self, files: list[FileMetadata]) -> list[FileMetadata]:
        return [FileMetadata("/etc/passwd", 1)]


def test_arguments_are_checked(local: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"transform": "upper"},
        {"indexer": "glob"},
        {"prefetch_bytes": "much"},
        {"prefetch_bytes": 0},
        {"shuffle": 1},
        {"seed": None},
        {"drop_last": "yes"},
        {"rank": 1},
        {"num_canonical_nodes": 0},
        {"input_dir": ""},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigError):
            StreamingRawDataset(**{"input_dir": local, "cache_dir": tmp_path / "c", **arguments})
    for kind in (WrongSetup, ForeignFiles):
        with pytest.raises(ConfigError, match="setup"):
            kind(local, tmp_path / "c")


async def put(place: dict[str, Any], key: str, data: bytes) -> None:
    async with open_store(place["input_dir"], storage_options=place["storage_options"]) as store:
        await store.put(key, data)


def test_later_options_of_litdata(place: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(
        **place,
        max_concurrent_downloads=3,
        max_prefetch=8,
        prefetch_cache_size=4,
        hedge_delay=0.5,
        download_timeout=30.0,
        range_parallel_threshold=0,
        range_chunk_size=1 << 20,
    )
    assert dataset.source.options.storage_options == {
        **place.get("storage_options", {}),
        "max_connections": 3,
        "hedge_after_s": 0.5,
        "give_up_after_s": 30.0,
    }
    assert dataset[list(range(COUNT))] == StreamingRawDataset(**place)[list(range(COUNT))]
    refused: Any = "path"
    with pytest.raises(ConfigError, match="item_type must be 'bytes', not 'path'"):
        StreamingRawDataset(**place, item_type=refused)


def test_the_index_is_saved_beside_remote_data_and_found_there(
    remote: dict[str, Any], server: S3Server, tmp_path: Path
) -> None:
    url = {**remote, "input_dir": "s3://bucket/saved", "save_index": True}
    shutil.copytree(server.root / "bucket" / "files", server.root / "bucket" / "saved")
    dataset = StreamingRawDataset(**url)
    beside = server.root / "bucket" / "saved" / INDEX_FILE
    assert beside.exists()
    again = StreamingRawDataset(**{**url, "cache_dir": tmp_path / "other"})
    assert list(again.files) == list(dataset.files)
    portal().call(put, url, "0/0000a.bin", b"0:new")
    third = StreamingRawDataset(**url)
    assert len(third) == COUNT + 1
    assert b"0:new" in list(third)
    assert len(StreamingRawDataset(**url, indexer=FileIndexer(extensions=[".txt", "a.bin"]))) == 1


def test_a_file_that_went_is_an_error_that_names_it(local: Path, tmp_path: Path) -> None:
    dataset = StreamingRawDataset(local, tmp_path / "cache")
    (local / "1" / "0001.bin").unlink()
    number = [file.path for file in dataset.files].index(f"{local}/1/0001.bin")
    for read in (lambda: dataset[number], lambda: dataset[:], lambda: list(dataset)):
        with pytest.raises(ObjectNotFoundError, match=r"0001\.bin"):
            read()
    assert dataset[number + 1]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name on a disk is bytes, and perhaps no UTF-8; found by listing, and then in the index."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / os.fsdecode(b"\xff.bin")).write_bytes(b"x")
    for _ in range(2):
        assert StreamingRawDataset(str(tmp_path / "data"), tmp_path / "cache")[0] == b"x"


def test_a_file_that_grew_is_read_whole(local: Path, tmp_path: Path) -> None:
    dataset = StreamingRawDataset(local, tmp_path / "cache")
    (local / "0" / "0000.bin").write_bytes(b"0:much longer than before")
    assert dataset[0] == b"0:much longer than before"


def test_large_files_are_fetched_in_parts(remote: dict[str, Any], server: S3Server) -> None:
    folder = server.root / "bucket" / "large"
    folder.mkdir()
    data = bytes(range(256)) * (80 << 10)  # 20 MiB
    (folder / "one").write_bytes(data)
    dataset = StreamingRawDataset(**{**remote, "input_dir": "s3://bucket/large"})
    server.reset()
    assert dataset[0] == data
    counters = server.counters()
    assert (counters.head, counters.get) == (1, 3)


def test_one_request_for_each_small_file(remote: dict[str, Any], server: S3Server) -> None:
    dataset = StreamingRawDataset(**remote)
    server.reset()
    assert dataset[[0, 1, 2]]
    counters = server.counters()
    assert (counters.requests, counters.get) == (3, 3)


def test_cached_files_are_fetched_once(remote: dict[str, Any], server: S3Server) -> None:
    dataset = StreamingRawDataset(**remote, cache_files=True)
    expected = list(dataset)
    server.reset()
    assert list(dataset) == expected
    assert StreamingRawDataset(**remote, cache_files=True)[5] == expected[5]
    assert server.counters().get <= 1  # the second data set looks for a list beside the data
    small = StreamingRawDataset(**remote, cache_files=True, max_cache_size=1)
    assert small[[5, 6]] == expected[5:7]


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("forkserver", 1), ("spawn", 1)])
def test_torchs_loader_with_workers(remote: dict[str, Any], context: str, workers: int) -> None:
    dataset = StreamingRawDataset(**remote)
    assert dataset[0] == content(0)  # the parent has read before
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=16,
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=as_list,
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [16] * 6 + [7]
    assert [item for batch in batches for item in batch] == list(dataset)


def test_torchs_loader_shuffles_and_collates(place: dict[str, Any]) -> None:
    loader = DataLoader(StreamingRawDataset(**place), batch_size=10, shuffle=True)
    found = [number_of(item) for batch in loader for item in batch]
    assert sorted(found) == list(range(COUNT))
    assert found != sorted(found)


def numbers(loader: StreamingDataLoader) -> list[list[int]]:
    return [[number_of(item) for item in batch] for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def loader_of(place: dict[str, Any], **options: Any) -> StreamingDataLoader:
    own = {name: options.pop(name) for name in ("rank", "world_size", "seed") if name in options}
    dataset = StreamingRawDataset(**place, **own)
    options = {"batch_size": 8, "collate_fn": as_list, **options}
    return StreamingDataLoader(dataset, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_streaming_loader_yields_each_item_once_an_epoch(
    place: dict[str, Any], workers: int
) -> None:
    loader = loader_of(place, num_workers=workers, shuffle=True)
    first, second = flat(numbers(loader)), flat(numbers(loader))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    if not workers:
        assert flat(numbers(loader_of(place, shuffle=True))) == first
        assert flat(numbers(loader_of(place, shuffle=True, seed=1))) != first
        assert flat(numbers(loader_of(place))) == sorted(range(COUNT), key=lambda n: (n % 3, n))


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_an_epoch(place: dict[str, Any], drop_last: bool) -> None:
    ranks = [
        numbers(loader_of(place, rank=rank, world_size=3, shuffle=True, drop_last=drop_last))
        for rank in range(3)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    found = [number for batches in ranks for number in flat(batches)]
    if drop_last:
        assert len(found) == len(set(found)) == COUNT // 24 * 24
    else:
        assert set(found) == set(range(COUNT))
        assert len(found) <= COUNT + 2


def test_processes_that_read_the_same(local: Path, tmp_path: Path) -> None:
    found = []
    for rank in range(4):
        os.environ.update(RANK=str(rank), WORLD_SIZE="4")
        try:
            dataset = StreamingRawDataset(local, tmp_path, replicate=2, drop_last=False)
            loader = StreamingDataLoader(dataset, batch_size=8, collate_fn=as_list)
            found.append(flat(numbers(loader)))
        finally:
            del os.environ["RANK"], os.environ["WORLD_SIZE"]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert set(found[0] + found[2]) == set(range(COUNT))


def test_a_member_of_a_mixture(local: Path, tmp_path: Path) -> None:
    one = StreamingRawDataset(local, tmp_path / "cache", shuffle=True).streaming()
    two = StreamingRawDataset(local, tmp_path / "cache", transform=len).streaming()
    mixed = CombinedStreamingDataset([one, two], iterate_over_all=True)
    found = list(mixed)
    assert sorted(number_of(item) for item in found if isinstance(item, bytes)) == list(
        range(COUNT)
    )
    assert len(found) == 2 * COUNT


def test_what_is_dropped_closes_its_connections(remote: dict[str, Any]) -> None:
    dataset = StreamingRawDataset(**remote)
    assert dataset[0] == content(0)
    gone = weakref.ref(dataset.source)
    del dataset
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("taken", [0, 1, 5, 12])
def test_a_saved_state_goes_on_with_the_rest_on_other_workers(
    local: Path, tmp_path: Path, taken: int
) -> None:
    place = {"input_dir": local, "cache_dir": tmp_path / "cache"}
    loader = loader_of(place, shuffle=True)
    batches = iter(loader)
    before = flat([[number_of(item) for item in next(batches)] for _ in range(taken)])
    state = json.loads(json.dumps(loader.state_dict()))
    batches.close()  # type: ignore[attr-defined]
    again = loader_of(place, shuffle=True)
    again.load_state_dict(state)
    after = flat(numbers(again))
    assert before + after == flat(numbers(loader_of(place, shuffle=True)))
    other = loader_of(place, shuffle=True, batch_size=5, num_workers=2 * (taken == 5))
    other.load_state_dict(state)
    assert sorted(before + flat(numbers(other))) == list(range(COUNT))


def test_a_state_of_other_files_is_refused(local: Path, tmp_path: Path) -> None:
    place = {"input_dir": local, "cache_dir": tmp_path / "cache"}
    state = loader_of(place).state_dict()
    with pytest.raises(StateError, match="seed"):
        loader_of(place, seed=1).load_state_dict(state)
    (local / "more").write_bytes(b"1:")
    with pytest.raises(StateError, match="fingerprint"):
        loader_of(place).load_state_dict(state)


def test_an_epoch_left_early_ends_its_requests(remote: dict[str, Any]) -> None:
    loader = loader_of(remote)
    for _ in loader:
        break
    for _ in StreamingRawDataset(**remote):
        break


async def test_the_async_twin(place: dict[str, Any]) -> None:
    async with AsyncStreamingRawDataset(**place, shuffle=True, seed=3) as dataset:
        assert len(dataset) == COUNT
        assert await dataset.get(-1) == content(101)
        assert await dataset.get_many([0, 2]) == [content(0), content(6)]
        with pytest.raises(IndexError):
            await dataset.get(COUNT)
        found = [[number_of(item) for item in batch] async for batch in dataset.batches(8)]
        second = [number_of(item) async for (item,) in dataset.batches(1)]
    assert sorted(second) == list(range(COUNT))
    place = {**place, "shuffle": True}
    assert found == numbers(loader_of(place, seed=3))
    with pytest.raises(ConfigError, match="async with"):
        len(dataset)


async def test_the_async_twin_with_repeats_and_an_early_end(place: dict[str, Any]) -> None:
    found = []
    for rank in range(2):
        place = {**place, "rank": rank, "world_size": 2, "drop_last": False}
        async with AsyncStreamingRawDataset(**place) as dataset:
            found += [number_of(item) async for batch in dataset.batches(8) for item in batch]
            async for _ in dataset.batches(8):
                break
    assert len(found) == COUNT + 1
    assert set(found) == set(range(COUNT))


async def test_the_async_twin_of_a_subclass(local: Path, tmp_path: Path) -> None:
    pairs = await asyncio.to_thread(Pairs, local, tmp_path / "cache")
    async with AsyncStreamingRawDataset(pairs) as dataset:
        assert [len(pair) for pair in await dataset.get_many([0, 1])] == [2, 2]
