"""`map`: a function that writes files, on many inputs; the files go to any store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from aiolit.errors import ConfigError, OptimizeError
from aiolit.groups import single_error
from aiolit.options import OutputOptions, WorkOptions
from aiolit.processing.checkpoint import Checkpoint, check_no_job
from aiolit.processing.input_digest import CheckedSource
from aiolit.processing.job import Report, closing_source, work_through
from aiolit.processing.journal import Progress
from aiolit.processing.map_call import AsyncMapCall, FilesLoader, MapCall, Wants
from aiolit.processing.map_journal import Made, MapJournal
from aiolit.processing.map_uploads import FinishedInputs, Uploads
from aiolit.processing.nodes import Share
from aiolit.processing.output import look_at_output
from aiolit.processing.setup import Setup, is_async_function
from aiolit.processing.sources import InputSource
from aiolit.processing.summary import MapSummary, SkippedInput
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.local import LocalStore
from aiolit.store.owned import OwnedFolder
from aiolit.store.threads import run_in_thread

__all__ = ["MakeFiles", "MapJob", "make_files", "run_map"]

_WORK_FOLDER = ".aiolit-map-"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob:
    """Everything `run_map` needs, checked."""

    fn: Callable[..., Any]
    wants: Wants
    source: InputSource
    checked: CheckedSource | None
    output: OutputOptions
    work: WorkOptions
    error_when_not_empty: bool
    manifest: str | None = None
    read: Callable[[Any], Any] | None = None
    weights: Any = None
    share: Share | None = None


MakeFiles = Callable[
    [Store, MapJob, MapJournal | None, Progress | None],
    Awaitable[tuple[list[Made], Report]],
]


async def run_map(job: MapJob, make: MakeFiles | None = None) -> MapSummary:
    """Have workers call the function and store what it writes.

    ``make`` does that; by default `make_files`, on this machine.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        ConfigError: The output is not empty, and was to be; or an interrupted job is there, and is
            another one or not to be gone on with.
        OptimizeError: Two inputs have written files of one name.
    """
    started = perf_counter()
    options = job.output
    opened = open_store(
        options.url,
        storage_options=options.storage_options,
        session_options=options.session_options,
    )
    async with closing_source(job.source), opened as store:
        await _look(store, job)
        async with _journal(store, job) as (journal, progress):
            made, report = await (make or make_files)(store, job, journal, progress)
            if job.manifest is not None:
                await _write_manifest(store, job.manifest, made)
            if journal is not None:
                await journal.end()
    return MapSummary(
        output_dir=options.url,
        files=tuple(sorted(name for each in made for name, _ in each.files)),
        nbytes=sum(nbytes for each in made for _, nbytes in each.files),
        inputs=report.inputs,
        seconds=perf_counter() - started,
        skipped=tuple(report.skipped),
    )


async def _look(store: Store, job: MapJob) -> None:
    """Remove what killed processes left unfinished, and refuse an output that will not do."""
    await look_at_output(store)
    rank = None if job.share is None else job.share.rank
    if await check_no_job(store, but=None if job.checked is None else Checkpoint(store, rank)):
        return
    if job.error_when_not_empty:
        async for info in store.list():
            if not info.key.startswith(_WORK_FOLDER):
                raise ConfigError(
                    f"{store.url} is not empty: it holds {info.key}; choose another output_dir"
                )


@asynccontextmanager
async def _journal(
    store: Store, job: MapJob
) -> AsyncIterator[tuple[MapJournal | None, Progress | None]]:
    """Go on with the records of an interrupted job; whatever ends the block, all are written."""
    if job.checked is None:
        yield None, None
        return
    same = {"function": "map", "inputs": job.source.total}
    if job.share is not None:
        same["num_nodes"] = job.share.num_nodes
    journal = MapJournal(store, job.checked.mark, share=job.share)
    progress = await journal.begin(same)
    job.checked.expect(journal.marks)
    try:
        yield journal, progress
    except BaseException:
        await journal.flush()
        raise


async def make_files(
    store: Store,
    job: MapJob,
    journal: FinishedInputs | None,
    progress: Progress | None,
    *,
    places: Callable[[], tuple[int, int]] | None = None,
    on_skipped: Callable[[SkippedInput], None] = lambda _: None,
) -> tuple[list[Made], Report]:
    """Have workers call the function, and store the files; return what came of the inputs."""
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
        whole_shares = job.wants.is_last
        with single_error():
            async with asyncio.TaskGroup() as group:
                uploads = Uploads(
                    store, group, job.output.num_uploaders, journal, whole_shares=whole_shares
                )
                report = await work_through(
                    setup,
                    job.source,
                    job.work,
                    uploads.take,
                    progress=progress,
                    weights=job.weights,
                    whole_shares=whole_shares,
                    label="map",
                    on_skipped=on_skipped,
                    places=places,
                )
    return [uploads.made[index] for index in sorted(uploads.made)], report


@asynccontextmanager
async def _work_folder(store: Store) -> AsyncIterator[str]:
    """Make a folder for what is not stored yet: beside local files, so that they only move."""
    parent = None
    if isinstance(store, LocalStore):
        parent = store.path
        await run_in_thread(os.makedirs, parent, exist_ok=True)
    folder = await run_in_thread(OwnedFolder, _WORK_FOLDER, parent)
    try:
        yield str(folder.path)
    finally:
        await run_in_thread(folder.remove)


async def _write_manifest(store: Store, key: str, made: Sequence[Made]) -> None:
    """Say in a line of JSON for each input what it gave."""
    for each in made:
        if key in dict(each.files):
            raise OptimizeError(f"input {each.index} wrote {key!r}, the name of the manifest")
    lines = [
        json.dumps({"input": each.index, "files": [list(file) for file in each.files]})
        for each in made
    ]
    await store.put(key, "".join(f"{line}\n" for line in lines).encode())
