"""The data set being written: encoded samples in, chunks out, one index at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import OptimizeError
from aiolit.format.builder import (
    ChunkBuilder,
    PackedChunk,
    SealedChunk,
    chunk_filename,
    pack_chunk,
)
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, EncryptionInfo
from aiolit.format.encryption import Encryption
from aiolit.format.framed import DEFAULT_BATCH
from aiolit.format.loader import ItemLoader, TokensLoader
from aiolit.groups import single_error
from aiolit.options import ChunkLimits, Compression, OutputOptions
from aiolit.processing.checkpoint import Checkpoint
from aiolit.processing.journal import (
    Covered,
    InputMark,
    Ledger,
    Progress,
    merge_ranges,
    within,
)
from aiolit.processing.summary import SkippedInput
from aiolit.processing.target import Target, mark_of
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.tracing import side_span
from aiolit.store.connect import open_store
from aiolit.store.threads import run_in_thread

__all__ = ["DatasetWriter", "Layout", "open_target", "open_writer", "write_chunks"]


_LOG = logging.getLogger("aiolit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How samples become chunks."""

    limits: ChunkLimits
    loader: ItemLoader
    compression: Compression
    encryption: Encryption | None

    def config(self) -> DatasetConfig:
        """Return what the index says of all chunks, but for the schema."""
        cipher = self.encryption
        return DatasetConfig(
            compression=self.compression.name,
            compression_level=self.compression.granularity,
            compression_batch_size=self.compression.batch_size,
            item_loader=self.loader.name,
            encryption=None
            if cipher is None
            else EncryptionInfo(algorithm=cipher.algorithm, level=cipher.level),
            chunk_size=self.limits.chunk_size,
            chunk_bytes=self.limits.chunk_bytes,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what has to be the same when an interrupted job goes on, as JSON values."""
        config = self.config()
        return {
            "chunk_size": config.chunk_size,
            "chunk_bytes": config.chunk_bytes,
            "compression": config.compression,
            "compression_level": config.compression_level,
            "item_loader": config.item_loader,
            "encryption": None if config.encryption is None else config.encryption.algorithm,
        }


@dataclass(slots=True)
class Written:
    """What has been written so far; plain counts."""

    samples: int = 0
    chunks: int = 0
    nbytes: int = 0


class DatasetWriter:
    """Takes encoded samples in order, cuts them into chunks and stores those concurrently.

    Made by `open_writer`. `add` waits while too many bytes are on their way to the store.
    """

    def __init__(
        self,
        layout: Layout,
        target: Target,
        budget: ByteBudget,
        num_uploaders: int,
        group: asyncio.TaskGroup,
        progress: Progress | None,
    ) -> None:
        self._layout = layout
        self.target = target
        self._budget = budget
        self._places = asyncio.Semaphore(num_uploaders)
        self._failed = False
        self._group = group
        self.progress = progress
        self._ledger = None if progress is None else Ledger(progress.partial)
        self._skipped: list[SkippedInput] = []
        self._position = len(target.chunks)
        self._builder = ChunkBuilder(
            chunk_bytes=layout.limits.chunk_bytes,
            chunk_size=layout.limits.chunk_size,
            counts_dim=isinstance(layout.loader, TokensLoader),
        )
        self.written = Written()
        for record in () if progress is None else progress.records:
            self._count(target.chunks[record.number], record.stored_nbytes)

    async def add(
        self,
        sizes: NDArray[np.int64],
        data: memoryview,
        dims: NDArray[np.int64] | None = None,
    ) -> None:
        """Take encoded samples: their sizes, and their bytes one after the other.

        ``data`` is kept until its chunk is stored; nothing is copied.
        """
        for sealed in self._builder.extend(sizes, data, dims):
            await self._store(sealed)

    def trace(self, first: int, counts: Sequence[int], *, complete: bool) -> None:
        """Say from which inputs the samples of the next `add` come; needed for a journal only."""
        if self._ledger is not None:
            self._ledger.add(first, counts, complete=complete)

    def skipped(self, skipped: SkippedInput) -> None:
        """Say that an input failed, before `trace` says that it is complete."""
        if self._ledger is not None:
            self._skipped.append(skipped)

    @property
    def num_sealed(self) -> int:
        """How many chunks there are so far, stored or on their way."""
        return self._position

    def cover_rest(self) -> Covered:
        """Say which inputs without samples have followed the last chunk, after `flush`."""
        return Covered() if self._ledger is None else self._ledger.seal(0)

    async def flush(self) -> None:
        """Store the samples that do not fill a chunk."""
        if (sealed := self._builder.flush()) is not None:
            await self._store(sealed)

    async def _store(self, sealed: SealedChunk) -> None:
        covered = self._ledger.seal(sealed.num_items) if self._ledger is not None else Covered()
        done = merge_ranges(covered.done)
        skipped = [each for each in self._skipped if within(done, each.index)]
        self._skipped = [each for each in self._skipped if not within(done, each.index)]
        position, self._position = self._position, self._position + 1
        # Two copies at most: the samples, and what compression makes of them.
        held = min(sealed.nbytes, self._budget.limit)
        await self._places.acquire()
        await self._budget.acquire(held)
        if self._failed:
            # The group is ending because of it and takes no more tasks; so are we.
            await asyncio.get_running_loop().create_future()
        self._group.create_task(self._upload(position, sealed, covered, skipped, held))

    async def _upload(
        self,
        position: int,
        sealed: SealedChunk,
        covered: Covered,
        skipped: list[SkippedInput],
        held: int,
    ) -> None:
        compression = self._layout.compression
        try:
            number = self.target.first_number + position
            name = chunk_filename(
                self.target.rank, number, compression.name, compression.granularity
            )
            if compression.name is None and self._layout.encryption is None:
                packed = self._pack(name, sealed)
            else:
                packed = await run_in_thread(self._pack, name, sealed)
            await self.target.begin_writing()
            self.target.names.append(name)
            nbytes = sum(len(part) for part in packed.parts)
            with side_span("optimize", name, nbytes=nbytes):
                await self.target.store.put(name, packed.parts)
            await self.target.stored(
                position, packed.info, covered, stored_nbytes=nbytes, skipped=skipped
            )
            self._count(packed.info, nbytes)
        except Exception as error:
            if self._failed:
                _LOG.debug("a chunk failed after the job had failed: %s", error)
                return
            self._failed = True
            raise
        finally:
            self._budget.release(held)
            self._places.release()

    def _pack(self, name: str, sealed: SealedChunk) -> PackedChunk:
        compression = self._layout.compression
        return pack_chunk(
            sealed,
            filename=name,
            compression=compression.name,
            compression_level=compression.granularity,
            compression_batch_size=compression.batch_size or DEFAULT_BATCH,
            encryption=self._layout.encryption,
        )

    def _count(self, chunk: ChunkInfo, stored_nbytes: int) -> None:
        self.written.samples += chunk.num_items
        self.written.chunks += 1
        self.written.nbytes += stored_nbytes


@asynccontextmanager
async def open_writer(
    layout: Layout,
    output: OutputOptions,
    *,
    job: Mapping[str, Any] | None = None,
    mark: Callable[[], InputMark] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[DatasetWriter]:
    """Open a data set for writing; leaving the block without an error commits it.

    The arguments are those of `open_target`, and so is what happens on errors.
    """
    async with (
        open_target(layout, output, job=job, mark=mark, clock=clock) as (target, progress),
        write_chunks(layout, target, output.num_uploaders, progress) as writer,
    ):
        yield writer


@asynccontextmanager
async def write_chunks(
    layout: Layout, target: Target, num_uploaders: int, progress: Progress | None
) -> AsyncIterator[DatasetWriter]:
    """Write chunks to a target; when the block is left, all of them are stored."""
    limit = _upload_budget(layout.limits, num_uploaders)
    with single_error():
        async with asyncio.TaskGroup() as group:
            budget = ByteBudget(limit, name="the upload budget")
            writer = DatasetWriter(layout, target, budget, num_uploaders, group, progress)
            yield writer
            await writer.flush()


@asynccontextmanager
async def open_target(
    layout: Layout,
    output: OutputOptions,
    *,
    job: Mapping[str, Any] | None = None,
    mark: Callable[[], InputMark] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[Target, Progress | None]]:
    """Open a data set whose chunks are written in the block; leaving it commits the data set.

    Args:
        layout: How samples become chunks.
        output: Where they go.
        job: With a journal, what else has to be the same in every attempt, as JSON values.
        mark: With a journal, says what inputs have come in so far.
        clock: Seconds since 1970, written into the index.

    Raises:
        ConfigError: A data set is there, and ``mode`` does not allow it or its options differ.
        OptimizeError: The block ended without a single sample.
        StoreError: A chunk or the index could not be stored.

    Leaving by an error or a cancellation writes no index and removes the chunks of this job,
    except where a journal is kept.
    """
    async with open_store(
        output.url,
        storage_options=output.storage_options,
        session_options=output.session_options,
    ) as store:
        journal = Checkpoint(store) if output.use_checkpoint else None
        target = Target(
            store,
            layout.config(),
            output.mode,
            journal=journal,
            mark=mark,
            folder_mark=mark_of(store, output.url),
        )
        async with aclosing(target):
            await target.prepare()
            progress = None
            if output.use_checkpoint:
                progress = await target.load_progress({**(job or {}), **layout.fingerprint()})
            try:
                yield target, progress
                if not target.chunks and output.mode != "append":
                    raise OptimizeError(
                        f"not a single sample came out, so no data set was written to {output.url}"
                    )
            except BaseException:
                await target.discard(target.names)
                raise
            index = target.index(updated_at=str(clock()))
            await target.commit(index, target.names)
            await target.tidy(index)


def _upload_budget(limits: ChunkLimits, num_uploaders: int) -> int:
    return max(64 << 20, num_uploaders * min(limits.chunk_bytes or 0, 256 << 20))
