"""What runs on the portal's event loop: jobs that threads handed over, and how they end."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.thread import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from aiolit.groups import single_error

new_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:
    new_loop = asyncio.new_event_loop
else:
    new_loop = uvloop.new_event_loop

__all__ = ["Job", "LoopThread", "PortalClosedError"]

T = TypeVar("T")

# Threads for blocking file calls; more than cores, since they wait for disks.
IO_THREADS = 32
# A clean-up that hangs must not keep the interpreter from ending.
CLEANUP_TIMEOUT_S = 10.0


class PortalClosedError(RuntimeError):
    """The portal was closed before or during the call."""


class Job(Generic[T]):
    """One coroutine function on its way through the loop."""

    __slots__ = ("_args", "_func", "future", "name", "task")

    def __init__(self, func: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self._func: Callable[..., Awaitable[T]] | None = func
        self._args = args
        self.future: Future[T] = Future()
        self.task: asyncio.Task[None] | None = None
        self.name = f"aiolit:{getattr(func, '__qualname__', type(func).__name__)}"

    def start(self, group: asyncio.TaskGroup) -> bool:
        """Begin on the loop, unless it was cancelled first."""
        if self.future.cancelled():
            return False
        self.task = group.create_task(self._run(), name=self.name)
        return True

    async def _run(self) -> None:
        # The future outlives them, and refers to this job.
        func, self._func = self._func, None
        args, self._args = self._args, ()
        assert func is not None  # a job runs once
        try:
            with single_error():
                result = await func(*args)
        except asyncio.CancelledError:
            self.future.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit ends the caller, not the loop
            with suppress(InvalidStateError):  # the caller gave up in the meantime
                self.future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                self.future.set_result(result)
        finally:
            del self  # the error's traceback holds this frame, and the future the error

    def cancel(self, ended: threading.Event | None = None) -> None:
        """Cancel on the loop, and set ``ended`` when nothing of it runs any more."""
        if self.task is None or self.task.done():
            self.future.cancel()
            if ended is not None:
                ended.set()
            return
        if ended is not None:
            self.task.add_done_callback(lambda _: ended.set())
        self.task.cancel()


class LoopThread:
    """What the loop's thread runs and its callers share.

    It never refers to the Portal, so that a forgotten portal is collected and its thread ends.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Reentrant: a garbage collection inside the lock may call a finalizer that comes back here.
        self.lock = threading.RLock()
        self.closing = False
        self.jobs: set[Job[Any]] = set()
        self.cleanups: list[Callable[[], Awaitable[object]]] = []
        self.errors: list[BaseException] = []

    def run(self, started: Future[None]) -> None:
        """Be the thread's whole life."""
        try:
            self._run(started)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            with self.lock:
                self.closing = True
                orphans, self.jobs = self.jobs, set()
            for job in orphans:
                with suppress(InvalidStateError):
                    job.future.set_exception(PortalClosedError("the event loop has ended"))

    def _run(self, started: Future[None]) -> None:
        """Do what asyncio.Runner does, but start no thread at the end.

        ``loop.shutdown_default_executor`` starts one, which Python 3.12 and later refuse while the
        interpreter ends.
        """
        self.loop = loop = new_loop()
        pool = ThreadPoolExecutor(IO_THREADS, "aiolit-io")
        pool.submit(int)  # for the same reason: clean-ups at exit find one thread there
        loop.set_default_executor(pool)
        try:
            loop.run_until_complete(self._serve(started))
        finally:
            try:
                loop.run_until_complete(_cancel_strays())
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                pool.shutdown()
                loop.close()

    async def _serve(self, started: Future[None]) -> None:
        self.stopped = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as self.group:
                started.set_result(None)
                await self.stopped.wait()
                for job in list(self.jobs):
                    job.cancel()
        finally:
            while (cleanup := self._last_cleanup()) is not None:
                await self._clean_up(cleanup)

    def _last_cleanup(self) -> Callable[[], Awaitable[object]] | None:
        with self.lock:
            return self.cleanups.pop() if self.cleanups else None

    async def _clean_up(self, cleanup: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(CLEANUP_TIMEOUT_S):
                await cleanup()
        except Exception as error:  # noqa: BLE001 - close() raises it, after the others
            self.errors.append(error)

    def stop(self) -> None:
        """Ask the loop to end; every job accepted before is cancelled and awaited."""
        with self.lock:
            if not self.closing:
                self.closing = True
                self.loop.call_soon_threadsafe(self.stopped.set)

    def stop_if_started(self, started: Future[None]) -> None:
        """Ask a loop to end whose opener did not stay to use it."""
        if started.exception() is None:
            self.stop()

    def post(self, callback: Callable[..., object], *args: object) -> bool:
        """Run a callback on the loop; False when the loop is ending."""
        with self.lock:
            if self.closing:
                return False
            self.loop.call_soon_threadsafe(callback, *args)
            return True

    def accept(self, job: Job[Any]) -> None:
        """Take a job over.

        Under the lock, so that it is either refused or begun before the loop stops.
        """
        with self.lock:
            if self.closing:
                raise PortalClosedError("the event loop of this portal has been closed")
            self.jobs.add(job)
            self.loop.call_soon_threadsafe(self._begin, job)

    def _begin(self, job: Job[Any]) -> None:
        if job.start(self.group) and job.task is not None:
            job.task.add_done_callback(lambda _: self._forget(job))
        else:
            self._forget(job)

    def _forget(self, job: Job[Any]) -> None:
        job.future.cancel()  # not done if its task was cancelled before the first step
        with self.lock:
            self.jobs.discard(job)

    def dropped(self) -> None:
        """End the thread of a portal that nobody refers to; nobody waits for it here."""
        if os.getpid() == self.pid and not self.closing:
            self.stop()
            warnings.warn("a Portal was dropped without close()", ResourceWarning, stacklevel=2)


async def _cancel_strays() -> None:
    """End the tasks that libraries left on the loop."""
    strays = asyncio.all_tasks() - {asyncio.current_task()}
    for task in strays:
        task.cancel()
    if strays:
        await asyncio.wait(strays)
