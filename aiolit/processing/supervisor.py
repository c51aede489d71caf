"""Worker processes at work: runs go out, pieces come back, and a dead worker is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiolit.errors import WorkerDiedError
from aiolit.groups import single_error
from aiolit.processing.collector import Arrival, Collector
from aiolit.processing.failure import FunctionFailedError, restore, show
from aiolit.processing.protocol import (
    Failure,
    Kind,
    Piece,
    PieceMeta,
    Remainder,
    RunMessage,
    Schema,
    kind_and_value,
)
from aiolit.processing.runs import Run
from aiolit.processing.scheduler import RunScheduler
from aiolit.processing.shipping import pickle_inputs
from aiolit.processing.worker_main import serve
from aiolit.runtime.tasks import cancelled_first
from aiolit.runtime.worker_process import WorkerProcess

__all__ = ["Crew", "Job"]

_LOG = logging.getLogger("aiolit")

# Inputs that an error message shows.
_SHOWN = 6


@dataclass(slots=True)
class _Task:
    """A run that a worker has."""

    run: Run
    done: Remainder = field(default_factory=Remainder)


Skip = Callable[[Failure, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all workers of a job share.

    Attributes:
        setup: The pickled `Setup`.
        modules: Modules that are sent by value.
        scheduler: Hands out runs.
        collector: Takes the results.
        is_async: Whether ``fn`` is async.
        runs_ahead: Runs a worker of a plain function has at once: the one it works on, and those
            that wait in its socket.
        concurrency: Items a worker of an async function keeps in flight.
        max_retries: How often a run is begun again after its worker died.
        whole_runs: Whether a run is begun again from its first input: a function that buffers has
            lost what it held.
        on_skip: Told of every input on which ``fn`` failed and the job goes on.
        on_progress: Told how many inputs were completed, and how many bytes came.
    """

    setup: bytes
    modules: list[Any]
    scheduler: RunScheduler
    collector: Collector
    is_async: bool
    runs_ahead: int
    concurrency: int
    max_retries: int
    whole_runs: bool
    on_skip: Skip
    on_progress: Callable[[int, int], None]


class Crew:
    """The workers of a job, as many as there are slots."""

    def __init__(self, job: Job, num_workers: int) -> None:
        self._job = job
        self._failed = False
        self._slots = [_Slot(job, number) for number in range(num_workers)]

    async def work(self) -> None:
        """Work until all runs are complete; leaves no process behind, however it ends.

        Raises:
            WorkerDiedError: A worker died over a run more than ``max_retries`` times.
            FunctionFailedError: ``fn`` failed; holds the user's exception.
        """
        with single_error():
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(self._job.scheduler.pump())
                async with asyncio.TaskGroup() as slots:
                    for slot in self._slots:
                        slots.create_task(self._guarded(slot))
                pump.cancel()

    async def _guarded(self, slot: _Slot) -> None:
        """Let the first failure end the job; workers often fail together, for one reason."""
        try:
            await slot.work()
        except Exception as error:
            if self._failed:
                _LOG.debug("a worker failed after the job had failed: %s", error)
                return
            self._failed = True
            raise


class _Slot:
    """One worker process, and its successor when it dies."""

    def __init__(self, job: Job, number: int) -> None:
        self._job = job
        self._number = number
        self._tasks: dict[int, _Task] = {}
        self._ready = False
        self._schema: Schema | None = None
        self._changed = asyncio.Condition()

    async def work(self) -> None:
        """Keep a worker at work until all runs are complete."""
        while True:
            self._ready, self._schema = False, None
            name = f"aiolit-worker-{self._number}"
            worker = WorkerProcess(serve, self._job.setup, self._number, name=name)
            try:
                await cancelled_first(self._employ(worker))
            except WorkerDiedError as error:
                await self._after_death(error)
            else:
                return

    async def _employ(self, worker: WorkerProcess[bytes, int]) -> None:
        with single_error():
            async with worker, asyncio.TaskGroup() as group:
                receiver = group.create_task(self._receive(worker))
                await self._feed(worker)
                receiver.cancel()

    async def _feed(self, worker: WorkerProcess[bytes, int]) -> None:
        scheduler = self._job.scheduler
        while True:
            async with self._changed:
                await self._changed.wait_for(self._wants_more)
            run = await scheduler.next_run()
            if run is None:
                return
            self._tasks[run.number] = _Task(run)
            inputs = pickle_inputs(list(run.inputs), self._job.modules, first=run.first)
            message = RunMessage(run.number, run.first, run.skip, inputs)
            try:
                await worker.send((Kind.RUN, message))
            except WorkerDiedError:
                # The receiver reads what the worker still said, then reports its end.
                await asyncio.get_running_loop().create_future()

    def _wants_more(self) -> bool:
        if not self._job.is_async:
            return len(self._tasks) < self._job.runs_ahead
        waiting = sum(len(each.run.inputs) - each.done.inputs for each in self._tasks.values())
        return waiting < 2 * self._job.concurrency

    async def _receive(self, worker: WorkerProcess[bytes, int]) -> None:
        while True:
            header, buffers = await worker.recv()
            kind, value = kind_and_value(header)
            if kind is Kind.PIECE:
                await self._take(value, Piece.received(value, buffers))
            elif kind is Kind.SCHEMA:
                self._schema = value
            elif kind is Kind.READY:
                self._ready = True
            else:
                await self._failed(kind, value)

    async def _take(self, meta: PieceMeta, piece: Piece) -> None:
        job, task = self._job, self._tasks[meta.run]
        await job.collector.room(lambda: job.collector.head in self._tasks)
        first = task.run.first + task.done.inputs
        before = task.done.inputs
        # Counted before it is handed over: what the collector has must not be worked on again.
        task.done = task.done.after(meta.counts, complete=meta.complete)
        source = f"the samples of input {first} (worker {self._number})"
        await job.collector.add(Arrival(first, meta, self._schema, source), piece)
        job.on_progress(task.done.inputs - before, piece.data.nbytes)
        if meta.ended:
            del self._tasks[meta.run]
            await job.scheduler.completed(task.run, meta.seconds)
        async with self._changed:
            self._changed.notify_all()

    async def _failed(self, kind: Kind, failure: Failure) -> None:
        if kind is Kind.FAILED:
            raise FunctionFailedError(restore(failure), failure)
        run = self._tasks[failure.run].run
        await self._job.on_skip(failure, run.inputs[failure.index - run.first])

    async def _after_death(self, error: WorkerDiedError) -> None:
        tasks, self._tasks = sorted(self._tasks.values(), key=lambda task: task.run.number), {}
        if not self._ready:
            raise WorkerDiedError(f"a worker could not start: {error}") from error
        # A worker of a plain function works on one run at a time, the first it was given.
        at_work = tasks if self._job.is_async else tasks[:1]
        if any(task.run.attempt >= self._job.max_retries for task in at_work):
            raise WorkerDiedError(_obituary(error, at_work)) from error
        for position, task in enumerate(tasks):
            blamed = position < len(at_work)
            done = Remainder() if self._job.whole_runs else task.done
            await self._job.scheduler.give_back(task.run, done, blamed=blamed)


def _obituary(error: WorkerDiedError, tasks: Sequence[_Task]) -> str:
    attempt = max(task.run.attempt for task in tasks)
    tries = f" (attempt {attempt + 1})" if attempt else ""
    unfinished = "; ".join(_unfinished(task) for task in tasks)
    return (
        f"{error}{tries}; it had not finished {unfinished}. If it was out of memory, use fewer "
        "workers; max_retries= gives such inputs to a fresh worker"
    )


def _unfinished(task: _Task) -> str:
    """Name the inputs of a run that are not complete: their range, and what they are."""
    run, done = task.run, task.done.inputs
    left = run.inputs[done:]
    first, last = run.first + done, run.stop - 1
    inputs = f"input {first}" if first >= last else f"inputs {first} to {last}"
    shown = [show(each) for each in left[:_SHOWN]]
    if len(left) > _SHOWN:
        shown = [*shown[:2], "...", show(left[-1])]
    return f"{inputs} ({', '.join(shown)})"
