"""One machine of a cluster at work: the pipeline of a job, fed and heard by the head."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aiolit.groups import leaves
from aiolit.processing.arguments import usable_cpus
from aiolit.processing.failure import FunctionFailedError
from aiolit.processing.job import OptimizeJob, closing_source, work_through, worker_setup
from aiolit.processing.journal import Progress
from aiolit.processing.map_journal import Made
from aiolit.processing.mapping import MapJob, make_files
from aiolit.processing.node_chunks import ChunkFlow, NodeTarget
from aiolit.processing.nodes import Nodes
from aiolit.processing.protocol import RunMessage, Schema
from aiolit.processing.reports import (
    Ended,
    Failed,
    FilesStored,
    Hungry,
    NodeReport,
    NodeSetup,
    SchemaSeen,
    Skipped,
)
from aiolit.processing.sources import InputSource
from aiolit.processing.summary import SkippedInput
from aiolit.processing.writer import write_chunks
from aiolit.runtime.remote_error import RemoteError
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.local import LocalStore
from aiolit.store.owned import OwnedFolder
from aiolit.store.threads import open_in_thread, run_in_thread

__all__ = ["Node"]

_WORK_FOLDER = "aiolit-node-"


class GivenSource(InputSource):
    """Inputs that the head gives, a run at a time."""

    def __init__(self, report: Callable[[NodeReport], None]) -> None:
        self._report = report
        self._runs: asyncio.Queue[RunMessage | None] = asyncio.Queue()
        self._places: deque[tuple[int, int]] = deque()
        self.on_given: Callable[[int, int, int], None] = lambda first, num_inputs, skip: None

    def put(self, run: RunMessage | None) -> None:
        """Bring a run, or None at the end."""
        self._runs.put_nowait(run)

    async def take(self, most: int) -> Sequence[Any]:
        """Ask the head for a run and wait for it."""
        self._report(Hungry(most))
        run = await self._runs.get()
        if run is None:
            return []
        inputs: Sequence[Any] = pickle.loads(run.inputs)
        self._places.append((run.first, run.skip))
        self.on_given(run.first, len(inputs), run.skip)
        return inputs

    def place(self) -> tuple[int, int]:
        """Return the index of the first input of the next block, and its samples to skip."""
        return self._places.popleft()


class _FilesTold:
    """Tells the head which inputs of a `map` are finished; it writes that down."""

    def __init__(
        self, report: Callable[[NodeReport], None], fetched: Callable[[str], Awaitable[None]]
    ) -> None:
        self.made: Sequence[Made] = ()
        self._report = report
        self._fetched = fetched

    async def finished(self, made: Sequence[Made]) -> None:
        """Take note of inputs whose files are stored."""
        self._report(FilesStored(tuple(made)))
        for name in [name for each in made for name, _ in each.files]:
            await self._fetched(name)


class Node:
    """Runs the pipeline of a job on this machine; its methods are called by the head.

    `run` works until `end` or `stop` is called, or something fails. What it has to say is
    returned by `reports`, which waits until there is something.
    """

    def __init__(self, setup: bytes) -> None:
        self._pickled = setup
        self._reports: list[NodeReport] = []
        self._spoken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_tidying = False
        self._agreed = asyncio.Event()
        self._schema: Schema | None = None
        self._source = GivenSource(self._report)
        self._flow: ChunkFlow | None = None
        self._folder: LocalStore | None = None
        self._unfetched: dict[str, asyncio.Event] = {}
        self._error: RemoteError | None = None

    async def run(self) -> None:
        """Work until the job is done or has failed, which is reported."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._work())
            await self._stopping.wait()
            if not self._is_tidying:
                work.cancel()

    async def stop(self) -> None:
        """Give up."""
        self._stopping.set()

    async def reports(self) -> list[NodeReport]:
        """Return what there is to say, in order; waits until there is something."""
        await self._spoken.wait()
        self._spoken.clear()
        reports, self._reports = self._reports, []
        return reports

    async def give(self, run: RunMessage) -> None:
        """Bring a run of inputs."""
        self._source.put(run)

    async def end(self) -> None:
        """Say that there are no more inputs."""
        self._source.put(None)

    async def drain(self) -> None:
        """Have everything given so far stored, also what does not fill a chunk."""
        if self._flow is not None:
            await self._flow.drain()

    async def agree(self, schema: Schema) -> None:
        """Say what the tree of the samples is."""
        self._schema = schema
        self._agreed.set()

    async def read(self, name: str, start: int, nbytes: int) -> bytes:
        """Return a part of a file that waits to be fetched."""
        if self._folder is None:
            raise RuntimeError("this node stores its files itself")
        return await run_in_thread(_read, str(self._folder.file_path(name)), start, nbytes)

    async def fetched(self, name: str) -> None:
        """Take note that the head has a file."""
        if self._folder is not None:
            await self._folder.delete(name)
        self._unfetched.setdefault(name, asyncio.Event()).set()

    def _report(self, report: NodeReport) -> None:
        self._reports.append(report)
        self._spoken.set()

    async def _work(self) -> None:
        try:
            setup: NodeSetup = pickle.loads(self._pickled)
            async with self._store(setup) as store:
                await self._work_in(store, setup)
                self._is_tidying = True
            self._report(Ended())
        except Exception as error:  # noqa: BLE001  the head raises it
            self._report(Failed(_packed(error)))
        finally:
            self._stopping.set()

    async def _work_in(self, store: Store, setup: NodeSetup) -> None:
        job = setup.job
        work = replace(job.work, num_workers=_num_workers(setup.nodes), verbose=False)
        if setup.wants_errors:
            work = replace(work, on_error=self._note_error)
        self._source.total = setup.share
        source = setup.nodes.downloads.of(self._source)
        try:
            async with closing_source(source):
                if isinstance(job, MapJob):
                    await self._map(store, replace(job, source=source, work=work))
                else:
                    await self._optimize(store, replace(job, source=source, work=work), setup)
        except Exception as error:  # noqa: BLE001  the head raises it
            self._report(Failed(_packed(error)))
            # Of some files the head was told before: it may be about to fetch them.
            await self._stopping.wait()

    async def _optimize(self, store: Store, job: OptimizeJob, setup: NodeSetup) -> None:
        target = NodeTarget(
            store,
            job.layout.config(),
            rank=setup.rank,
            first_number=setup.first_number,
            report=self._report,
            fetched=self._wait_until_fetched,
        )
        uploaders = job.output.num_uploaders
        async with write_chunks(job.layout, target, uploaders, Progress()) as writer:
            self._flow = ChunkFlow(
                writer, target, ordered=job.work.ordered, ask=self._ask, report=self._report
            )
            self._source.on_given = self._flow.given
            await work_through(
                worker_setup(job),
                job.source,
                job.work,
                self._flow.take,
                places=self._source.place,
                on_skipped=self._note_skipped,
            )

    async def _map(self, store: Store, job: MapJob) -> None:
        told = _FilesTold(self._report, self._wait_until_fetched)
        await make_files(
            store, job, told, None, places=self._source.place, on_skipped=self._note_skipped
        )

    @asynccontextmanager
    async def _store(self, setup: NodeSetup) -> AsyncIterator[Store]:
        output = setup.job.output
        if not setup.is_fetched:
            async with open_store(
                output.url,
                storage_options=output.storage_options,
                session_options=output.session_options,
            ) as store:
                yield store
            return
        folder = await open_in_thread(lambda: OwnedFolder(_WORK_FOLDER), OwnedFolder.remove)
        try:
            self._folder = LocalStore(folder.path)
            yield self._folder
        finally:
            await run_in_thread(folder.remove)

    async def _wait_until_fetched(self, name: str) -> None:
        if self._folder is not None:
            await self._unfetched.setdefault(name, asyncio.Event()).wait()
            del self._unfetched[name]

    async def _ask(self, schema: Schema) -> Schema:
        self._report(SchemaSeen(schema))
        await self._agreed.wait()
        return self._schema or schema

    def _note_error(self, index: int, value: object, error: BaseException) -> None:
        self._error = RemoteError.pack(error)

    def _note_skipped(self, skipped: SkippedInput) -> None:
        error, self._error = self._error, None
        self._report(Skipped(skipped, error))


def _num_workers(nodes: Nodes) -> int:
    here = usable_cpus()
    return nodes.num_workers or min(here, nodes.most_workers or here)


def _packed(error: Exception) -> Any:
    first = leaves(error)[0]
    if isinstance(first, FunctionFailedError):
        return first.failure or RemoteError.pack(first.error)
    return RemoteError.pack(first)


def _read(path: str, start: int, nbytes: int) -> bytes:
    with open(path, "rb") as file:
        return os.pread(file.fileno(), nbytes, start)
