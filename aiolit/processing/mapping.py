"""`map`: a function that writes files, on many inputs; the files go to any store."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from aiolit.errors import ConfigError
from aiolit.options import OutputOptions, WorkOptions
from aiolit.processing.collector import Arrival
from aiolit.processing.job import closing_source, work_through
from aiolit.processing.map_call import AsyncMapCall, FilesLoader, MapCall, Wants
from aiolit.processing.protocol import Piece
from aiolit.processing.setup import Setup, is_async_function
from aiolit.processing.sources import InputSource
from aiolit.processing.summary import MapSummary
from aiolit.runtime.groups import single_error
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["MapJob", "run_map"]

# Inputs whose files wait to be stored, for each upload at work, before workers wait.
_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob:
    """Everything `run_map` needs, checked."""

    fn: Callable[..., Any]
    wants: Wants
    source: InputSource
    output: OutputOptions
    work: WorkOptions
    error_when_not_empty: bool
    read: Callable[[Any], Any] | None = None
    weights: Any = None


@dataclass(slots=True)
class _Stored:
    files: list[str] = field(default_factory=list)
    nbytes: int = 0


async def run_map(job: MapJob) -> MapSummary:
    """Have workers call the function and store what it writes.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        ConfigError: The output is not empty, and was to be.
    """
    started = perf_counter()
    options = job.output
    stored = _Stored()
    opened = open_store(
        options.url,
        storage_options=options.storage_options,
        session_options=options.session_options,
    )
    async with closing_source(job.source), opened as store:
        if job.error_when_not_empty:
            await _refuse_content(store)
        async with _work_folder(store) as folder:
            make = AsyncMapCall if is_async_function(job.fn) else MapCall
            setup = Setup(
                fn=make(job.fn, job.wants, folder),
                loader=FilesLoader(),
                read=job.read,
                skip_errors=job.work.on_error != "raise",
                concurrency=job.work.concurrency,
                wants_last=True,
            )
            with single_error():
                async with asyncio.TaskGroup() as group:
                    uploads = _Uploads(store, group, stored, options.num_uploaders)
                    report = await work_through(
                        setup,
                        job.source,
                        job.work,
                        uploads.take,
                        weights=job.weights,
                        whole_shares=job.wants.is_last,
                        label="map",
                    )
    return MapSummary(
        output_dir=options.url,
        files=tuple(sorted(stored.files)),
        nbytes=stored.nbytes,
        inputs=report.inputs,
        seconds=perf_counter() - started,
        skipped=tuple(report.skipped),
    )


async def _refuse_content(store: Store) -> None:
    async for info in store.list():
        raise ConfigError(
            f"{store.url} is not empty: it holds {info.key}; choose another output_dir"
        )


@asynccontextmanager
async def _work_folder(store: Store) -> AsyncIterator[str]:
    """Make a folder for what is not stored yet: beside local files, so that they only move."""
    parent = None
    if isinstance(store, LocalStore):
        parent = store.path
        await run_in_thread(os.makedirs, parent, exist_ok=True)
    folder = await run_in_thread(tempfile.mkdtemp, dir=parent, prefix=".aiolit-map-")
    try:
        yield folder
    finally:
        await run_in_thread(shutil.rmtree, folder, ignore_errors=True)


class _Uploads:
    """Stores the files of each input and removes its folder."""

    def __init__(
        self, store: Store, group: asyncio.TaskGroup, stored: _Stored, num_uploaders: int
    ) -> None:
        self._store = store
        self._group = group
        self._stored = stored
        self._ahead = asyncio.Semaphore(num_uploaders * _AHEAD)
        self._places = asyncio.Semaphore(num_uploaders)

    async def take(self, arrival: Arrival, piece: Piece) -> None:
        """Begin to store the files of the inputs in a piece; waits while many are waiting."""
        start = 0
        for size in piece.sizes.tolist():
            made = json.loads(bytes(piece.data[start : start + size]))
            start += size
            if made["files"]:
                await self._ahead.acquire()
                self._group.create_task(self._store_files(made))

    async def _store_files(self, made: dict[str, Any]) -> None:
        try:
            folder = Path(made["folder"])
            for name, nbytes in made["files"]:
                async with self._places:
                    await self._store_file(name, folder / name)
                self._stored.files.append(name)
                self._stored.nbytes += nbytes
            await run_in_thread(shutil.rmtree, folder, ignore_errors=True)
        finally:
            self._ahead.release()

    async def _store_file(self, name: str, path: Path) -> None:
        if isinstance(self._store, LocalStore):
            await run_in_thread(_move, path, self._store.file_path(name))
        else:
            await self._store.put_file(name, path)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
