"""`optimize` and `map` on the nodes of a cluster: what they store comes together at the head."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from aiolit.processing.dispatcher import Dispatcher
from aiolit.processing.head import Cluster, Head, NodeHandle, fetch
from aiolit.processing.job import OptimizeJob, Report, closing_source, with_earlier
from aiolit.processing.journal import Covered, Progress, merge_ranges, within
from aiolit.processing.map_journal import Made, MapJournal
from aiolit.processing.map_uploads import FileOwners
from aiolit.processing.mapping import MapJob, run_map
from aiolit.processing.nodes import Nodes
from aiolit.processing.progress import ProgressBar
from aiolit.processing.protocol import Schema
from aiolit.processing.regions import Regions
from aiolit.processing.reports import ChunkStored, FilesStored, NodeSetup
from aiolit.processing.shipping import home_modules, pickle_function
from aiolit.processing.sources import SequenceSource, take_all
from aiolit.processing.stretches import Stretches
from aiolit.processing.summary import MapSummary, SkippedInput, Summary
from aiolit.processing.target import Target, next_number
from aiolit.processing.writer import open_target
from aiolit.store.base import Store
from aiolit.store.connect import local_path, scheme_of

__all__ = ["map_on_nodes", "optimize_on_nodes"]

OpenCluster = AbstractAsyncContextManager[Cluster]


async def optimize_on_nodes(
    job: OptimizeJob, nodes: Nodes, opened: OpenCluster
) -> tuple[Summary, tuple[str, ...]]:
    """Write a data set; returns the summary and where there are leaves stored by pickle.

    Args:
        job: The job.
        nodes: How it is spread.
        opened: The cluster, begun only when the output was looked at.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        OptimizeError: Nothing was committed; the message says why.
    """
    started = perf_counter()
    # Not to be gone on with by one machine, which takes the numbers of chunks for their order.
    same = {"function": "optimize on several nodes", "inputs": job.source.total}
    same["keep_data_ordered"] = job.work.ordered
    checked = job.checked
    mark = None if checked is None else checked.mark
    async with (
        closing_source(job.source),
        open_target(job.layout, job.output, job=same, mark=mark) as (target, progress),
    ):
        if checked is not None and progress is not None:
            checked.expect(progress.marks, ends=progress.is_complete)
        output = _Chunks(job, nodes, target, progress)
        try:
            report = await _spread(job, nodes, opened, output, progress)
        except BaseException:
            target.names += [chunk.filename for chunk in target.chunks.values()]
            target.names += await target.strays(output.ranks, output.first_number)
            raise
        if progress is not None:
            # Also what an earlier attempt stored and had no time to write down.
            await target.remove(await target.strays(None, target.first_number))
        elif len(output.ranks) > nodes.num_nodes:
            await target.remove(await target.strays(output.ranks, output.first_number))
        if job.work.ordered:
            output.put_in_order()
    schema = target.schema
    summary = Summary(
        output_dir=job.output.url,
        samples=sum(chunk.num_items for chunk in target.chunks.values()),
        chunks=len(target.chunks),
        nbytes=output.nbytes,
        inputs=report.inputs,
        seconds=perf_counter() - started,
        skipped=tuple(with_earlier(report.skipped, progress)),
    )
    return summary, () if schema is None else schema.pickled


async def map_on_nodes(job: MapJob, nodes: Nodes, opened: OpenCluster) -> MapSummary:
    """Have the nodes call the function and store what it writes.

    Raises:
        FunctionFailedError: The function failed; holds the user's exception.
        ConfigError: The output will not do.
        OptimizeError: Two inputs have written files of one name.
    """

    async def make(
        store: Store, job: MapJob, journal: MapJournal | None, progress: Progress | None
    ) -> tuple[list[Made], Report]:
        output = _Files(job, nodes, store, journal)
        report = await _spread(job, nodes, opened, output, progress)
        return [output.made[index] for index in sorted(output.made)], report

    return await run_map(job, make)


async def _spread(
    job: OptimizeJob | MapJob,
    nodes: Nodes,
    opened: OpenCluster,
    output: _Chunks | _Files,
    progress: Progress | None,
) -> Report:
    """Have nodes work on all inputs."""
    regions = None
    if nodes.is_list:
        items = await take_all(job.source)
        weights = None if job.weights is None else job.weights[: len(items)]
        regions = Regions(items, nodes.num_nodes, progress=progress, weights=weights)
    ordered = isinstance(job, OptimizeJob) and job.work.ordered
    stretches = Stretches(nodes.num_nodes) if ordered and regions is None else None
    dispatcher = Dispatcher(job.source, regions, progress, stretches)
    skipped: dict[int, SkippedInput] = {}
    done = 0 if progress is None else progress.num_done
    total = job.source.total
    label = "optimize" if isinstance(job, OptimizeJob) else "map"
    with ProgressBar(total=total, initial=done, label=label, shown=job.work.verbose) as bar:
        async with opened as cluster:
            head = Head(
                cluster=cluster,
                num_nodes=nodes.num_nodes,
                dispatcher=dispatcher,
                output=output,
                modules=home_modules(job.fn),
                on_error=job.work.on_error,
                on_progress=bar.update,
                skipped=skipped,
            )
            await head.work()
    inputs = dispatcher.num_inputs if total is None or regions is None else total
    return Report(inputs=inputs, skipped=[skipped[index] for index in sorted(skipped)])


def is_fetched(url: str) -> bool:
    """Whether only this machine reaches an output: a folder that nobody said is shared."""
    return scheme_of(url) in ("", "file", "memory")


class _Setups:
    """What each node is told."""

    def __init__(self, job: OptimizeJob | MapJob, nodes: Nodes, first_number: int) -> None:
        output, total = job.output, job.source.total
        if scheme_of(output.url) == "local":
            # The nodes work elsewhere, but the folder has the same path for all.
            output = replace(output, url=f"local:{Path(local_path(output.url)).absolute()}")
        whole_shares = isinstance(job, MapJob) and job.wants.is_last
        # The head calls the user's function; a node only tells it of the error.
        wants_errors = callable(job.work.on_error)
        work = replace(job.work, on_error="skip") if wants_errors else job.work
        self._modules = home_modules(job.fn)
        self._setup = NodeSetup(
            job=replace(
                job, source=SequenceSource(()), checked=None, weights=None, output=output, work=work
            ),
            nodes=nodes,
            share=-(-total // nodes.num_nodes) if whole_shares and total else None,
            rank=0,
            first_number=first_number,
            is_fetched=is_fetched(output.url),
            wants_errors=wants_errors,
        )

    def setup(self, rank: int) -> bytes:
        """Return what a node is told once."""
        return pickle_function(replace(self._setup, rank=rank), self._modules)


class _Chunks:
    """The chunks that nodes store, on their way into the index.

    Attributes:
        first_number: The number in the name of the first chunk of each node.
        ranks: The numbers of all nodes there were.
        nbytes: What was stored.
    """

    def __init__(
        self, job: OptimizeJob, nodes: Nodes, target: Target, progress: Progress | None
    ) -> None:
        records = () if progress is None else progress.records
        numbers = next_number(target.chunks.values())
        self.first_number = max(target.first_number, numbers)
        self.ranks: set[int] = set()
        self.nbytes = sum(record.stored_nbytes for record in records)
        self._target = target
        self._is_fetched = is_fetched(job.output.url)
        self._setups = _Setups(job, nodes, self.first_number)
        self._firsts = {record.number: _first(record.covered) for record in records}

    def setup(self, rank: int) -> bytes:
        """Return what a node is told once."""
        self.ranks.add(rank)
        return self._setups.setup(rank)

    def agree(self, schema: Schema, rank: int) -> Schema:
        """Return the tree of the samples, after a node has seen its first one."""
        self._target.agree(schema, source=f"the samples of node {rank}")
        return self._target.schema or schema

    async def fetch(self, node: NodeHandle, report: ChunkStored | FilesStored) -> None:
        """Fetch a chunk, where the node cannot store it itself."""
        assert isinstance(report, ChunkStored)
        if self._is_fetched:
            await self._target.begin_writing()
            await fetch(node, self._target.store, report.chunk.filename, report.nbytes)

    async def stored(
        self, report: ChunkStored | FilesStored, skipped: list[SkippedInput]
    ) -> Covered:
        """Take note of a chunk."""
        assert isinstance(report, ChunkStored)
        done = merge_ranges(report.covered.done)
        position = len(self._firsts)
        self._firsts[position] = _first(report.covered)
        await self._target.stored(
            position,
            report.chunk,
            report.covered,
            stored_nbytes=report.nbytes,
            skipped=[each for each in skipped if within(done, each.index)],
        )
        self.nbytes += report.nbytes
        return report.covered

    def skipped(self, index: int) -> Covered:
        """Return nothing: what the input gave before it failed is in no chunk yet."""
        return Covered()

    def put_in_order(self) -> None:
        """Put the chunks in the order of their inputs."""
        chunks = self._target.chunks
        positions = sorted(chunks, key=lambda position: (self._firsts[position], position))
        self._target.chunks = {n: chunks[position] for n, position in enumerate(positions)}


def _first(covered: Covered) -> int:
    """Return the first input of which a chunk has samples."""
    return min([*(start for start, _ in covered.done), *covered.partial])


class _Files:
    """The files that nodes store for `map`.

    Attributes:
        made: What came of each input, by index.
    """

    def __init__(self, job: MapJob, nodes: Nodes, store: Store, journal: MapJournal | None) -> None:
        self._store = store
        self._journal = journal
        self._is_fetched = is_fetched(job.output.url)
        self._setups = _Setups(job, nodes, 0)
        self._owners = FileOwners()
        self.made: dict[int, Made] = {}
        for made in () if journal is None else journal.made:
            self._owners.claim(made)
            self.made[made.index] = made

    def setup(self, rank: int) -> bytes:
        """Return what a node is told once."""
        return self._setups.setup(rank)

    def agree(self, schema: Schema, rank: int) -> Schema:
        """Return the schema: `map` writes no samples."""
        return schema

    async def fetch(self, node: NodeHandle, report: ChunkStored | FilesStored) -> None:
        """Fetch the files of some inputs, where the node cannot store them itself."""
        assert isinstance(report, FilesStored)
        for made in report.made:
            self._owners.claim(made)
            for name, nbytes in made.files if self._is_fetched else ():
                await fetch(node, self._store, name, nbytes)

    async def stored(
        self, report: ChunkStored | FilesStored, skipped: list[SkippedInput]
    ) -> Covered:
        """Take note of the files of some inputs."""
        assert isinstance(report, FilesStored)
        self.made.update((made.index, made) for made in report.made)
        if self._journal is not None:
            await self._journal.finished(report.made)
        return Covered(done=tuple((made.index, made.index + 1) for made in report.made))

    def skipped(self, index: int) -> Covered:
        """Return the input: nothing else comes of it."""
        return Covered(done=((index, index + 1),))
