"""Random schedules against the promises of the prefetch and its budget.

Whatever fails, returns early, times out or is cancelled, and in whatever order the fetches end:
results come in plan order, the limit holds at every step, the first error arrives as itself, and
nothing is left.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.prefetch import Hold, open_prefetch


@dataclass(frozen=True)
class Item:
    at: int
    nbytes: int


class FetchError(OSError):
    """A fetch that was told to fail."""


class BodyError(Exception):
    """The consumer's own error."""


@dataclass(frozen=True)
class Consumer:
    """One consumer's part of a schedule.

    Attributes:
        sizes: Bytes of its items, in order.
        failing: The items whose fetch fails.
        stop: After how many results it returns, or None.
        error: After how many results its body raises, or None.
        cancel: After how many ticks it is cancelled, or None.
        hold: How many results' bytes it keeps at once.
    """

    sizes: list[int]
    failing: frozenset[int]
    stop: int | None
    error: int | None
    cancel: int | None
    hold: int


LIMIT = 100
maybe = st.none() | st.integers(0, 12)
consumers = st.builds(
    Consumer,
    # Held bytes and one item more fit the consumer's own budget, or it would wait for itself.
    sizes=st.lists(st.integers(0, 25), max_size=15),
    failing=st.frozensets(st.integers(0, 60), max_size=2),
    stop=maybe,
    error=maybe,
    cancel=st.none() | st.integers(0, 80),
    hold=st.integers(0, 3),
)


class Run:
    """A schedule under way; every await is a random number of turns of the loop."""

    def __init__(self, seed: int, max_ahead: int) -> None:
        self.random = random.Random(seed)
        self.max_ahead = max_ahead
        self.running = 0

    async def turns(self) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)

    async def consume(self, plan: Consumer, budget: ByteBudget, got: list[int]) -> None:
        held: list[Hold] = []

        async def fetch(item: Item) -> int:
            self.running += 1
            try:
                await self.turns()
                assert budget.used <= budget.limit
                if item.at in plan.failing:
                    raise FetchError(item.at)
                await self.turns()
                return item.at
            finally:
                self.running -= 1

        items = (Item(at, nbytes) for at, nbytes in enumerate(plan.sizes))
        try:
            async with open_prefetch(items, fetch, budget, max_ahead=self.max_ahead) as stream:
                async for result in stream:
                    got.append(result)
                    if plan.hold:
                        held.append(stream.hold())
                    while len(held) > max(plan.hold - 1, 0):
                        held.pop(0).release()
                    await self.turns()
                    if len(got) == plan.stop:
                        return
                    if len(got) == plan.error:
                        raise BodyError
        finally:
            for hold in held:
                hold.release()

    async def cancelled_later(self, task: asyncio.Task[None], ticks: int | None) -> None:
        if ticks is not None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()


async def schedule(seed: int, max_ahead: int, plans: list[Consumer]) -> None:
    run = Run(seed, max_ahead)
    before = asyncio.all_tasks()
    budgets = [ByteBudget(LIMIT) for _ in plans]
    got: list[list[int]] = [[] for _ in plans]
    async with asyncio.timeout(20):
        tasks = [
            asyncio.create_task(run.consume(*parts))
            for parts in zip(plans, budgets, got, strict=True)
        ]
        cancels = [
            asyncio.create_task(run.cancelled_later(task, plan.cancel))
            for task, plan in zip(tasks, plans, strict=True)
        ]
        if tasks:
            await asyncio.wait([*tasks, *cancels])
    assert asyncio.all_tasks() == before
    assert run.running == 0
    for task, plan, budget, results in zip(tasks, plans, budgets, got, strict=True):
        check(task, plan, budget, results)


def check(task: asyncio.Task[None], plan: Consumer, budget: ByteBudget, results: list[int]) -> None:
    assert (budget.used, budget.waiting) == (0, 0)
    assert budget.peak <= LIMIT
    assert results == list(range(len(results)))
    assert not plan.failing.intersection(results)
    if task.cancelled():
        assert plan.cancel is not None
        return
    error = task.exception()
    if isinstance(error, BaseExceptionGroup):  # two of them failed in the same turn
        errors = error.exceptions
    else:
        errors = (error,) if error is not None else ()
    for each in errors:
        assert isinstance(each, FetchError | BodyError)
        if isinstance(each, BodyError):
            assert len(results) == plan.error
        else:
            assert plan.failing.intersection(range(len(plan.sizes)))
    if not errors and plan.stop != len(results):
        assert len(results) == len(plan.sizes)


@given(
    seed=st.integers(0, 2**32),
    max_ahead=st.integers(1, 20),
    plans=st.lists(consumers, min_size=1, max_size=3),
)
def test_random_schedules(seed: int, max_ahead: int, plans: list[Consumer]) -> None:
    asyncio.run(schedule(seed, max_ahead, plans))


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 60), max_size=20))
def test_consumers_that_never_stop_share_one_budget(seed: int, sizes: list[int]) -> None:
    """Each in a task of its own, they cannot block each other."""

    async def share() -> None:
        run = Run(seed, 8)
        budget = ByteBudget(LIMIT)
        plan = Consumer(sizes, frozenset(), None, None, None, 0)
        got: list[list[int]] = [[], [], []]
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for results in got:
                group.create_task(run.consume(plan, budget, results))
        assert got == [list(range(len(sizes)))] * 3
        assert (budget.used, budget.waiting) == (0, 0)
        assert budget.peak <= LIMIT

    asyncio.run(share())
