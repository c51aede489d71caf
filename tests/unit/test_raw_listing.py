"""Where the list of files comes from, and when it is made anew."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from aiolit.errors import AccessDeniedError, DatasetNotFoundError, StoreError
from aiolit.raw.index_file import INDEX_FILE, RawIndex, dump_raw_index
from aiolit.raw.indexer import BaseIndexer, FileIndexer, FileMetadata
from aiolit.raw.listing import ListingOptions, find_files, is_current
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.memory import MemoryStore
from aiolit.testing.stores import Fault, FaultStore

ROOT = "memory://bucket/files"


async def filled(count: int) -> MemoryStore:
    store = MemoryStore(ROOT)
    for number in range(count):
        await store.put(f"f{number:05}", b"x")
    return store


def options(folder: Path, **changes: Any) -> ListingOptions:
    return ListingOptions(
        root=changes.get("root", ROOT),
        folder=folder,
        indexer=changes.get("indexer", FileIndexer()),
        storage_options=None,
        recompute=changes.get("recompute", False),
        save=changes.get("save", True),
    )


def calls(store: Store) -> tuple[list[tuple[str, str]], FaultStore]:
    """Return a store that writes down what it is asked for."""
    seen: list[tuple[str, str]] = []

    def note(verb: str, key: str) -> None:
        seen.append((verb, key))

    return seen, FaultStore(store, note)


def failing(store: Store, verb: str, error: StoreError) -> FaultStore:
    return FaultStore(store, lambda called, key: Fault(error=error) if called == verb else None)


def names(files: list[FileMetadata]) -> list[str]:
    return [file.path.rpartition("/")[2] for file in files]


async def test_the_list_is_made_saved_and_found_again(tmp_path: Path) -> None:
    store = await filled(3)
    found = await find_files(store, options(tmp_path / "one"))
    assert found == [FileMetadata(f"{ROOT}/f{n:05}", 1) for n in range(3)]
    text = zstandard.ZstdDecompressor().decompress(await store.get(INDEX_FILE)).decode()
    assert json.loads(text)["source"] == ROOT
    # Another host: the list beside the data is copied, and nothing is written there.
    seen, watched = calls(store)
    assert await find_files(watched, options(tmp_path / "two")) == found
    assert ("get", INDEX_FILE) in seen
    assert "put" not in {verb for verb, _ in seen}
    # The same host: its own copy will do.
    seen, watched = calls(store)
    assert await find_files(watched, options(tmp_path / "two")) == found
    assert {verb for verb, _ in seen} == {"list"}


async def test_save_index_false_writes_nothing_beside_the_data(tmp_path: Path) -> None:
    store = await filled(2)
    await find_files(store, options(tmp_path, save=False))
    assert [info.key async for info in store.list()] == ["f00000", "f00001"]


@pytest.mark.parametrize("verb", ["put", "get"])
async def test_a_source_that_refuses_is_no_error(tmp_path: Path, verb: str) -> None:
    store = failing(await filled(2), verb, AccessDeniedError("no", url=ROOT))
    assert names(await find_files(store, options(tmp_path))) == ["f00000", "f00001"]


async def test_a_source_that_cannot_be_listed_is_read_by_its_index(tmp_path: Path) -> None:
    inner = await filled(2)
    await find_files(inner, options(tmp_path / "one"))
    store = failing(inner, "list", StoreError("no listing", url=ROOT))
    assert names(await find_files(store, options(tmp_path / "two"))) == ["f00000", "f00001"]
    await inner.delete(INDEX_FILE)
    with pytest.raises(StoreError, match="no listing"):
        await find_files(store, options(tmp_path / "three"))


@pytest.mark.parametrize("change", ["added", "appended", "removed", "grown"])
async def test_a_changed_store_is_noticed(tmp_path: Path, change: str) -> None:
    store = await filled(2500)
    before = await find_files(store, options(tmp_path))
    if change == "added":
        await store.put("f00700a", b"x")
    elif change == "appended":
        await store.put("g", b"x")
    elif change == "removed":
        await store.delete("f01999")
    else:
        await store.put("f02000", b"xy")
    after = await find_files(store, options(tmp_path))
    assert after != before
    assert after == await find_files(store, options(tmp_path / "afresh", recompute=True))


async def test_a_large_store_is_asked_few_times(tmp_path: Path) -> None:
    store = await filled(20_000)
    await find_files(store, options(tmp_path))
    seen, watched = calls(store)
    await find_files(watched, options(tmp_path))
    assert len(seen) <= 8
    # What was added at the end is always seen.
    await store.put("g", b"x")
    assert len(await find_files(store, options(tmp_path))) == 20_001


async def test_recompute_lists_whatever_was_kept(tmp_path: Path) -> None:
    store = await filled(2)
    stale = RawIndex([FileMetadata(f"{ROOT}/other", 1)], 0.0)
    await store.put(INDEX_FILE, dump_raw_index(ROOT, stale))
    seen, watched = calls(store)
    assert names(await find_files(watched, options(tmp_path, recompute=True))) == [
        "f00000",
        "f00001",
    ]
    assert "get" not in {verb for verb, _ in seen}


@pytest.mark.parametrize("data", [b"", b"garbage", dump_raw_index(ROOT, RawIndex([], 0.0))])
async def test_a_broken_or_empty_index_is_not_used(tmp_path: Path, data: bytes) -> None:
    store = await filled(2)
    await store.put(INDEX_FILE, data)
    assert len(await find_files(store, options(tmp_path))) == 2


async def test_no_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no files"):
        await find_files(MemoryStore(ROOT), options(tmp_path))
    missing = str(tmp_path / "missing")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        await find_files(LocalStore(missing), options(tmp_path, root=missing))
    chosen, store = options(tmp_path, indexer=FileIndexer(extensions=[".png"])), await filled(1)
    with pytest.raises(DatasetNotFoundError, match="wants"):
        await find_files(store, chosen)


async def test_an_indexers_choice_is_not_what_is_kept(tmp_path: Path) -> None:
    store = await filled(2)
    await store.put("a.png", b"x")
    png = FileIndexer(extensions=[".png"])
    assert names(await find_files(store, options(tmp_path, indexer=png))) == ["a.png"]
    assert len(await find_files(store, options(tmp_path))) == 3


async def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = await filled(2)
    assert len(await find_files(store, options(tmp_path / "file"))) == 2


async def test_local_folders_are_listed_and_watched(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    for key in ("b/2", "a/1", "c", "a-b/3"):
        (data / key).parent.mkdir(parents=True, exist_ok=True)
        (data / key).write_bytes(b"xy")
    (data / "empty").mkdir()
    root, store = str(data), LocalStore(data)
    found = await find_files(store, options(cache, root=root))
    assert found == [FileMetadata(f"{root}/{key}", 2) for key in ("a-b/3", "a/1", "b/2", "c")]
    assert not (data / INDEX_FILE).exists()
    assert await find_files(store, options(cache, root=root)) == found
    os.utime(data / "empty", ns=(0, 0))
    (data / "empty" / "new").write_bytes(b"")
    assert len(await find_files(store, options(cache, root=root))) == 5
    (data / "c").unlink()
    assert len(await find_files(store, options(cache, root=root))) == 4


async def test_links_to_folders_make_the_listing_new_each_time(tmp_path: Path) -> None:
    data, other, cache = tmp_path / "data", tmp_path / "other", tmp_path / "cache"
    data.mkdir()
    other.mkdir()
    (other / "1").write_bytes(b"")
    (data / "link").symlink_to(other)
    root, store = str(data), LocalStore(data)
    assert names(await find_files(store, options(cache, root=root))) == ["1"]
    (other / "2").write_bytes(b"")
    assert names(await find_files(store, options(cache, root=root))) == ["1", "2"]


async def test_a_local_index_without_folders_proves_nothing(tmp_path: Path) -> None:
    index = RawIndex([FileMetadata(f"{tmp_path}/a", 1)], 0.0)
    assert not await is_current(LocalStore(tmp_path), str(tmp_path), index)


class Own(BaseIndexer):
    def __init__(self) -> None:
        self.calls = 0

    def discover_files(
        self, input_dir: str, storage_options: Mapping[str, Any] | None = None
    ) -> list[FileMetadata]:
        self.calls += 1
        return [FileMetadata(f"{input_dir}/{key}", 1) for key in ("b", "a", "b")]


class OwnFiles(FileIndexer):
    def discover_files(
        self, input_dir: str, storage_options: Mapping[str, Any] | None = None
    ) -> list[FileMetadata]:
        return [FileMetadata(f"{input_dir}/only", 1)]


async def test_an_indexer_of_ones_own_is_asked_once(tmp_path: Path) -> None:
    store, own = await filled(2), Own()
    for _ in range(2):
        assert names(await find_files(store, options(tmp_path, indexer=own))) == ["a", "b"]
    assert own.calls == 1
    await find_files(store, options(tmp_path, indexer=own, recompute=True))
    assert own.calls == 2
    assert names(await find_files(store, options(tmp_path, indexer=OwnFiles()))) == ["only"]
    assert len(await find_files(store, options(tmp_path))) == 2
