"""Single flight: sharing, failures, cancellation, leftovers."""

# ruff: noqa: PT012 - what raises is the leaving of a block
from __future__ import annotations

import asyncio

import pytest

from aiolit.runtime.single_flight import SingleFlight


async def settle() -> None:
    """Let every task go as far as it can without outside help."""
    for _ in range(20):
        await asyncio.sleep(0)


class Work:
    """A fetch that waits for its gate, and counts."""

    def __init__(self) -> None:
        self.started = 0
        self.ended = 0
        self.gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.gate)
        finally:
            self.ended += 1


async def test_callers_of_one_key_share_one_task() -> None:
    work, other = Work(), Work()
    async with SingleFlight[str, str]() as flights, asyncio.TaskGroup() as group:
        tasks = [group.create_task(flights.run("a", work)) for _ in range(5)]
        apart = group.create_task(flights.run("b", other))
        await settle()
        assert (work.started, other.started, len(flights)) == (1, 1, 2)
        work.gate.set_result("x")
        other.gate.set_result("y")
        await asyncio.wait([*tasks, apart])
        assert len(flights) == 0
    assert [task.result() for task in tasks] == ["x"] * 5
    assert apart.result() == "y"


async def test_nothing_is_remembered() -> None:
    async with SingleFlight[str, str]() as flights:
        for answer in ("one", "two"):
            work = Work()
            work.gate.set_result(answer)
            assert await flights.run("a", work) == answer


async def test_a_failure_reaches_all_and_the_next_call_starts_anew() -> None:
    work, error = Work(), OSError("no")
    async with SingleFlight[str, str]() as flights:
        tasks = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
        await settle()
        work.gate.set_exception(error)
        await asyncio.wait(tasks)
        assert [task.exception() for task in tasks] == [error] * 3
        again = Work()
        again.gate.set_result("fine")
        assert await flights.run("a", again) == "fine"


async def test_who_asks_in_the_tick_of_the_failure_starts_anew() -> None:
    """The task has ended, and its callbacks have not run yet."""
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    again = Work()

    async def fail() -> str:
        await gate
        raise OSError("no")

    async with SingleFlight[str, str]() as flights:

        async def ask_again() -> str:
            await gate
            return await flights.run("a", again)

        first = asyncio.create_task(flights.run("a", fail))
        await settle()
        second = asyncio.create_task(ask_again())
        await settle()
        gate.set_result(None)
        with pytest.raises(OSError, match="no"):
            await first
        await settle()
        third = asyncio.create_task(flights.run("a", again))
        await settle()
        assert (again.started, len(flights)) == (1, 1)
        again.gate.set_result("fine")
        assert [await second, await third] == ["fine", "fine"]


async def test_one_cancelled_caller_leaves_the_task_to_the_others() -> None:
    work = Work()
    async with SingleFlight[str, str]() as flights:
        first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        assert (work.started, work.ended) == (1, 0)
        work.gate.set_result("x")
        assert await second == "x"


async def test_the_last_cancelled_caller_cancels_the_task() -> None:
    work = Work()
    async with SingleFlight[str, str]() as flights:
        tasks = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
        await settle()
        for task in tasks:
            assert work.ended == 0
            task.cancel()
            await settle()
        assert work.ended == 1
        assert len(flights) == 0
        again = Work()
        again.gate.set_result("x")
        assert await flights.run("a", again) == "x"


async def test_who_comes_while_a_given_up_task_ends_waits_and_begins_anew() -> None:
    running, most = 0, 0
    slow = asyncio.Event()

    async def work() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            await slow.wait()
            running -= 1
        return "never"

    again = Work()
    again.gate.set_result("x")
    async with SingleFlight[str, str]() as flights:
        first = asyncio.create_task(flights.run("a", work))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        second = asyncio.create_task(flights.run("a", again))
        await settle()
        assert (running, again.started) == (1, 0)
        slow.set()
        assert await second == "x"
    assert (running, most) == (0, 1)


async def test_left_before_the_task_began() -> None:
    work = Work()
    async with SingleFlight[str, str]() as flights:
        task = asyncio.create_task(flights.run("a", work))
        await asyncio.sleep(0)  # it asked; the shared task has not run yet
    assert (work.started, len(flights)) == (0, 0)
    with pytest.raises(RuntimeError, match="ended with its SingleFlight block"):
        await task


async def test_leaving_the_block_ends_what_runs() -> None:
    work = Work()
    async with SingleFlight[str, str]() as flights:
        task = asyncio.create_task(flights.run("a", work))
        await settle()
    assert (work.started, work.ended) == (1, 1)
    with pytest.raises(RuntimeError, match="ended with its SingleFlight block"):
        await task


async def test_the_body_s_error_leaves_as_itself() -> None:
    work = Work()
    with pytest.raises(KeyError):
        async with SingleFlight[str, str]() as flights:
            task = asyncio.create_task(flights.run("a", work))
            await settle()
            raise KeyError
    assert work.ended == 1
    with pytest.raises(RuntimeError):
        await task


async def test_a_task_cancelled_by_somebody_else_is_an_error() -> None:
    async def cancelled() -> str:
        raise asyncio.CancelledError

    async with SingleFlight[str, str]() as flights:
        with pytest.raises(RuntimeError, match="shared task for 'a' was cancelled"):
            await flights.run("a", cancelled)


async def test_closed_it_refuses() -> None:
    flights = SingleFlight[str, str]()
    with pytest.raises(RuntimeError, match="async with"):
        await flights.run("a", Work())
    async with flights:
        pass
    with pytest.raises(RuntimeError, match="async with"):
        await flights.run("a", Work())


@pytest.mark.parametrize("ticks", range(8))
async def test_cancelled_at_every_moment(ticks: int) -> None:
    work = Work()
    async with SingleFlight[str, str]() as flights:
        task = asyncio.create_task(flights.run("a", work))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await settle()
        assert task.cancelled()
        assert work.started == work.ended
        assert len(flights) == 0
