"""`optimize`, for callers without an event loop of their own."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiolit.format.encryption import Encryption
from aiolit.format.loader import ItemLoader
from aiolit.format.serializers import Serializer
from aiolit.groups import single_error
from aiolit.processing.arguments import MapArguments, OptimizeArguments
from aiolit.processing.failure import plain_errors
from aiolit.processing.job import OptimizeJob
from aiolit.processing.machine import Machine
from aiolit.processing.mapping import MapJob
from aiolit.processing.merge import check_merge, merge
from aiolit.processing.planning import Plan, plan_map, plan_optimize
from aiolit.processing.runners import run_map_plan, run_optimize_plan
from aiolit.processing.summary import MapSummary, Summary
from aiolit.processing.walking import walk
from aiolit.runtime.portal import portal

__all__ = ["map", "merge_datasets", "optimize", "walk"]

T = TypeVar("T")
Job = TypeVar("Job", OptimizeJob, MapJob)


def optimize(
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
    timeout: float | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Run ``fn`` on every input in worker processes and write what it returns as a data set.

    The data set is the same, byte for byte, for any number of workers. ``index.json`` is written
    last: it exists if and only if the data set is complete. Leaves that only pickle can store are
    named in one warning.

    Args:
        fn: Gets one input and returns one sample, or yields any number of them. Returning None or
            yielding nothing drops the input. A function, partial, callable object, generator,
            ``async def`` or async generator; it is sent to fresh interpreters by cloudpickle, so
            it may live in an unguarded script, a notebook or a closure.
        inputs: A list, any iterable or iterator, an async iterable, a data loader, or a queue.
        output_dir: A folder, a URL of a store that can be written, or a ``Dir``.
        queue: A ``multiprocessing.Queue`` to read inputs from until `ALL_DONE` comes, once.
        input_dir: Where the files named by the inputs lie; remote ones are downloaded ahead.
        weights: How long each input takes, relative to the others; heavy ones travel alone.
        chunk_size: Most samples in a chunk (tokens, with `TokensLoader`).
        chunk_bytes: Most bytes of samples in a chunk: a number, ``"64MB"`` or ``"64MiB"``. Exactly
            one of the two limits is needed.
        align_chunking: Either value does the same: chunks are always cut as one worker would cut
            them, since the parent process cuts them and not the workers.
        compression: ``"zstd"`` or ``"zstd:1"`` to ``"zstd:22"``.
        compression_level: None compresses whole chunks, which every LitData reads; ``"batch"``
            makes frames of samples that can be read alone (LitData 0.2.74 and later).
        compression_batch_size: Samples in a frame, by default 256.
        encryption: Encrypts every sample, or every chunk.
        num_workers: Worker processes; by default one for every usable CPU.
        fast_dev_run: True takes the first 10 inputs only, a number as many.
        num_nodes: Machines of a Ray cluster to work on (``aiolit[ray]``); None for this one alone.
        machine: What to reserve on each of them: a `Machine`.
        num_downloaders: Files of ``input_dir`` downloaded at once.
        num_uploaders: Chunks stored at once, about.
        reorder_files: Either value does the same: there are no shares to be made equal by the sizes
            of files, as inputs are handed in small runs to whichever worker is free.
        reader: An object with ``remap_items(items, num_workers)`` and ``read(item)``.
        batch_size: ``fn`` gets lists of so many inputs.
        mode: What to do with a data set that is there: None refuses, ``"append"`` adds to it,
            ``"overwrite"`` replaces it once the new one is complete.
        use_checkpoint: Keep a record of finished chunks, so that the same call after a crash goes
            on where it stopped. ``fn`` should give the same samples again for the same input.
        item_loader: The layout of samples, by default ``PyTreeLoader()``.
        start_method: Each does the same: workers are always fresh interpreters that do not import
            the caller's script, and the start method of ``multiprocessing`` stays what it is.
        optimize_dns: None or False; True would rewrite this machine's resolver settings, which is
            refused: connections are kept and used again, so that few names are looked up.
        storage_options: Options of the store's client.
        keep_data_ordered: Whether samples lie in the order of the inputs. False writes them as
            they come.
        verbose: Whether a progress bar is shown.
        broadcast_paths: Either value does the same: the caller's paths, and the dates in them, are
            resolved once, and every node of a cluster is told what they are.
        serializers: Serializers of your own by name, tried before the built-in ones.
        on_error: What an exception in ``fn`` does: ``"raise"`` ends the job, ``"skip"`` goes on
            without the input, a function ``(index, input, exception)`` is called and may raise.
            What a generator had yielded before it failed stays.
        max_retries: How often an input is given to a fresh worker after its worker died.
        concurrency: Items each worker keeps in flight when ``fn`` is async.
        timeout: Longest silence of the source of inputs in seconds; None waits for ever.
        session_options: Options of the store's session.

    Returns:
        What was written.

    Raises:
        ConfigError: An argument cannot work, or there is a data set already. Nothing was done.
        Exception: What ``fn`` raised, with notes that name the input and show the traceback.
        SchemaError: A sample does not have the leaves of the first one.
        WorkerDiedError: A worker was killed; names the inputs it had not finished.
        ProducerError: The source of inputs ended, or was silent too long.
        OptimizeError: Not a single sample came out.
        StoreError: A chunk could not be stored.

    A failure and Ctrl-C leave no process, no index and no chunk of this call behind; with
    ``use_checkpoint`` the finished chunks stay for the next attempt.
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
    summary, pickled = _run(run_optimize_plan, plan_optimize(arguments, on_loop=False))
    if pickled:
        warnings.warn(pickle_warning(pickled), stacklevel=2)
    return summary


def map(
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
    timeout: float | None = None,
    session_options: Mapping[str, Any] | None = None,
) -> MapSummary:
    """Run a function that writes files on every input in worker processes, and store the files.

    ``fn(input, output_dir)`` writes below the folder it is given, which is its own; what is there
    when it returns is stored below ``output_dir`` under the same relative names, on any store. What
    it returns is not kept.

    Args:
        fn: A function, partial, callable object or ``async def``. It may take ``device=``
            (``"cuda:0"``, ... or ``"cpu"``) and ``is_last=`` (True for the last input that the
            worker gets in a row, after which a buffer has to be written out).
        inputs: As for `optimize`.
        output_dir: A folder or a URL.
        input_dir: As for `optimize`.
        weights: As for `optimize`.
        num_workers: Worker processes; by default one for every usable CPU.
        fast_dev_run: True takes the first 10 inputs only, a number as many.
        num_nodes: Machines of a Ray cluster to work on (``aiolit[ray]``); None for this one alone.
        machine: What to reserve on each of them: a `Machine`.
        num_downloaders: As for `optimize`.
        num_uploaders: Files stored at once.
        reorder_files: Either value does the same: there are no shares to be made equal by the sizes
            of files, as inputs are handed in small runs to whichever worker is free.
        error_when_not_empty: Refuse an ``output_dir`` with something in it.
        reader: As for `optimize`.
        batch_size: ``fn`` gets lists of so many inputs.
        start_method: Each does the same: workers are always fresh interpreters that do not import
            the caller's script, and the start method of ``multiprocessing`` stays what it is.
        optimize_dns: None or False; True would rewrite this machine's resolver settings, which is
            refused: connections are kept and used again, so that few names are looked up.
        storage_options: Options of the store's client.
        keep_data_ordered: Either value does the same: files have names, not an order.
        broadcast_paths: As for `optimize`.
        use_checkpoint: Keep a record of finished inputs in ``output_dir/.checkpoints``, so that the
            same call after a crash goes on where it stopped. What was done in the last second may
            be done again; ``fn`` should give its files the same names again.
        manifest: Name of a file below ``output_dir`` that says what was made: written last, a line
            of JSON for each input, with its index and the name and length of its files.
        verbose: Whether a progress bar is shown.
        on_error: As for `optimize`.
        max_retries: As for `optimize`.
        concurrency: As for `optimize`.
        timeout: As for `optimize`.
        session_options: Options of the store's session.

    Returns:
        What was made: the names of the files, and how long it took.

    Raises:
        ConfigError: An argument cannot work, the output is not empty and was to be, or it holds
            an interrupted job.
        OptimizeError: Two inputs have written files of one name.
        Exception: What ``fn`` raised, with notes that name the input and show the traceback.
        WorkerDiedError: A worker was killed; names the inputs it had not finished.
        StoreError: A file could not be stored.

    Files stored before a failure stay; no process and no work folder is left.
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
    return _run(run_map_plan, plan_map(arguments, on_loop=False))


def merge_datasets(
    input_dirs: Sequence[Any],
    output_dir: Any,
    max_workers: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    session_options: Mapping[str, Any] | None = None,
) -> Summary:
    """Write a data set that has the samples of several others, in their order.

    Chunks are copied as they are, inside the server where both data sets lie in one bucket.

    Args:
        input_dirs: At least two data sets, local or remote, in any mix.
        output_dir: Where the new one goes.
        max_workers: Chunks copied at once.
        storage_options: Options of the stores' clients.
        session_options: Options of the stores' sessions.

    Returns:
        What was written.

    Raises:
        ConfigError: There is a data set at ``output_dir``, or the inputs are compressed, encrypted
            or laid out in different ways.
        DatasetNotFoundError: An input is no data set.
        SchemaError: The inputs have different samples; the message names the leaf.

    A failure leaves no index and no chunk of this call behind.
    """
    job = check_merge(input_dirs, output_dir, max_workers, storage_options, session_options)
    return portal().call(merge, job)


def pickle_warning(leaves: tuple[str, ...]) -> str:
    """Return the sentence about leaves that only pickle can store."""
    names = ", ".join(repr(leaf) if leaf else "the sample" for leaf in leaves)
    return (
        f"stored by pickle: {names}. Reading them from a URL needs allow_pickle=True, and no other "
        "language can; numbers, text, bytes, arrays, tensors and images need no pickle"
    )


def _run(run: Callable[[Plan[Job]], Coroutine[Any, Any, T]], plan: Plan[Job]) -> T:
    """Run a job on the portal and wait.

    Inputs that are no list are pulled in this thread: the user's iterator may be tied to the thread
    that made it, and Ctrl-C must reach it.
    """
    gate = portal()
    with plain_errors():
        if plan.pulled is None or plan.feed is None:
            return gate.call(run, plan)
        with gate.wrap_async_context_manager(_running(run, plan)) as task:
            for block in plan.pulled:
                if not gate.call(plan.feed.put, block):
                    break
            gate.call(plan.feed.end)
        return task.result()


@asynccontextmanager
async def _running(
    run: Callable[[Plan[Job]], Coroutine[Any, Any, T]], plan: Plan[Job]
) -> AsyncIterator[asyncio.Task[T]]:
    with single_error():
        async with asyncio.TaskGroup() as group:
            yield group.create_task(run(plan))
