"""Waits of a thread in which a signal is never missed.

Python notes a signal that comes just as a wait begins, or that the system gives to another thread,
but goes on waiting: its handler runs when the main thread next wakes up. So waits that may be long
wake up twice a second, for Ctrl-C.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["join", "take", "wait", "wait_done"]

T = TypeVar("T")

_EVERY_S = 0.5


def wait(event: threading.Event) -> None:
    """Wait for an event."""
    while not event.wait(_EVERY_S):
        pass


def wait_done(future: Future[Any]) -> None:
    """Wait until a future has a result, an error, or is cancelled."""
    # Future.result() with a timeout would not do: the handler of a signal may raise TimeoutError.
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    wait(done)


def join(thread: threading.Thread) -> None:
    """Wait for the end of a thread."""
    while thread.is_alive():
        thread.join(_EVERY_S)


def take(queue: SimpleQueue[T]) -> T:
    """Wait for the next item of a queue."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=_EVERY_S)
