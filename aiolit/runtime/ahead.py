"""Results made ahead of whoever takes them, in threads of their own.

One thread advances an iterator while its results are taken elsewhere. What it does inside a result
piece by piece, such as to decode samples, it can share with helpers: see ``spread``.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from aiolit.runtime.portal import PortalClosedError, stop_at_exit
from aiolit.runtime.stoppable import StoppableThread
from aiolit.runtime.waiting import take

__all__ = ["THREAD_NAME", "Ahead", "spread"]

T = TypeVar("T")

THREAD_NAME = "aiolit-decode"
_SLICES = 4  # of work for each thread: few enough to cost nothing, enough to end together


class Ahead(Generic[T]):
    """Yields what a generator yields, in its order, made ahead in another thread.

    What it raises is raised here behind the results before it. Iteration that ends early has the
    thread end as soon as it can, without a wait: the garbage collector ends iterations in any
    thread, also under a lock that the other one needs. A thread that waits for the loop gives up
    there.

    Args:
        results: What to advance; it is closed in its thread.
        threads: Threads that work on it, the one that advances it included.
        depth: Results that may be ahead, the one that is being made included.
    """

    def __init__(self, results: Generator[T, None, None], *, threads: int, depth: int) -> None:
        self._results, self._threads, self._depth = results, threads, depth
        self._maker: _Maker[T] | None = None

    @property
    def ready(self) -> int:
        """How many results are made and not taken."""
        return 0 if self._maker is None else self._maker.count - self._maker.taken

    def __iter__(self) -> Iterator[T]:
        """Begin to make results; only once."""
        self._maker = maker = _Maker(self._results, self._threads, self._depth)
        stop_at_exit(maker)
        maker.start()
        try:
            while (made := maker.take()) is not None:
                yield made.value
                del made  # the taker's alone while the next one is waited for
        finally:
            self._maker = None
            if maker.pid == os.getpid():
                maker.stop()
        maker.join()
        error, maker.error = maker.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    value: T


class _Maker(StoppableThread, Generic[T]):
    """The thread. Its queues are the reentrant ones, since a finalizer may stop it at any time."""

    def __init__(self, results: Generator[T, None, None], threads: int, depth: int) -> None:
        super().__init__(THREAD_NAME)
        self._results, self._threads, self.pid = results, threads, os.getpid()
        self.made: SimpleQueue[_Made[T] | None] = SimpleQueue()
        self.count = self.taken = 0
        self.error: BaseException | None = None
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self._helpers: ThreadPoolExecutor | None = None

    def take(self) -> _Made[T] | None:
        """Wait for the next result; None behind the last one.

        Raises:
            PortalClosedError: The process ends.
            RuntimeError: This is a forked child of the process whose thread it is.
        """
        if self.pid != os.getpid():
            raise RuntimeError(
                f"process {self.pid} makes these results ahead and this is its child "
                f"{os.getpid()}: begin a new iteration"
            )
        made = take(self.made)
        if made is None and self.stopped:
            raise PortalClosedError("the process ends: no batch is made any more")
        self._room.put(None)
        self.taken += made is not None
        return made

    def stop(self) -> None:
        super().stop()
        self._room.put(None)

    def run(self) -> None:
        """Be the thread's whole life."""
        try:
            if self._threads > 1:
                self._helpers = ThreadPoolExecutor(self._threads - 1, THREAD_NAME)
            with closing(self._results):
                self._make_all()
        except BaseException as error:  # noqa: BLE001 - raised where the results are taken
            if not self.stopped:
                self.error = error
        finally:
            if self._helpers is not None:
                self._helpers.shutdown()
            self.made.put(None)

    def _make_all(self) -> None:
        while True:
            self._room.get()
            if self.stopped:
                return
            try:
                made = _Made(next(self._results))
            except StopIteration:
                return
            self.count += 1
            self.made.put(made)
            del made

    def spread(self, count: int, work: Callable[[int, int], list[Any]]) -> list[Any]:
        """Do work on slices of ``range(count)`` with the helpers; see the function."""
        assert self._helpers is not None
        size = max(1, count // (_SLICES * self._threads))
        todo = deque((first, min(first + size, count)) for first in range(0, count, size))
        done: dict[int, list[Any]] = {}
        failed: dict[int, BaseException] = {}

        def some() -> None:
            while todo:
                try:
                    first, stop = todo.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    done[first] = work(first, stop)
                except BaseException as error:  # noqa: BLE001 - raised below, in order
                    failed[first] = error
                    todo.clear()

        helping = [self._helpers.submit(some) for _ in range(min(self._threads, len(todo)) - 1)]
        some()
        wait(helping)
        if failed:
            raise failed[min(failed)]
        return [value for first in sorted(done) for value in done[first]]


def spread(count: int, work: Callable[[int, int], list[T]]) -> list[T]:
    """Return ``work(0, count)``, done in slices by all threads of the ``Ahead`` this runs in.

    Elsewhere, and where there are no helpers, it is done at once in this thread.

    Args:
        count: How many values there are to make.
        work: Makes those from one number to another; it runs in several threads at the same time.

    Raises:
        BaseException: What the first slice that failed raised; later ones may not have begun.
    """
    thread = threading.current_thread()
    if isinstance(thread, _Maker) and thread._helpers is not None and count > 1:
        return thread.spread(count, work)
    return work(0, count)
