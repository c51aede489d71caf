"""Where the list of files comes from: this host's copy, the one beside the data, or the store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiolit.errors import (
    DatasetNotFoundError,
    IndexFormatError,
    ObjectNotFoundError,
    StoreError,
)
from aiolit.groups import single_error
from aiolit.raw.index_file import (
    INDEX_FILE,
    RawIndex,
    dump_raw_index,
    parse_raw_index,
    without_duplicates,
)
from aiolit.raw.indexer import BaseIndexer, FileIndexer, FileMetadata, list_files
from aiolit.store.base import Store
from aiolit.store.kept import read_kept, refuse_link, write_kept
from aiolit.store.local import LocalStore

_log = logging.getLogger(__name__)

_PAGE = 1000  # what one listing request answers, on every cloud
_RANDOM_PAGES = 6


@dataclass(frozen=True, slots=True)
class ListingOptions:
    """How the list of files is found.

    Attributes:
        root: The data set's folder: an absolute path or a URL without a slash at its end.
        folder: Where this host's copy of the list is kept.
        indexer: What finds the files.
        storage_options: For an indexer of the user's own.
        recompute: Whether lists that were kept are left aside.
        save: Whether the list is saved beside remote data.
    """

    root: str
    folder: Path
    indexer: BaseIndexer
    storage_options: Mapping[str, Any] | None
    recompute: bool
    save: bool


async def find_files(store: Store, options: ListingOptions) -> list[FileMetadata]:
    """Return the files of a data set, sorted by path, and keep the list for the next time.

    A list that was kept is compared with the data set in a few requests (see ``is_current``). It
    holds all files, whatever the indexer chooses of them. That a list cannot be kept is no error.

    Raises:
        DatasetNotFoundError: There is no such folder, or no file in it.
        StoreError: It cannot be listed.
    """
    root, indexer = options.root, options.indexer
    if not isinstance(indexer, FileIndexer) or _is_own(indexer):
        return await _find_by(indexer, options)
    copy = _copy_path(options, INDEX_FILE)
    index = None
    if not options.recompute:
        index = await _kept(store, root, copy)
    if index is None:
        folders = await asyncio.to_thread(_folders, store)
        index = RawIndex(await _list(store, root), time.time(), folders)
        await asyncio.to_thread(_save_copy, copy, dump_raw_index(root, index))
        if options.save and not isinstance(store, LocalStore):
            await _save_beside(store, dump_raw_index(root, index))
    found = indexer.choose(root, index.files)
    if not found:
        raise DatasetNotFoundError(f"there are no files in {root} that the indexer wants")
    return found


async def is_current(store: Store, root: str, index: RawIndex) -> bool:
    """Compare a list of files with what is there, in a few requests.

    A local folder: whether any folder in it has changed. A store: the first thousand names and
    sizes, what follows the last name, and some thousands in between; so a data set of up to a few
    thousand files is compared whole, and of a large one a change of many files or of the last ones
    is noticed, but perhaps not that of a few.
    """
    if isinstance(store, LocalStore):
        return index.folders is not None and await asyncio.to_thread(
            _unchanged, store.path, index.folders
        )
    prefix = root.rstrip("/") + "/"
    known = [(file.path.removeprefix(prefix), file.size) for file in index.files]
    pages = range(0, len(known) + 1, _PAGE)
    probed = {0, len(known)}
    # Other ones at every start, so that a change is found sooner or later.
    probed.update(random.Random().sample(pages, min(len(pages), _RANDOM_PAGES)))
    with single_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_same_page(store, known, begin)) for begin in probed]
    return all(task.result() for task in tasks)


async def _same_page(store: Store, known: Sequence[tuple[str, int]], begin: int) -> bool:
    """Whether the next thousand objects from a place of the list on are those of the list."""
    after = known[begin - 1][0] if begin else ""
    at = begin
    async with aclosing(store.list(after=after)) as listing:
        async for info in listing:
            if info.key == INDEX_FILE:
                continue
            if at == len(known) or (info.key, info.size) != known[at]:
                return False
            at += 1
            if at == begin + _PAGE:
                return True
    return at == len(known)


async def _kept(store: Store, root: str, copy: Path) -> RawIndex | None:
    """Return the list kept on this host, or else beside the data, if it is still true."""
    index = await asyncio.to_thread(_read_copy, copy, root)
    if index is not None and await _holds(store, root, index):
        return index
    if isinstance(store, LocalStore):
        return None
    try:
        data = await store.get(INDEX_FILE)
        index = parse_raw_index(data, root=root, source=store.object_url(INDEX_FILE))
    except ObjectNotFoundError:
        return None
    except (IndexFormatError, StoreError) as error:
        _log.info("the index beside the data is not used: %s", error)
        return None
    if not index.files or not await _holds(store, root, index):
        return None
    await asyncio.to_thread(_save_copy, copy, data)
    return index


async def _holds(store: Store, root: str, index: RawIndex) -> bool:
    try:
        return await is_current(store, root, index)
    except StoreError as error:
        # A web server cannot be asked what it has: the list is all that there is.
        _log.info("%s cannot be listed, so its index is believed: %s", root, error)
        return True


async def _list(store: Store, root: str) -> list[FileMetadata]:
    if isinstance(store, LocalStore) and not await asyncio.to_thread(store.path.is_dir):
        raise DatasetNotFoundError(f"the folder {root} does not exist")
    files = [file for file in await list_files(store, root) if not _is_index(file, root)]
    if not files:
        raise DatasetNotFoundError(f"there are no files in {root}")
    return files


async def _find_by(indexer: BaseIndexer, options: ListingOptions) -> list[FileMetadata]:
    """Ask an indexer of the user's own, once for this host."""
    kind = f"{type(indexer).__module__}.{type(indexer).__qualname__}"
    tag = hashlib.sha256(kind.encode()).hexdigest()[:8]
    copy = _copy_path(options, f"index-{tag}.json.zstd")
    if not options.recompute:
        index = await asyncio.to_thread(_read_copy, copy, options.root)
        if index is not None:
            return index.files
    found = await asyncio.to_thread(indexer.discover_files, options.root, options.storage_options)
    files = without_duplicates(found)
    if not files:
        raise DatasetNotFoundError(f"{kind} found no files in {options.root}")
    data = dump_raw_index(options.root, RawIndex(files, time.time()))
    await asyncio.to_thread(_save_copy, copy, data)
    return files


def _is_own(indexer: FileIndexer) -> bool:
    return type(indexer).discover_files is not FileIndexer.discover_files


def _is_index(file: FileMetadata, root: str) -> bool:
    return file.path == f"{root.rstrip('/')}/{INDEX_FILE}"


def _copy_path(options: ListingOptions, name: str) -> Path:
    place = hashlib.md5(options.root.encode(), usedforsecurity=False).hexdigest()
    return options.folder / place / name


def _read_copy(path: Path, root: str) -> RawIndex | None:
    try:
        index = parse_raw_index(read_kept(path), root=root, source=str(path))
    except (OSError, IndexFormatError) as error:
        _log.debug("no index is kept on this host: %s", error)
        return None
    return index if index.files else None


def _save_copy(path: Path, data: bytes) -> None:
    try:
        refuse_link(path.parent)
        write_kept(path, data)
    except OSError as error:
        _log.info("the index is not kept on this host: %s", error)


async def _save_beside(store: Store, data: bytes) -> None:
    try:
        await store.put(INDEX_FILE, data)
    except StoreError as error:
        _log.info("the index is not saved beside the data: %s", error)


def _folders(store: Store) -> dict[str, int] | None:
    """Note when each folder last changed; None where links make that no proof."""
    if not isinstance(store, LocalStore):
        return None
    found = {}
    for path, below, _ in os.walk(store.path):
        if any(os.path.islink(os.path.join(path, name)) for name in below):
            return None
        found[os.path.relpath(path, store.path)] = os.stat(path).st_mtime_ns
    return found


def _unchanged(root: Path, folders: Mapping[str, int]) -> bool:
    """Whether folders are as they were noted; a file that came or went changes its folder."""
    try:
        return all(os.stat(root / name).st_mtime_ns == changed for name, changed in folders.items())
    except OSError:
        return False
