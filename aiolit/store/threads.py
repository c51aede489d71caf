"""Blocking calls, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_in_thread(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``func`` in a thread of the loop's executor and return what it returns.

    A cancelled call waits for the thread before it passes the cancellation on: a thread that
    went on writing into the caller's buffer, or to a closed file, would be worse than the wait.
    A call that is still queued when it is cancelled does not run.
    """
    cancelled = False

    def work() -> T:
        if cancelled:
            raise asyncio.CancelledError
        return func(*args, **kwargs)

    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled = True
        await _settled(future)
        raise


async def open_in_thread(func: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Run ``func``, which opens or makes something, in a thread of the loop's executor.

    Where the call is cancelled while the thread is at it, nobody would ever close what it opened:
    that is handed to ``undo``.
    """
    opened: list[T] = []

    def work() -> T:
        opened.append(func())
        return opened[0]

    try:
        return await run_in_thread(work)
    except asyncio.CancelledError:
        for each in opened:
            undo(each)
        raise


async def _settled(future: asyncio.Future[T]) -> None:
    """Wait for the future, however often the waiter is cancelled, and look at its error."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # seen: the cancellation is what the caller hears of
