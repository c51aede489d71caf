"""Cancellations that must not be lost to a failure of the same moment."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest

from aiolit.runtime.tasks import cancelled_first, finish


class Work:
    """A task group that is cancelled at the moment in which a task of it fails."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.ended = False

    async def __call__(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fail())
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True

    async def _fail(self) -> None:
        assert self.task is not None
        self.task.cancel()
        raise ValueError("as it was cancelled")


async def test_who_tries_again_is_cancelled() -> None:
    work, tries = Work(), 0

    async def try_again() -> None:
        nonlocal tries
        while tries < 3:
            tries += 1
            try:
                await cancelled_first(work())
            except* ValueError:
                pass

    work.task = asyncio.create_task(try_again())
    with pytest.raises(asyncio.CancelledError):
        await work.task
    assert (tries, work.ended) == (1, True)


async def test_a_second_cancellation_reaches_the_work_too() -> None:
    began, cleaning, cut_short = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            try:
                await asyncio.Event().wait()
            finally:
                cut_short.set()

    task = asyncio.create_task(cancelled_first(work()))
    for reached in (began, cleaning):
        await reached.wait()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cut_short.is_set()


async def test_results_and_failures_come_as_they_are() -> None:
    async def give() -> int:
        return 3

    async def fail() -> int:
        raise KeyError("mine")

    assert await cancelled_first(give()) == 3
    with pytest.raises(KeyError, match="mine"):
        await cancelled_first(fail())


@pytest.mark.parametrize("run", [cancelled_first, finish])
async def test_a_failure_keeps_nothing_alive(run: Callable[..., Awaitable[None]]) -> None:
    class Large:
        pass

    async def fail() -> None:
        large = Large()
        gone.append(weakref.ref(large))
        raise KeyError

    gone: list[weakref.ref[Large]] = []
    gc.disable()  # reference counts alone must do
    try:
        with pytest.raises(KeyError):
            await run(fail())
        assert gone[0]() is None
    finally:
        gc.enable()


async def test_finish_goes_on_though_cancelled() -> None:
    began, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        await release.wait()
        ended.set()

    task = asyncio.create_task(finish(work()))
    await began.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
