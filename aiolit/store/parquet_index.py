"""The index of a folder of Parquet files: made of their footers, and kept for the next time."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from aiolit.errors import DatasetNotFoundError, IndexFormatError, SchemaError
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index
from aiolit.format.fields import name_problem
from aiolit.format.index import dump_index, parse_index
from aiolit.format.parquet import (
    END_NBYTES,
    FOOTER_BYTES,
    ROW_GROUPS,
    TAIL_NBYTES,
    ParquetFooter,
    footer_nbytes,
)
from aiolit.groups import single_error
from aiolit.store.base import ObjectInfo, Store
from aiolit.store.kept import read_kept, refuse_link, write_kept
from aiolit.store.threads import run_in_thread

_log = logging.getLogger(__name__)

_SUFFIX = ".parquet"
_AT_ONCE = 16


async def parquet_index_bytes(
    store: Store, pattern: str | None = None, *, at_once: int = _AT_ONCE
) -> bytes:
    """Make ``index.json`` of all Parquet files in a store, nested folders included, by name.

    Args:
        store: The folder.
        pattern: Only files whose path in the folder, or whose name, fits, such as
            ``train-*.parquet``.
        at_once: How many footers are read at the same time.

    Returns:
        The bytes of the index, for ``ParquetLoader``; a function of the files.

    Raises:
        DatasetNotFoundError: There are none.
        SchemaError: Two files have not the same columns; the message names both.
        ChunkFormatError: One is no Parquet file.
        StoreError: The store cannot be read.
    """
    return await index_of_files(store, await _parquet_files(store, pattern), at_once)


async def kept_parquet_index(store: Store, pattern: str | None, folder: Path) -> bytes:
    """Return the index of a store's Parquet files, made anew only if they have changed.

    Names and sizes are compared with those of the index in ``folder``, which costs one listing;
    a folder that cannot be written is no error. Raises what ``parquet_index_bytes`` does.
    """
    path = folder / "index.json"
    files = await _parquet_files(store, pattern)
    kept = await run_in_thread(_read_kept, path)
    if kept is not None and kept[0] == [(info.key, info.size) for info in files]:
        return kept[1]
    data = await index_of_files(store, files)
    await run_in_thread(_keep, path, data)
    return data


def matches(name: str, pattern: str | None) -> bool:
    """Whether a file's path in its folder, or its name, fits a pattern; None fits all."""
    if pattern is None:
        return True
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(
        name.rpartition("/")[2], pattern
    )


def parquet_index_folder(url: str, pattern: str | None, root: Path | None) -> Path:
    """Return where the index of a data set that nothing can be written to is kept.

    Args:
        url: The data set's folder.
        pattern: The files of it that are meant.
        root: The folder that the user named, or None.
    """
    if root is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(base) / "aiolit"
    place = url if pattern is None else f"{url}/{pattern}"
    name = hashlib.md5(place.encode(), usedforsecurity=False).hexdigest()
    return root / "hf-index" / name


async def _parquet_files(store: Store, pattern: str | None) -> list[ObjectInfo]:
    found = [
        info
        async for info in store.list()
        if info.key.endswith(_SUFFIX) and info.size and matches(info.key, pattern)
    ]
    if not found:
        what = "no Parquet files" if pattern is None else f"no files {pattern}"
        raise DatasetNotFoundError(f"there are {what} in {store.url}")
    for info in found:
        if problem := name_problem(info.key):
            raise DatasetNotFoundError(f"{store.object_url(info.key)} cannot be read: {problem}")
    return found


async def index_of_files(
    store: Store, files: Sequence[ObjectInfo], at_once: int = _AT_ONCE
) -> bytes:
    """Make ``index.json`` of these Parquet files, at least one; see ``parquet_index_bytes``."""
    places = asyncio.Semaphore(max(1, at_once))

    async def read(info: ObjectInfo) -> ParquetFooter:
        async with places:
            return await read_footer(store, info)

    with single_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(info)) for info in files]
    footers = [task.result() for task in tasks]
    for footer in footers:
        _check_columns(footers[0], footer)
    changed = [info.modified for info in files if info.modified is not None]
    config = DatasetConfig(data_format=footers[0].types, item_loader="ParquetLoader")
    chunks = tuple(
        ChunkInfo(
            filename=info.key,
            num_items=footer.num_rows,
            nbytes=info.size,
            extra={ROW_GROUPS: list(footer.rows), FOOTER_BYTES: footer.nbytes},
        )
        for info, footer in zip(files, footers, strict=True)
    )
    updated_at = str(max(changed)) if changed else None
    return dump_index(Index(chunks=chunks, config=config, updated_at=updated_at))


async def read_footer(
    store: Store, info: ObjectInfo, columns: Sequence[str] | None = None
) -> ParquetFooter:
    """Fetch the end of a file: one request, or two where the footer is large.

    Args:
        store: The folder.
        info: The file.
        columns: The columns that will be read; None is all.

    Raises:
        ChunkFormatError: It is no Parquet file.
        ConfigError: A column is not there.
        StoreError: It cannot be read.
    """
    key, size, url = info.key, info.size, store.object_url(info.key)
    out = bytearray(min(size, TAIL_NBYTES))
    etag = await store.read_into(key, size - len(out), memoryview(out))
    need = footer_nbytes(bytes(out[-END_NBYTES:]), size, url)
    tail = bytes(out[-need:])
    if need > len(tail):
        begin = await store.get_range(key, size - need, size - len(tail), etag=etag)
        tail = begin + tail
    return await run_in_thread(ParquetFooter, memoryview(tail), size, url, columns)


def _check_columns(first: ParquetFooter, other: ParquetFooter) -> None:
    one = dict(zip(first.names, first.types, strict=True))
    two = dict(zip(other.names, other.types, strict=True))
    if one == two and first.names == other.names:
        return
    for name in [*one, *two]:
        if one.get(name) != two.get(name):
            raise SchemaError(
                f"column {name!r} is {one.get(name, 'missing')} in {first.source} and "
                f"{two.get(name, 'missing')} in {other.source}: all files of a data set must have "
                "the same columns"
            )
    raise SchemaError(f"{first.source} and {other.source} have the same columns in another order")


def _read_kept(path: Path) -> tuple[list[tuple[str, int]], bytes] | None:
    try:
        data = read_kept(path)
        index = parse_index(data, source=str(path))
    except (OSError, IndexFormatError) as error:
        _log.debug("no index is kept on this host: %s", error)
        return None
    return [(chunk.filename, chunk.nbytes) for chunk in index.chunks], data


def _keep(path: Path, data: bytes) -> None:
    try:
        refuse_link(path.parent)
        write_kept(path, data)
    except OSError as error:
        _log.info("the index is not kept on this host: %s", error)
