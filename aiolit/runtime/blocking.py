"""Blocking calls off the loop, whose results are never lost to a cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["in_own_thread", "in_thread"]

T = TypeVar("T")


async def in_thread(call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Run a short blocking call in a thread of the loop's executor.

    A cancelled caller waits for the thread, and what it brought back is handed to ``undo`` (on the
    loop) before the cancellation goes on: so a lock or a descriptor that was just taken is not
    forgotten.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):  # it is passed on below, once
                await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None and undo is not None:
            undo(future.result())
        raise


async def in_own_thread(call: Callable[[], T], abandon: Callable[[T], object]) -> T:
    """Run a call that may block for as long as another process likes, such as for a file lock.

    It has a thread of its own: were it one of the executor's, then enough calls that wait would
    keep those from running that they wait for. Nothing can interrupt the call. So a cancelled
    caller goes on at once, and what the call brings later is handed to ``abandon``, in any thread.
    The thread is a daemon: a process that ends does not wait for another one's lock.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    left = False

    def answer(result: T) -> None:
        if left:
            abandon(result)
        else:
            future.set_result(result)

    def fail(error: BaseException) -> None:
        if not left:
            future.set_exception(error)

    def work() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            with suppress(RuntimeError):  # the loop has ended, and the caller with it
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(answer, result)
        except RuntimeError:
            abandon(result)

    threading.Thread(target=work, name="aiolit-wait", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        left = True
        if future.done() and future.exception() is None:
            abandon(future.result())
        raise
