"""Work in a task of its own, where a cancellation must not be lost, or not come too early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["cancelled_first", "finish"]

T = TypeVar("T")

_LOG = logging.getLogger("aiolit")


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` to its end; only then a cancellation leaves, or in its place what failed."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        cancelled = await _end(task, pass_on=False)
        task.result()
        if cancelled:
            raise asyncio.CancelledError
    finally:
        del task  # an error's traceback holds this frame, and the task the error


async def cancelled_first(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; a cancellation cancels it, and leaves in place of any failure of it.

    In Python 3.11 and 3.12 a task group forgets a cancellation that comes in the same moment as a
    failure; 3.13 repeats it at the next await. Who handles such failures and tries again would go
    on as if never cancelled.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        if not await _end(task, pass_on=True):
            return task.result()
        if not task.cancelled():
            _LOG.debug("work ended as it was cancelled, with %r", task.exception())
        raise asyncio.CancelledError
    finally:
        del task  # as above


async def _end(task: asyncio.Task[Any], *, pass_on: bool) -> bool:
    """Wait for the end of a task; returns whether the caller was cancelled meanwhile."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
            if pass_on:
                task.cancel()
    return cancelled
