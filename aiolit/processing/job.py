"""A whole job, composed: inputs, workers, order, chunks, index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.format.serializers import Serializer
from aiolit.options import OutputOptions, WorkOptions
from aiolit.processing.collector import Arrival, Collector, Sink
from aiolit.processing.failure import FunctionFailedError, restore
from aiolit.processing.input_digest import CheckedSource
from aiolit.processing.journal import Progress
from aiolit.processing.key_order import reorder
from aiolit.processing.progress import ProgressBar
from aiolit.processing.protocol import Failure, Piece
from aiolit.processing.runs import RunSizer
from aiolit.processing.scheduler import RunScheduler, Sizer
from aiolit.processing.setup import Setup, is_async_function
from aiolit.processing.shipping import home_modules, pickle_function
from aiolit.processing.sources import InputSource
from aiolit.processing.spool import Spool
from aiolit.processing.summary import SkippedInput, Summary
from aiolit.processing.supervisor import Crew, Job
from aiolit.processing.weights import WeightedSizer
from aiolit.processing.writer import DatasetWriter, Layout, open_writer

__all__ = [
    "OptimizeJob",
    "Report",
    "closing_source",
    "run_optimize",
    "sample_sink",
    "with_earlier",
    "work_through",
    "worker_setup",
]


@dataclass(slots=True)
class Report:
    """What the workers' part of a job came to."""

    inputs: int = 0
    skipped: list[SkippedInput] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeJob:
    """Everything `run_optimize` needs, checked."""

    fn: Callable[..., Any]
    source: InputSource
    layout: Layout
    output: OutputOptions
    work: WorkOptions
    checked: CheckedSource | None = None
    serializers: Mapping[str, Serializer] | None = None
    read: Callable[[Any], Any] | None = None
    weights: NDArray[np.float64] | None = None
    containers: tuple[bytes, ...] = ()


@asynccontextmanager
async def closing_source(source: InputSource) -> AsyncIterator[None]:
    """Close a source at the end of the block."""
    try:
        yield
    finally:
        await source.close()


@asynccontextmanager
async def _spool() -> AsyncIterator[Spool]:
    spool = Spool()
    try:
        yield spool
    finally:
        await spool.close()


class FixedSizer:
    """Runs of one size, for async functions: many items are in flight whatever a run takes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def next_size(self) -> int:
        """Return the number of inputs of the next run."""
        return self._size

    def finished(self, num_inputs: int, seconds: float) -> None:
        """Take note of nothing."""


def _sizer(
    work: WorkOptions,
    total: int | None,
    weights: NDArray[np.float64] | None,
    *,
    is_async: bool,
    whole_shares: bool,
) -> Sizer:
    if whole_shares:
        return FixedSizer(256 if total is None else max(1, -(-total // work.num_workers)))
    if is_async:
        return FixedSizer(max(1, min(16, work.concurrency // 8)))
    sizer = RunSizer(work.num_workers, total=total)
    return sizer if weights is None else WeightedSizer(sizer, weights)


async def work_through(
    setup: Setup,
    source: InputSource,
    work: WorkOptions,
    sink: Sink,
    *,
    progress: Progress | None = None,
    weights: NDArray[np.float64] | None = None,
    whole_shares: bool = False,
    label: str = "optimize",
    on_skipped: Callable[[SkippedInput], None] = lambda _: None,
    places: Callable[[], tuple[int, int]] | None = None,
) -> Report:
    """Have worker processes run a function on all inputs and hand the results to ``sink``.

    The sink is called with one piece at a time, in input order where ``work.ordered``. With
    ``whole_shares`` each worker gets one run. No process and no file is left behind, however it
    ends; the caller closes the source.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        WorkerDiedError: A worker ended without an answer.
    """
    report = Report()
    modules = home_modules(setup.fn)
    is_async = is_async_function(setup.fn)
    num_workers = work.num_workers
    if source.total is not None:
        num_workers = max(1, min(num_workers, source.total))
    done = 0 if progress is None else progress.num_done

    seen: set[int] = set()

    async def on_skip(failure: Failure, value: Any) -> None:
        error = restore(failure)
        if callable(work.on_error):
            try:
                work.on_error(failure.index, value, error)
            except Exception as raised:
                raise FunctionFailedError(raised) from raised
        skipped = SkippedInput(failure.index, failure.shown, failure.error.summary)
        if failure.index not in seen:  # a worker that died after it had said so is replaced
            seen.add(failure.index)
            report.skipped.append(skipped)
            on_skipped(skipped)

    with ProgressBar(total=source.total, initial=done, label=label, shown=work.verbose) as bar:
        async with _spool() as spool:
            collector = Collector(
                sink,
                spool,
                ordered=work.ordered,
                memory_bytes=work.memory_bytes,
                spool_bytes=work.spool_bytes,
            )
            scheduler = RunScheduler(
                source,
                _sizer(work, source.total, weights, is_async=is_async, whole_shares=whole_shares),
                progress=progress,
                places=places,
                room=lambda: collector.room(lambda: False),
            )
            crew = Crew(
                Job(
                    setup=pickle_function(setup, modules),
                    modules=modules,
                    scheduler=scheduler,
                    collector=collector,
                    is_async=is_async,
                    runs_ahead=1 if whole_shares else 2,
                    concurrency=work.concurrency,
                    max_retries=work.max_retries,
                    whole_runs=whole_shares,
                    on_skip=on_skip,
                    on_progress=bar.update,
                ),
                num_workers,
            )
            await crew.work()
            report.inputs = scheduler.num_inputs
    report.skipped.sort(key=lambda skipped: skipped.index)
    return report


def sample_sink(writer: DatasetWriter) -> Sink:
    """Return a sink that writes the samples of each piece."""

    async def write(arrival: Arrival, piece: Piece) -> None:
        data = piece.data
        if arrival.schema is not None and len(piece.sizes):
            order = writer.target.agree(arrival.schema, source=arrival.source)
            if order is not None:
                data = reorder(piece.sizes, data, order)
        writer.trace(arrival.first, arrival.meta.counts, complete=arrival.meta.complete)
        if len(piece.sizes):
            await writer.add(piece.sizes, data, piece.dims)

    return write


def with_earlier(skipped: list[SkippedInput], progress: Progress | None) -> list[SkippedInput]:
    """Add the inputs that earlier attempts have skipped for good."""
    records = () if progress is None else progress.records
    earlier = [SkippedInput(*each) for record in records for each in record.skipped]
    return sorted([*earlier, *skipped], key=lambda each: each.index)


def worker_setup(job: OptimizeJob) -> Setup:
    """Return what the workers are told once."""
    return Setup(
        fn=job.fn,
        loader=job.layout.loader,
        serializers=job.serializers,
        encryption=job.layout.encryption,
        read=job.read,
        skip_errors=job.work.on_error != "raise",
        concurrency=job.work.concurrency,
        containers=job.containers,
    )


async def run_optimize(job: OptimizeJob) -> tuple[Summary, tuple[str, ...]]:
    """Write a data set; returns the summary and where there are leaves stored by pickle.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        OptimizeError: Nothing was committed; the message says why.
    """
    started = perf_counter()
    same = {"function": "optimize", "inputs": job.source.total}
    same["keep_data_ordered"] = job.work.ordered
    checked = job.checked
    # The source is closed whatever fails first: somebody may be waiting to bring it inputs.
    async with (
        closing_source(job.source),
        open_writer(
            job.layout, job.output, job=same, mark=None if checked is None else checked.mark
        ) as writer,
    ):
        if checked is not None and writer.progress is not None:
            checked.expect(writer.progress.marks, ends=writer.progress.is_complete)
        report = await work_through(
            worker_setup(job),
            job.source,
            job.work,
            sample_sink(writer),
            progress=writer.progress,
            weights=job.weights,
            on_skipped=writer.skipped,
        )
    schema = writer.target.schema
    summary = Summary(
        output_dir=job.output.url,
        samples=writer.written.samples,
        chunks=writer.written.chunks,
        nbytes=writer.written.nbytes,
        inputs=report.inputs,
        seconds=perf_counter() - started,
        skipped=tuple(with_earlier(report.skipped, writer.progress)),
    )
    return summary, () if schema is None else schema.pickled
