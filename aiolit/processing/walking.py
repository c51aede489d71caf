"""Folders of any store, listed with many requests in flight."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiolit.errors import DatasetNotFoundError
from aiolit.groups import single_error
from aiolit.options import positive
from aiolit.runtime.portal import portal
from aiolit.store.connect import is_remote, join, local_path, open_store
from aiolit.store.connections import expand
from aiolit.store.threads import run_in_thread

__all__ = ["Entry", "WalkStream", "open_walk", "walk"]

Entry = tuple[str, list[str], list[str]]

_MAX_WORKERS = 16
_AHEAD = 1024


class WalkStream(AsyncIterator[Entry]):
    """Entries as they are found, one by one or, with `take`, all that are there.

    A failure of the listing is raised behind the entries that were found before it.
    """

    def __init__(self) -> None:
        self._found: asyncio.Queue[Entry | None] = asyncio.Queue(_AHEAD)
        self._failure: Exception | None = None
        self._ended = False

    async def __anext__(self) -> Entry:
        entry = None if self._ended else await self._found.get()
        if entry is not None:
            return entry
        self._ended = True
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration

    async def put(self, entry: Entry) -> None:
        """Add an entry."""
        await self._found.put(entry)

    async def end(self, failure: Exception | None = None) -> None:
        """End the stream."""
        self._failure = failure
        await self._found.put(None)

    async def take(self) -> list[Entry]:
        """Return the next entries, at least one; none at the end."""
        block: list[Entry] = []
        try:
            block.append(await anext(self))
            while not self._found.empty():
                block.append(await anext(self))
        except StopAsyncIteration:
            return block
        return block


@asynccontextmanager
async def open_walk(
    folder: Any,
    max_workers: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> AsyncIterator[WalkStream]:
    """Open the listing of a folder and all folders below it: ``async for entry in stream``.

    Entries are those of `walk`. Leaving the block ends the listing.

    Args:
        folder: Where to begin: a path or a URL of any store.
        max_workers: Folders listed at once.
        storage_options: Options of the store's client.

    Raises:
        DatasetNotFoundError: There is no such folder.
    """
    stream = WalkStream()
    folder = expand(os.fspath(folder))
    workers = _MAX_WORKERS if max_workers is None else positive(max_workers, name="max_workers")

    async def list_all() -> None:
        try:
            with single_error():
                if is_remote(folder):
                    await _walk_store(folder, stream, storage_options)
                else:
                    await _walk_local(str(local_path(folder)), stream, workers)
        except Exception as error:  # noqa: BLE001  raised to whoever reads the stream
            await stream.end(error)
        else:
            await stream.end()

    with single_error():
        async with asyncio.TaskGroup() as group:
            lister = group.create_task(list_all())
            yield stream
            lister.cancel()


async def _walk_local(folder: str, stream: WalkStream, max_workers: int) -> None:
    places = asyncio.Semaphore(max_workers)
    if not await run_in_thread(os.path.isdir, folder):
        raise DatasetNotFoundError(f"there is no folder {folder}")

    async def visit(path: str, group: asyncio.TaskGroup) -> None:
        async with places:
            entry = await run_in_thread(_scan, path)
        for name in entry[1]:
            group.create_task(visit(os.path.join(path, name), group))
        await stream.put(entry)

    async with asyncio.TaskGroup() as group:
        await visit(folder, group)


def _scan(path: str) -> Entry:
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                (folders if is_folder else files).append(entry.name)
    except (FileNotFoundError, PermissionError):
        pass  # as os.walk does: it is gone, or none of our business
    return path, sorted(folders), sorted(files)


async def _walk_store(
    url: str, stream: WalkStream, storage_options: Mapping[str, Any] | None
) -> None:
    """List a store in one sorted pass; a folder is told when the last key below it was seen."""
    open_folders: list[tuple[str, list[str], list[str]]] = [("", [], [])]

    async def close() -> None:
        prefix, folders, files = open_folders.pop()
        await stream.put((join(url, prefix.rstrip("/")) if prefix else url, folders, files))

    async with open_store(url, storage_options=storage_options) as store:
        async for info in store.list():
            while not info.key.startswith(open_folders[-1][0]):
                await close()
            *below, name = info.key[len(open_folders[-1][0]) :].split("/")
            for part in below:
                prefix, folders, _ = open_folders[-1]
                folders.append(part)
                open_folders.append((f"{prefix}{part}/", [], []))
            if name:
                open_folders[-1][2].append(name)
        while open_folders:
            await close()


def walk(
    folder: Any,
    max_workers: int | None = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Entry]:
    """Yield ``(folder, folder names, file names)`` for a folder and all below it, as ``os.walk``.

    Many folders are listed at once, so they come in no particular order; the names in each are
    sorted. ``folder`` is a path or a URL of any store.

    Args:
        folder: Where to begin.
        max_workers: Folders listed at once.
        storage_options: Options of the store's client.

    Raises:
        DatasetNotFoundError: There is no such folder.
    """
    gate = portal()
    context = open_walk(folder, max_workers, storage_options=storage_options)
    with gate.wrap_async_context_manager(context) as stream:
        while block := gate.call(stream.take):
            yield from block
