"""The one place where threads meet the event loop.

Every process has at most one portal of its own, found by its pid: a forked child leaves its
parent's portal exactly as it finds it (nothing is joined or closed there) and opens its own at
first use. The lock that guards the opening is found by pid as well, so a fork while another thread
holds it blocks nobody.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing.util
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, suppress
from typing import Any, Self, TypeVar, TypeVarTuple

from aiolit.groups import single_error

# Imports concurrent.futures.thread, whose exit function must be older than ours, to run after it.
from aiolit.runtime.loop_thread import Job, LoopThread, PortalClosedError
from aiolit.runtime.stoppable import StoppableThread
from aiolit.runtime.waiting import join, wait, wait_done

__all__ = ["Portal", "PortalClosedError", "portal", "stop_at_exit"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_NAME = "aiolit-loop"
_log = logging.getLogger(__name__)


class Portal:
    """A private event loop in a thread of its own, for callers without one.

    ``portal()`` gives the process's; ``with Portal() as own:`` opens a separate one. Any thread but
    the loop's own may call its methods. Each crossing costs about 0.1 ms: cross once per batch,
    never per sample.
    """

    def __init__(self) -> None:
        process = _this_process()
        process.register()
        self._shared = LoopThread()
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._shared.run, args=(started,), name=THREAD_NAME, daemon=process.daemon
        )
        self._thread.start()
        try:
            wait_done(started)
            started.result()
        except BaseException:  # interrupted while waiting: nobody will ever use it
            started.add_done_callback(self._shared.stop_if_started)
            raise
        self._finalizer = weakref.finalize(self, self._shared.dropped)
        self._finalizer.atexit = False
        process.portals.add(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop."""
        return self._shared.loop

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls in this process."""
        return self._shared.closing or not self._thread.is_alive()

    def call(self, func: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``func(*args)`` on the loop and wait for its result.

        A deadline belongs inside ``func`` (``asyncio.timeout``). ``KeyboardInterrupt`` in the
        waiting thread cancels the task and waits for its end; a second one does not wait.

        Raises:
            PortalClosedError: The portal was closed before or during the call.
            CancelledError: The calling thread is a ``StoppableThread`` that was told to end.
            RuntimeError: Called from the loop's own thread, or in another process.
            BaseException: Whatever ``func`` raised; a failure alone in its group leaves the group.
        """
        self._check_process()
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(
                f"Portal.call({_name(func)}) from the event loop's own thread would wait for "
                "itself: await it instead"
            )
        job = Job(func, args)
        caller = threading.current_thread()
        stoppable = caller if isinstance(caller, StoppableThread) else None
        try:
            if stoppable is not None:
                stoppable.begin_call(self._shared, job)
            self._shared.accept(job)
            return self._wait(job.future)
        except BaseException:
            if not job.future.done():
                self._cancel(job)
            raise
        finally:
            if stoppable is not None:
                stoppable.end_call()
            del job  # the error's traceback holds this frame, and the frame the error

    def submit(self, func: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Future[T]:
        """Begin ``func(*args)`` on the loop and return at once.

        Cancelling the future cancels the task. May be called on the loop's own thread too.

        Raises:
            PortalClosedError: The portal was closed before.
        """
        self._check_process()
        job = Job(func, args)
        shared = self._shared

        def cancelled(future: Future[T]) -> None:
            if future.cancelled():
                shared.post(job.cancel)

        job.future.add_done_callback(cancelled)
        shared.accept(job)
        return job.future

    def wrap_async_context_manager(
        self, manager: AbstractAsyncContextManager[T]
    ) -> AbstractContextManager[T]:
        """Enter an async context manager from a thread, and leave it in the task that entered it.

        So it may own a task group or a timeout. Its ``__aexit__`` sees the body's exception and may
        swallow it; a failure inside it while the body runs is raised when the block is left.
        """
        return self._hold(manager)

    @contextmanager
    def _hold(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        entered: Future[T] = Future()
        leave: asyncio.Future[BaseException | None] | None = None

        async def hold() -> bool:
            nonlocal leave
            leave = asyncio.get_running_loop().create_future()
            return await _hold_open(manager, entered, leave)

        self._check_process()
        job = Job(hold, ())
        # The task's end wakes the thread that waits for the entry.
        job.future.add_done_callback(lambda ended: _fail_entry(entered, ended))
        try:
            self._shared.accept(job)
            value = self._wait(entered)
        except BaseException:
            if not job.future.done():
                self._cancel(job)
            raise
        error: BaseException | None = None
        try:
            yield value
        except BaseException as raised:  # noqa: BLE001 - raised again below, unless swallowed
            error = raised
        try:
            assert leave is not None
            self._shared.post(_resolve, leave, error)
            swallowed = self._wait(job.future)
        except BaseException as raised:
            if not job.future.done():
                self._cancel(job)
            if raised is not error:
                raise
            swallowed = False
        if error is not None and not swallowed:
            raise error

    def on_close(self, cleanup: Callable[[], Awaitable[object]]) -> Callable[[], None]:
        """Have an async function awaited when the portal closes, the latest first.

        Each has 10 seconds. Returns a function that takes the registration back.

        Raises:
            PortalClosedError: The portal is closing already.
        """
        self._check_process()
        shared = self._shared
        with shared.lock:
            if shared.closing:
                raise PortalClosedError("the event loop of this portal has been closed")
            shared.cleanups.append(cleanup)

        def withdraw() -> None:
            with shared.lock, suppress(ValueError):
                shared.cleanups.remove(cleanup)

        return withdraw

    def close(self) -> None:
        """Cancel what runs, await the clean-ups, close the loop, join the thread.

        Again is harmless. Does nothing in a forked child, which must not touch what it inherited.

        Raises:
            RuntimeError: Called from the loop's own thread.
            Exception: What a clean-up raised; several as an ``ExceptionGroup``.
        """
        if os.getpid() != self._shared.pid:
            return
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(
                "Portal.close() from the event loop's own thread would wait for itself"
            )
        self._shared.stop()
        join(self._thread)
        self._finalizer.detach()
        errors, self._shared.errors = self._shared.errors, []
        if errors:
            with single_error():
                raise BaseExceptionGroup("clean-ups failed while the portal closed", errors)

    def _wait(self, future: Future[T]) -> T:
        try:
            wait_done(future)
            return future.result()
        except BaseException:
            if future.cancelled() and self._shared.closing:
                raise PortalClosedError("the portal was closed during the call") from None
            raise
        finally:
            del future  # as above

    def _cancel(self, job: Job[Any]) -> None:
        """Cancel a job whose caller gives up, and wait until nothing of it runs."""
        shared = self._shared
        with shared.lock:
            if job not in shared.jobs:
                return
            ended = threading.Event()
            posted = shared.post(job.cancel, ended)
        if posted:
            wait(ended)
        else:
            join(self._thread)  # the loop is ending, and ends every job first

    def _check_process(self) -> None:
        if os.getpid() != self._shared.pid:
            raise RuntimeError(
                f"this portal belongs to process {self._shared.pid} and this is its child "
                f"{os.getpid()}: call portal() for the child's own"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._shared.jobs)} running"
        return f"<Portal of process {self._shared.pid}, {state}>"


async def _hold_open(
    manager: AbstractAsyncContextManager[T],
    entered: Future[T],
    leave: asyncio.Future[BaseException | None],
) -> bool:
    value = await manager.__aenter__()
    try:
        entered.set_result(value)
        error = await leave
    except BaseException as failed:
        # Cancelled from inside (a task group of the manager failed) or because the portal closes.
        if not await manager.__aexit__(type(failed), failed, failed.__traceback__):
            raise
        return False
    if error is None:
        return bool(await manager.__aexit__(None, None, None))
    return bool(await manager.__aexit__(type(error), error, error.__traceback__))


def _fail_entry(entered: Future[Any], ended: Future[bool]) -> None:
    with suppress(InvalidStateError):  # it had been entered
        if ended.cancelled():
            entered.cancel()
        elif (error := ended.exception()) is not None:
            entered.set_exception(error)


def _resolve(leave: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not leave.done():
        leave.set_result(error)


def _name(func: Callable[..., object]) -> str:
    return getattr(func, "__qualname__", type(func).__name__)


class _Process:
    """The portals of one process, and how they end with it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.portal: Portal | None = None
        self.portals: weakref.WeakSet[Portal] = weakref.WeakSet()
        self.threads: weakref.WeakSet[StoppableThread] = weakref.WeakSet()
        self.registered = False
        self.exiting = False
        self.daemon = False

    def register(self) -> None:
        """Have the portals closed when the process ends, whichever way it ends."""
        with self.lock:
            if self.exiting:
                raise RuntimeError("the interpreter is shutting down: no event loop can be opened")
            if self.registered:
                return
            # Before non-daemon threads are joined; atexit would be too late, they would be waited
            # for first.
            register = getattr(threading, "_register_atexit", None)
            if register is None:
                atexit.register(_close_at_exit)
                self.daemon = True  # a daemon is not waited for, so that atexit gets its turn
            else:
                register(_close_at_exit)
            # Multiprocessing children end by os._exit after these finalizers, without atexit.
            multiprocessing.util.Finalize(None, _close_at_exit, exitpriority=0)
            self.registered = True

    def close(self) -> None:
        self.exiting = True
        threads = [thread for thread in self.threads if thread.is_alive()]
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join()
        for open_portal in list(self.portals):
            try:
                open_portal.close()
            except Exception:  # noqa: BLE001 - at exit nobody is left to raise it to
                _log.exception("closing the event loop at exit failed")


# By pid; what a child inherits stays here untouched, so that nothing of it is finalized in the
# child.
_processes: dict[int, _Process] = {}


def _this_process() -> _Process:
    pid = os.getpid()
    return _processes.get(pid) or _processes.setdefault(pid, _Process())


def _close_at_exit() -> None:
    # Inherited by forked children together with the list of exit functions: there it finds nothing
    # to close.
    process = _processes.get(os.getpid())
    if process is not None:
        process.close()


def stop_at_exit(thread: StoppableThread) -> None:
    """Have a thread told to end, and waited for, when this process ends.

    Raises:
        RuntimeError: The interpreter is shutting down.
    """
    process = _this_process()
    process.register()
    process.threads.add(thread)


def portal() -> Portal:
    """Give this process's portal, opening it at the first call.

    Any thread may call it. A forked child gets its own.

    Raises:
        RuntimeError: The interpreter is shutting down.
    """
    process = _this_process()
    current = process.portal
    if current is not None and not current.closed:
        return current
    with process.lock:
        if process.portal is None or process.portal.closed:
            process.portal = Portal()
        return process.portal
