"""The byte budget: order, bound, cancellation, resizing."""

from __future__ import annotations

import asyncio

import pytest

from aiolit.errors import ConfigError
from aiolit.runtime.budget import BudgetStatistics, ByteBudget


async def settle() -> None:
    """Let every task go as far as it can without outside help."""
    for _ in range(10):
        await asyncio.sleep(0)


class Waiter:
    """A task that acquires and then stays."""

    def __init__(
        self, budget: ByteBudget, nbytes: int, group: asyncio.TaskGroup, log: list[int]
    ) -> None:
        self.task = group.create_task(self.run(budget, nbytes, log))

    async def run(self, budget: ByteBudget, nbytes: int, log: list[int]) -> None:
        await budget.acquire(nbytes)
        log.append(nbytes)


async def test_taken_and_given_back() -> None:
    budget = ByteBudget(10)
    await budget.acquire(4)
    await budget.acquire(6)
    assert (budget.limit, budget.used, budget.peak, budget.waiting) == (10, 10, 10, 0)
    budget.release(10)
    assert (budget.used, budget.peak) == (0, 10)


async def test_first_come_first_served() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(10)
    async with asyncio.TaskGroup() as group:
        for nbytes in (6, 1, 4, 2):
            Waiter(budget, nbytes, group, log)
        await settle()
        assert (log, budget.waiting) == ([], 4)
        budget.release(5)
        await settle()
        # The 1 would fit and does not overtake the 6.
        assert log == []
        budget.release(5)
        await settle()
        assert log == [6, 1]
        budget.release(7)
        await settle()
    assert log == [6, 1, 4, 2]
    assert (budget.used, budget.peak) == (6, 10)


async def test_nobody_overtakes_a_waiter_by_trying() -> None:
    budget, log = ByteBudget(10), list[int]()
    assert budget.try_acquire(9)
    assert not budget.try_acquire(2)
    async with asyncio.TaskGroup() as group:
        Waiter(budget, 5, group, log)
        await settle()
        assert not budget.try_acquire(1)
        budget.release(9)
        await settle()
        assert budget.try_acquire(5)
    assert budget.used == 10


@pytest.mark.parametrize("nbytes", [11, 10**12])
async def test_more_than_the_limit_is_an_error_at_once(nbytes: int) -> None:
    budget = ByteBudget(10, name="max_memory")
    with pytest.raises(ConfigError, match=f"max_memory of 10 B .* can never hold .*{nbytes} bytes"):
        await budget.acquire(nbytes)
    with pytest.raises(ConfigError):
        budget.try_acquire(nbytes)
    assert budget.used == 0


async def test_a_cancelled_waiter_takes_nothing_and_lets_the_next_go() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(8)
    async with asyncio.TaskGroup() as group:
        large = Waiter(budget, 5, group, log)
        Waiter(budget, 2, group, log)
        await settle()
        large.task.cancel()
        await settle()
        assert log == [2]
    assert (budget.used, budget.waiting) == (10, 0)


async def test_granted_and_cancelled_in_the_same_tick_gives_back() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(10)
    async with asyncio.TaskGroup() as group:
        first = Waiter(budget, 10, group, log)
        Waiter(budget, 3, group, log)
        await settle()
        budget.release(10)
        assert budget.used == 10  # granted, but the task has not run yet
        first.task.cancel()
    assert log == [3]
    assert budget.used == 3


async def test_cancelled_and_then_freed_in_the_same_tick() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(10)
    async with asyncio.TaskGroup() as group:
        first = Waiter(budget, 10, group, log)
        Waiter(budget, 3, group, log)
        await settle()
        first.task.cancel()
        budget.release(10)
        await settle()
        assert log == [3]
    assert (budget.used, budget.waiting) == (3, 0)


async def test_reserve_gives_back_on_error_and_cancellation() -> None:
    budget = ByteBudget(10)

    async def fail() -> None:
        async with budget.reserve(7):
            assert budget.used == 7
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert budget.used == 0

    async def stay() -> None:
        async with budget.reserve(7):
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await settle()
    assert budget.used == 7
    task.cancel()
    await asyncio.wait([task])
    assert budget.used == 0


async def test_a_larger_limit_wakes_and_a_smaller_one_takes_nothing_away() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(10)
    async with asyncio.TaskGroup() as group:
        Waiter(budget, 10, group, log)
        await settle()
        budget.resize(20)
        await settle()
        assert log == [10]
        budget.resize(5)
        assert (budget.used, budget.limit) == (20, 5)
        assert not budget.try_acquire(1)
        budget.release(20)
        assert budget.try_acquire(5)


async def test_shrinking_refuses_those_who_could_never_go_on() -> None:
    budget, log = ByteBudget(10), list[int]()
    await budget.acquire(10)
    async with asyncio.TaskGroup() as group:
        large = asyncio.create_task(budget.acquire(9))
        gone = asyncio.create_task(budget.acquire(8))
        Waiter(budget, 3, group, log)
        await settle()
        gone.cancel()
        budget.resize(5)
        await asyncio.wait([large, gone])
        assert isinstance(large.exception(), ConfigError)
        assert gone.cancelled()
        budget.release(10)
    assert (log, budget.used, budget.waiting) == ([3], 3, 0)


async def test_refused_by_shrinking_and_cancelled_in_the_same_tick() -> None:
    budget = ByteBudget(10)
    await budget.acquire(10)
    task = asyncio.create_task(budget.acquire(9))
    await settle()
    budget.resize(5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (budget.used, budget.waiting) == (10, 0)


async def test_statistics() -> None:
    budget = ByteBudget(10)
    assert budget.statistics() == BudgetStatistics(10, 0, 0, 0, 0.0)
    await budget.acquire(10)
    task = asyncio.create_task(budget.acquire(1))
    await settle()
    assert budget.statistics().waiting == 1
    budget.release(10)
    await task
    found = budget.statistics()
    assert (found.used, found.peak, found.waiting) == (1, 10, 0)
    assert found.wait_seconds > 0
    assert repr(budget) == "<ByteBudget 1/10 bytes, 0 waiting>"


def test_misuse() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(3)
    with pytest.raises(ValueError, match="cannot give back 4 of the 3 bytes held"):
        budget.release(4)
    with pytest.raises(ValueError, match="cannot take -1"):
        budget.try_acquire(-1)
    with pytest.raises(ValueError, match="cannot give back -1"):
        budget.release(-1)
    for limit in (0, -5):
        with pytest.raises(ConfigError, match="positive number of bytes"):
            ByteBudget(limit)
        with pytest.raises(ConfigError):
            budget.resize(limit)
    assert budget.limit == 10
