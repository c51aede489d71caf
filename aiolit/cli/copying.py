"""``aiolit copy``: a data set from any store to any other."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.cli.checking import check_chunk
from aiolit.cli.console import Console
from aiolit.cli.progress import byte_bar
from aiolit.cli.reading import INDEX_KEY, each, fitting, load_index, read_chunk
from aiolit.errors import ChecksumError, ConfigError, DatasetNotFoundError
from aiolit.format.dataset_info import ChunkInfo, Index
from aiolit.runtime.blocking import in_thread
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.streaming.resolver import resolve
from aiolit.units import format_size

_DELETES = 16


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What to copy where."""

    source: str
    target: str
    overwrite: bool
    concurrency: int
    source_options: Mapping[str, Any] | None
    target_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None
    shows_progress: bool


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: the data set, the bytes stored, and how many chunks had checksums."""

    index: Index
    nbytes: int
    by_checksums: int


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    options = storage_options(args.storage_option)
    job = CopyJob(
        source=resolve(args.source).url,
        target=resolve(args.target).url,
        overwrite=args.overwrite,
        concurrency=args.concurrency,
        source_options=options,
        target_options=storage_options(args.to_storage_option) or options,
        session_options=storage_options(args.session_option),
        shows_progress=console.shows_progress,
    )
    if job.source == job.target:
        raise ConfigError(f"{job.source} cannot be copied onto itself")
    began = time.perf_counter()
    copied = portal().call(copy, job)
    seconds = time.perf_counter() - began
    chunks = len(copied.index.chunks)
    console.result(
        {
            "source": job.source,
            "target": job.target,
            "chunks": chunks,
            "by_checksums": copied.by_checksums,
            "bytes": copied.nbytes,
            "seconds": seconds,
        },
        [
            f"{chunks:,} chunks, {format_size(copied.nbytes)}, in {seconds:.1f} s, at {job.target}",
            f"  {copied.by_checksums:,} of them were checked by checksums on the way"
            + ("" if copied.by_checksums == chunks else ", the others have none to be read here"),
        ],
    )
    return 0


async def copy(job: CopyJob) -> Copied:
    """Copy the chunks, and then the index.

    Raises:
        ConfigError: There is a data set already, and it is not to be overwritten.
        DatasetNotFoundError: There is nothing to copy.
        ChecksumError: A chunk is damaged.
        StoreError: Something could not be read or written.

    A failure or a cancellation leaves no index, and removes the chunks that were written.
    """
    async with AsyncExitStack() as stack:
        source, target = [
            await stack.enter_async_context(
                open_store(url, storage_options=options, session_options=job.session_options)
            )
            for url, options in (
                (job.source, job.source_options),
                (job.target, job.target_options),
            )
        ]
        raw, index = await load_index(source)
        old = await _clear_index(target, overwrite=job.overwrite)
        total = sum(chunk.nbytes for chunk in index.chunks)
        written: set[str] = set()
        try:
            with byte_bar("copy", total, shown=job.shows_progress) as advance:
                copier = _Copier(source, target, index, written)

                async def copy_one(chunk: ChunkInfo) -> None:
                    await copier.copy(chunk)
                    advance(chunk.nbytes)

                limit = fitting(job.concurrency, index.chunks)
                await each(index.chunks, copy_one, limit)
            await target.put(INDEX_KEY, raw)
        except BaseException:
            await each(written, target.delete, _DELETES)
            raise
        await each(old - written, target.delete, _DELETES)
    return Copied(index, copier.nbytes, copier.by_checksums)


async def _clear_index(target: Store, *, overwrite: bool) -> set[str]:
    """Take away the index of a data set that is to be replaced; return the names of its chunks."""
    try:
        _, old = await load_index(target, explains=False)
    except DatasetNotFoundError:
        return set()
    if not overwrite:
        raise ConfigError(
            f"{target.url} holds a data set already; choose another place, or replace it with "
            "--overwrite"
        )
    await target.delete(INDEX_KEY)
    return {chunk.filename for chunk in old.chunks}


class _Copier:
    """Copies chunks, each checked before it is written."""

    def __init__(self, source: Store, target: Store, index: Index, written: set[str]) -> None:
        self._source, self._target, self._config = source, target, index.config
        self._written = written
        self.nbytes = self.by_checksums = 0

    async def copy(self, chunk: ChunkInfo) -> None:
        """Copy one chunk.

        Raises:
            ChecksumError: It is damaged.
        """
        name, data = await read_chunk(self._source, chunk, self._config)
        url = self._source.object_url(name)
        found = await in_thread(partial(check_chunk, name, data, chunk, self._config, url))
        if found.outcome == "damaged":
            raise ChecksumError(f"{found.problems[0]}; nothing is left of the copy")
        self._written.add(name)
        await self._target.put(name, data)
        self.nbytes += len(data)
        self.by_checksums += found.outcome == "checksums"
