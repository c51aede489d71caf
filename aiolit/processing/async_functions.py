"""`optimize` and `Writer`, for callers with an event loop of their own."""

from __future__ import annotations

import asyncio
import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np

from aiolit.errors import ConfigError, OptimizeError
from aiolit.format.encryption import Encryption
from aiolit.format.loader import ItemLoader, SampleEncoder
from aiolit.format.serializers import Serializer, SerializerRegistry
from aiolit.processing.arguments import MapArguments, OptimizeArguments, OutputArguments
from aiolit.processing.failure import plain_errors
from aiolit.processing.functions import pickle_warning
from aiolit.processing.key_order import reorder
from aiolit.processing.machine import Machine
from aiolit.processing.merge import check_merge, merge
from aiolit.processing.planning import plan_map, plan_optimize
from aiolit.processing.protocol import Bytes, Schema
from aiolit.processing.runners import run_map_plan, run_optimize_plan
from aiolit.processing.summary import MapSummary, Summary
from aiolit.processing.walking import open_walk as walk
from aiolit.processing.writer import DatasetWriter, open_writer
from aiolit.store.threads import run_in_thread

__all__ = ["Writer", "map", "merge_datasets", "optimize", "walk"]

_FLUSH_BYTES = 1 << 20
_FLUSH_SAMPLES = 1024


async def optimize(
    fn: Callable[[Any], Any],
    inputs: Any = None,
    output_dir: Any = "optimized_data",
    queue: Any = None,
    input_dir: Any = None,
    weights: list[int] | None = None,
    chunk_size: int | None = None,
    chunk_bytes: int | str | None = None,
    align_chunking: bool = False,
    compression: str | None = None,
    compression_level: str | None = None,
    compression_batch_size: int | None = None,
    encryption: Encryption | None = None,
    num_workers: int | None = None,
    fast_dev_run: bool | int = False,
    num_nodes: int | None = None,
    machine: Machine | None = None,
    num_downloaders: int | None = None,
    num_uploaders: int | None = None,
    reorder_files: bool = True,
    reader: Any = None,
    batch_size: int | None = None,
    mode: str | None = None,
    use_checkpoint: bool = False,
    item_loader: ItemLoader | None = None,
    start_method: str | None = None,
    optimize_dns: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    keep_data_ordered: bool | None = True,
    verbose: bool = True,
    *,
    broadcast_paths: bool = False,
    serializers: Mapping[str, Serializer] | None = None,
    on_error: Any = "raise",
    max_retries: int = 0,
    concurrency: int = 64,
    timeout: float | None = None,  # noqa: ASYNC109  of the source's silence, not of the call
    session_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Do what ``aiolit.optimize`` does, on the caller's loop.

    Arguments, result and errors are the same. ``inputs`` may be an ``asyncio.Queue`` of this loop
    too; `ALL_DONE` ends it. A plain iterable is pulled in another thread.

    Cancelling the call ends the job as Ctrl-C does: no process, no index and no chunk is left, but
    with ``use_checkpoint`` the finished chunks.
    """
    arguments = OptimizeArguments(
        fn=fn,
        inputs=inputs,
        output_dir=output_dir,
        queue=queue,
        input_dir=input_dir,
        weights=weights,
        chunk_size=chunk_size,
        chunk_bytes=chunk_bytes,
        align_chunking=align_chunking,
        compression=compression,
        compression_level=compression_level,
        compression_batch_size=compression_batch_size,
        encryption=encryption,
        num_workers=num_workers,
        fast_dev_run=fast_dev_run,
        num_nodes=num_nodes,
        machine=machine,
        num_downloaders=num_downloaders,
        num_uploaders=num_uploaders,
        reorder_files=reorder_files,
        reader=reader,
        batch_size=batch_size,
        mode=mode,
        use_checkpoint=use_checkpoint,
        item_loader=item_loader,
        start_method=start_method,
        optimize_dns=optimize_dns,
        broadcast_paths=broadcast_paths,
        storage_options=storage_options,
        session_options=session_options,
        keep_data_ordered=keep_data_ordered,
        verbose=verbose,
        serializers=serializers,
        on_error=on_error,
        max_retries=max_retries,
        concurrency=concurrency,
        timeout=timeout,
    )
    # In a thread: a reader looks at files.
    plan = await run_in_thread(plan_optimize, arguments, on_loop=True)
    with plain_errors():
        summary, pickled = await run_optimize_plan(plan)
    if pickled:
        warnings.warn(pickle_warning(pickled), stacklevel=2)
    return summary


async def map(
    fn: Callable[..., Any],
    inputs: Any,
    output_dir: Any,
    input_dir: Any = None,
    weights: list[int] | None = None,
    num_workers: int | None = None,
    fast_dev_run: bool | int = False,
    num_nodes: int | None = None,
    machine: Machine | None = None,
    num_downloaders: int | None = None,
    num_uploaders: int | None = None,
    reorder_files: bool = True,
    error_when_not_empty: bool = False,
    reader: Any = None,
    batch_size: int | None = None,
    start_method: str | None = None,
    optimize_dns: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    keep_data_ordered: bool | None = True,
    *,
    broadcast_paths: bool = False,
    use_checkpoint: bool = False,
    manifest: str | None = None,
    verbose: bool = True,
    on_error: Any = "raise",
    max_retries: int = 0,
    concurrency: int = 64,
    timeout: float | None = None,  # noqa: ASYNC109  of the source's silence, not of the call
    session_options: Mapping[str, Any] | None = None,
) -> MapSummary:
    """Do what ``aiolit.map`` does, on the caller's loop.

    Arguments, result and errors are the same. Cancelling the call ends the job as Ctrl-C does:
    files stored before stay, no process and no work folder is left.
    """
    arguments = MapArguments(
        fn=fn,
        inputs=inputs,
        queue=None,
        output_dir=output_dir,
        input_dir=input_dir,
        weights=weights,
        num_workers=num_workers,
        fast_dev_run=fast_dev_run,
        num_nodes=num_nodes,
        machine=machine,
        num_downloaders=num_downloaders,
        num_uploaders=num_uploaders,
        reorder_files=reorder_files,
        error_when_not_empty=error_when_not_empty,
        use_checkpoint=use_checkpoint,
        manifest=manifest,
        reader=reader,
        batch_size=batch_size,
        start_method=start_method,
        optimize_dns=optimize_dns,
        broadcast_paths=broadcast_paths,
        storage_options=storage_options,
        session_options=session_options,
        keep_data_ordered=False,
        verbose=verbose,
        on_error=on_error,
        max_retries=max_retries,
        concurrency=concurrency,
        timeout=timeout,
    )
    plan = await run_in_thread(plan_map, arguments, on_loop=True)
    with plain_errors():
        return await run_map_plan(plan)


async def merge_datasets(
    input_dirs: Sequence[Any],
    output_dir: Any,
    max_workers: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    session_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Do what ``aiolit.merge_datasets`` does, on the caller's loop.

    Arguments, result and errors are the same. Cancelling the call leaves no index and no chunk.
    """
    job = check_merge(input_dirs, output_dir, max_workers, storage_options, session_options)
    return await merge(job)


class Writer:
    """A data set that is written sample by sample, by one event loop.

    ``async with Writer(output_dir, chunk_bytes="64MB") as w: await w.put(sample)``. Samples lie in
    the order of the calls. Chunks are stored while further samples come; `put` waits while too
    many bytes are on their way. Leaving the block writes ``index.json``; leaving it by an error or
    a cancellation writes no index and removes the chunks.

    Args:
        output_dir: A folder, a URL of a store that can be written, or a ``Dir``.
        chunk_size: Most samples in a chunk (tokens, with `TokensLoader`).
        chunk_bytes: Most bytes of samples in a chunk. Exactly one of the two is needed.
        compression: ``"zstd"`` or ``"zstd:1"`` to ``"zstd:22"``.
        compression_level: None for whole chunks, ``"batch"`` for frames that can be read alone.
        compression_batch_size: Samples in a frame.
        encryption: Encrypts every sample, or every chunk.
        mode: None refuses a data set that is there, ``"append"`` adds, ``"overwrite"`` replaces.
        item_loader: The layout of samples, by default ``PyTreeLoader()``.
        serializers: Serializers of your own by name.
        num_uploaders: Chunks stored at once, about.
        storage_options: Options of the store's client.
        session_options: Options of the store's session.

    Raises:
        ConfigError: An argument cannot work; on entering, there is a data set already.
        OptimizeError: On leaving, not a single sample was put, or some are missing.
        StoreError: On leaving, a chunk or the index could not be stored.
    """

    def __init__(
        self,
        output_dir: Any,
        *,
        chunk_size: int | None = None,
        chunk_bytes: int | str | None = None,
        compression: str | None = None,
        compression_level: str | None = None,
        compression_batch_size: int | None = None,
        encryption: Encryption | None = None,
        mode: str | None = None,
        item_loader: ItemLoader | None = None,
        serializers: Mapping[str, Serializer] | None = None,
        num_uploaders: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = OutputArguments(
            output_dir=output_dir,
            chunk_size=chunk_size,
            chunk_bytes=chunk_bytes,
            compression=compression,
            compression_level=compression_level,
            compression_batch_size=compression_batch_size,
            encryption=encryption,
            mode=mode,
            item_loader=item_loader,
            serializers=serializers,
            num_uploaders=num_uploaders,
            storage_options=storage_options,
            session_options=session_options,
        )
        arguments.check_serializers()
        self._layout, self._output = arguments.layout(), arguments.output()
        self._serializers = serializers
        self._context: AbstractAsyncContextManager[DatasetWriter] | None = None
        self._writer: DatasetWriter | None = None
        self._encoder: SampleEncoder | None = None
        self._summary: Summary | None = None
        self._order: list[int] | None = None
        self._started = 0.0
        self._taken = 0
        self._has_lost = False
        self._turn = asyncio.Lock()
        self._clear()

    def _clear(self) -> None:
        self._sizes, self._dims = array("q"), array("q")
        self._parts: list[Bytes] = []
        self._nbytes = 0

    @property
    def summary(self) -> Summary:
        """What was written, once the block was left."""
        if self._summary is None:
            raise ConfigError("the summary is there once the block of the Writer was left")
        return self._summary

    async def __aenter__(self) -> Self:
        if self._context is not None:
            raise ConfigError("a Writer is entered once")
        self._started = perf_counter()
        registry = SerializerRegistry(self._serializers)
        self._encoder = self._layout.loader.encoder(registry, self._layout.encryption)
        self._context = open_writer(self._layout, self._output)
        self._writer = await self._context.__aenter__()
        return self

    async def put(self, sample: Any) -> None:
        """Add a sample; returns once it is taken, which is before it is stored.

        A call that is cancelled while it waits for room takes samples with it, those of other calls
        too. So no data set is written then: the next call, or leaving the block, says so.

        Raises:
            SchemaError: It does not have the leaves of the first one; it is not taken.
            ConfigError: The block was not entered, or was left.
            OptimizeError: An earlier call was cancelled while it waited.
        """
        if self._writer is None or self._encoder is None:
            raise ConfigError("put() works inside `async with Writer(...)` only")
        if self._has_lost:
            raise self._loss()
        item = self._encoder.encode(sample)
        if not self._taken:
            schema = Schema(tuple(self._encoder.data_format), self._encoder.data_spec)
            self._order = self._writer.target.agree(schema, source="the first sample put")
        self._taken += 1
        self._sizes.append(item.nbytes)
        if item.dim is not None:
            self._dims.append(item.dim)
        self._parts.extend(item.parts)
        self._nbytes += item.nbytes
        if self._nbytes >= _FLUSH_BYTES or len(self._sizes) >= _FLUSH_SAMPLES:
            await self._flush(self._writer)

    async def _flush(self, writer: DatasetWriter) -> None:
        sizes = np.frombuffer(self._sizes, dtype=np.int64)
        dims = np.frombuffer(self._dims, dtype=np.int64) if self._dims else None
        data = memoryview(b"".join(self._parts))
        if self._order is not None:
            data = reorder(sizes, data, self._order)
        self._clear()
        try:
            async with self._turn:  # first come, first served: the order of the calls
                await writer.add(sizes, data, dims)
        except BaseException:
            self._has_lost = True
            raise

    def _loss(self) -> OptimizeError:
        return OptimizeError(
            f"a put() into {self._output.url} was cancelled or failed, so samples are missing and "
            "no data set is written; a put() that waits, waits for the store: give it no timeout"
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context, writer = self._context, self._writer
        if context is None or writer is None:
            return
        self._writer = None
        if exc is None:
            try:
                if self._has_lost:
                    raise self._loss()
                if self._sizes:
                    await self._flush(writer)
            except BaseException as error:
                if not await context.__aexit__(type(error), error, error.__traceback__):
                    raise
        await context.__aexit__(exc_type, exc, traceback)
        if exc is None:
            self._summary = Summary(
                output_dir=self._output.url,
                samples=writer.written.samples,
                chunks=writer.written.chunks,
                nbytes=writer.written.nbytes,
                inputs=self._taken,
                seconds=perf_counter() - self._started,
            )
            if self._taken and self._encoder is not None and self._encoder.pickled_leaves:
                warnings.warn(pickle_warning(tuple(self._encoder.pickled_leaves)), stacklevel=2)
