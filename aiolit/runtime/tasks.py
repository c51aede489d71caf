"""Work in a task of its own, where a cancellation must not be lost, or not come too early."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["cancelled_first", "finish"]

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` to its end; a cancellation is passed on only then."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def cancelled_first(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; a cancellation ends it, and leaves before any failure of it.

    Before Python 3.13 a task group lets a failure leave in the place of a cancellation that came in
    the same moment. Who handles such failures and tries again would do so for ever.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            task.cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # else asyncio reports that nobody asked for it
    raise cancelled
