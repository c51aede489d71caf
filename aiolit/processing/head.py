"""The head of a cluster: it feeds the nodes, hears them, and replaces those that are lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any, Protocol

from aiolit.errors import WorkerDiedError
from aiolit.groups import leaves, single_error
from aiolit.options import OnError
from aiolit.processing.dispatcher import Dispatcher, Signal
from aiolit.processing.failure import FunctionFailedError, restore
from aiolit.processing.journal import Covered
from aiolit.processing.protocol import Failure, RunMessage, Schema
from aiolit.processing.regions import Handed
from aiolit.processing.reports import (
    ChunkStored,
    Drained,
    Ended,
    Failed,
    FilesStored,
    Hungry,
    NodeReport,
    SchemaSeen,
    Skipped,
)
from aiolit.processing.runs import Run
from aiolit.processing.shipping import pickle_inputs
from aiolit.processing.summary import SkippedInput
from aiolit.runtime.tasks import cancelled_first, finish
from aiolit.store.base import Store

__all__ = ["Cluster", "Head", "NodeHandle", "NodeLostError", "fetch"]

_LOG = logging.getLogger("aiolit")
_PIECE = 16 << 20


class NodeLostError(Exception):
    """A node does not answer any more: its process or its machine has ended."""


class NodeHandle(Protocol):
    """A `Node` on another machine; every method may raise `NodeLostError`."""

    async def reports(self) -> list[NodeReport]: ...

    async def give(self, run: RunMessage) -> None: ...

    async def drain(self) -> None: ...

    async def end(self) -> None: ...

    async def agree(self, schema: Schema) -> None: ...

    async def read(self, name: str, start: int, nbytes: int) -> bytes: ...

    async def fetched(self, name: str) -> None: ...


class Cluster(Protocol):
    """Where nodes run."""

    def node(self, setup: bytes) -> AbstractAsyncContextManager[NodeHandle]:
        """Start a node, as soon as there is room for it; at the end of the block it is gone.

        Raises:
            NodeLostError: It was lost on the way.
        """


class Output(Protocol):
    """What becomes of what the nodes store."""

    def setup(self, rank: int) -> bytes:
        """Return what a node is told once."""

    def agree(self, schema: Schema, rank: int) -> Schema:
        """Return the tree of the samples, after a node has seen its first one."""

    async def fetch(self, node: NodeHandle, report: ChunkStored | FilesStored) -> None:
        """Bring what a node has stored to where it belongs, unless it is there."""

    async def stored(
        self, report: ChunkStored | FilesStored, skipped: list[SkippedInput]
    ) -> Covered:
        """Take note of what a node has stored, and return what that covers."""

    def skipped(self, index: int) -> Covered:
        """Return what is covered when ``fn`` failed on an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A job on several nodes.

    Attributes:
        cluster: Where they run.
        num_nodes: How many there are at a time.
        dispatcher: Hands out the inputs.
        output: Takes the results.
        modules: Modules that are sent by value.
        on_error: What an exception in ``fn`` does.
        on_progress: Told how many inputs were completed, and how many bytes were stored.
        skipped: The inputs that ``fn`` failed on, by index.
        patience_s: How long a machine is waited for when all nodes were lost.
    """

    cluster: Cluster
    num_nodes: int
    dispatcher: Dispatcher
    output: Output
    modules: list[ModuleType]
    on_error: OnError
    on_progress: Callable[[int, int], None]
    skipped: dict[int, SkippedInput]
    patience_s: float = 60.0

    async def work(self) -> None:
        """Work until all inputs are complete; leaves no node behind, however it ends.

        Raises:
            WorkerDiedError: All nodes were lost, or too many over the same inputs.
            FunctionFailedError: ``fn`` failed; holds the user's exception.
        """
        slots = _Slots(self)
        with single_error():
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(self.dispatcher.pump())
                await slots.work()
                pump.cancel()


class _Slots:
    """The nodes, and the successors of lost ones."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._ranks = count()
        self._alive: set[int] = set()
        self._was_any = False
        self._starting: dict[asyncio.Task[Any], asyncio.Timeout] = {}

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            for slot in range(self._head.num_nodes):
                group.create_task(self._keep(slot))

    async def _keep(self, slot: int) -> None:
        """Keep a node at work until all inputs are complete."""
        while True:
            rank, handed = next(self._ranks), Handed()
            try:
                await cancelled_first(self._run(slot, rank, handed))
            except NodeLostError as error:
                _LOG.warning("node %d was lost, others take over its inputs: %s", rank, error)
                await self._head.dispatcher.give_back(handed, str(error))
                self._alive.discard(slot)
                self._limit_waiting()
                if not handed.is_begun:
                    # What ended it before it began would end its successor too.
                    self._end_if_alone(error)
                    return
            else:
                return

    def _end_if_alone(self, error: NodeLostError) -> None:
        if not self._alive and not self._starting:
            raise WorkerDiedError(f"no node could start: {error}") from error

    async def _run(self, slot: int, rank: int, handed: Handed) -> None:
        """Work with one node until all inputs are complete."""
        head = self._head
        async with AsyncExitStack() as stack:
            node = await self._start(stack, head.output.setup(rank))
            self._alive.add(slot)
            self._was_any = True
            self._limit_waiting()
            with single_error():
                await _Conversation(head, slot, rank, node, handed).hold()
        for starting in self._starting:
            starting.cancel()  # nobody waits for machines any more

    async def _start(self, stack: AsyncExitStack, setup: bytes) -> NodeHandle:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(self._patience()) as limit:
                self._starting[task] = limit
                return await stack.enter_async_context(self._head.cluster.node(setup))
        except TimeoutError as error:
            if not self._starting[task].expired():
                raise
            raise WorkerDiedError(
                f"all nodes were lost, and no machine came for {self._head.patience_s:g} seconds. "
                "Nothing was committed"
            ) from error
        finally:
            del self._starting[task]

    def _patience(self) -> float | None:
        """How long a machine is waited for: without limit before the first, or beside others."""
        return self._head.patience_s if self._was_any and not self._alive else None

    def _limit_waiting(self) -> None:
        patience, now = self._patience(), asyncio.get_running_loop().time()
        for limit in self._starting.values():
            limit.reschedule(None if patience is None else now + patience)


class _Conversation:
    """What the head and one node say to each other."""

    def __init__(self, head: Head, slot: int, rank: int, node: NodeHandle, handed: Handed) -> None:
        self._head = head
        self._slot = slot
        self._rank = rank
        self._node = node
        self._handed = handed
        self._wanted: asyncio.Queue[int] = asyncio.Queue()

    async def hold(self) -> None:
        """Feed and hear the node until it has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                feeder = group.create_task(self._feed())
                await self._hear()
                feeder.cancel()
        except BaseExceptionGroup as group:
            _, others = group.split(NodeLostError)
            # Often both sides of the conversation find out that it is lost.
            raise others or leaves(group)[0] from None

    async def _feed(self) -> None:
        while True:
            most, drained = await self._wanted.get(), False
            while not isinstance(answer := await self._next(most, drained), Run):
                if answer is Signal.END:
                    await self._node.end()
                    return
                await self._node.drain()
                drained = True
            run = answer
            inputs = pickle_inputs(list(run.inputs), self._head.modules, first=run.first)
            await self._node.give(RunMessage(run.number, run.first, run.skip, inputs))

    async def _next(self, most: int, drained: bool) -> Run | Signal:
        answer = await self._head.dispatcher.next(self._slot, most, drained=drained)
        if isinstance(answer, Run):
            self._handed.add(answer)
        return answer

    async def _hear(self) -> None:
        while True:
            for report in await self._node.reports():
                if isinstance(report, Ended):
                    return
                await self._take(report)

    async def _take(self, report: NodeReport) -> None:
        if isinstance(report, Hungry):
            self._wanted.put_nowait(report.most)
        elif isinstance(report, SchemaSeen):
            await self._node.agree(self._head.output.agree(report.schema, self._rank))
        elif isinstance(report, ChunkStored | FilesStored):
            await self._head.output.fetch(self._node, report)
            await finish(self._note(report))
        elif isinstance(report, Drained):
            await self._cover(report.covered, 0)
        elif isinstance(report, Skipped):
            await self._skip(report)
        elif isinstance(report, Failed):
            if isinstance(report.error, Failure):
                raise FunctionFailedError(restore(report.error), report.error)
            raise report.error.unpack(f"node {self._rank}")

    async def _note(self, report: ChunkStored | FilesStored) -> None:
        """Count what is stored, and its inputs as complete: never only one of the two."""
        skipped = list(self._head.skipped.values())
        covered = await self._head.output.stored(report, skipped)
        await self._cover(covered, report.nbytes)

    async def _cover(self, covered: Covered, nbytes: int) -> None:
        num_inputs = await self._head.dispatcher.cover(self._handed, covered)
        self._head.on_progress(num_inputs, nbytes)

    async def _skip(self, report: Skipped) -> None:
        index = report.skipped.index
        if callable(self._head.on_error) and report.error is not None:
            error = report.error.unpack(f"node {self._rank}")
            try:
                self._head.on_error(index, self._handed.input(index), error)
            except Exception as raised:
                raise FunctionFailedError(raised) from raised
        self._head.skipped[index] = report.skipped
        await self._cover(self._head.output.skipped(index), 0)


async def fetch(node: NodeHandle, store: Store, name: str, nbytes: int) -> None:
    """Copy a file of a node into a store, and have the node remove it."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, nbytes, _PIECE):
            yield await node.read(name, start, min(_PIECE, nbytes - start))

    if nbytes:
        await store.put_stream(name, pieces())
    else:
        await store.put(name, b"")
    await node.fetched(name)
