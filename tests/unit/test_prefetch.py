"""Prefetch: order, bounds, failures, cancellation, early exit, leftovers."""

# ruff: noqa: PT012 - what raises is the leaving of a block
from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from aiolit.errors import ConfigError
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.prefetch import PrefetchStream, open_prefetch


@dataclass(frozen=True)
class Item:
    at: int
    nbytes: int = 10


def items(count: int, nbytes: int = 10) -> list[Item]:
    return [Item(at, nbytes) for at in range(count)]


async def settle() -> None:
    """Let every task go as far as it can without outside help."""
    for _ in range(20):
        await asyncio.sleep(0)


class Source:
    """Fetches that wait until they are told to go on, or fail."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[int] = []
        self.gates: dict[int, asyncio.Future[None]] = {}

    async def fetch(self, item: Item) -> str:
        gate = self.gates.setdefault(item.at, asyncio.get_running_loop().create_future())
        self.started.append(item.at)
        try:
            await gate
        finally:
            self.ended.append(item.at)
        return f"result {item.at}"

    def open(self, *numbers: int) -> None:
        for at in numbers:
            if not self.gates[at].done():
                self.gates[at].set_result(None)

    def fail(self, at: int, error: Exception) -> None:
        self.gates[at].set_exception(error)

    @property
    def running(self) -> list[int]:
        return sorted(set(self.started) - set(self.ended))


async def instantly(item: Item) -> int:
    return item.at


@asynccontextmanager
async def checked(budget: ByteBudget, source: Source) -> AsyncIterator[None]:
    """Check that whatever happens inside, nothing is left."""
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        assert budget.used == 0
        assert budget.waiting == 0
        assert budget.peak <= budget.limit
        assert source.running == []
        assert asyncio.all_tasks() == before


async def test_plan_order_whatever_the_order_of_arrival() -> None:
    budget, source = ByteBudget(100), Source()
    async with checked(budget, source), open_prefetch(items(6), source.fetch, budget) as stream:
        await settle()
        source.open(5, 3, 1)
        await settle()
        source.open(4, 2, 0)
        assert [result async for result in stream] == [f"result {at}" for at in range(6)]


async def test_as_many_bytes_as_the_budget_allows_and_no_more() -> None:
    budget, source = ByteBudget(35), Source()
    async with checked(budget, source), open_prefetch(items(10), source.fetch, budget) as stream:
        await settle()
        assert source.started == [0, 1, 2]
        source.open(0, 1, 2)
        await anext(stream)
        await settle()
        # The first result's bytes are still the consumer's.
        assert source.started == [0, 1, 2]
        await anext(stream)
        await settle()
        assert source.started == [0, 1, 2, 3]
        assert budget.used == 30


async def test_the_count_ahead_is_bounded_too() -> None:
    budget, source = ByteBudget(10**9), Source()
    endless = (Item(at, 0) for at in itertools.count())
    async with (
        checked(budget, source),
        open_prefetch(endless, source.fetch, budget, max_ahead=4) as stream,
    ):
        await settle()
        assert source.started == [0, 1, 2, 3]
        source.open(0)
        assert await anext(stream) == "result 0"
        await settle()
        assert source.started == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("max_ahead", [0, -1])
async def test_max_ahead_below_one_is_refused(max_ahead: int) -> None:
    with pytest.raises(ValueError, match="max_ahead"):
        async with open_prefetch(items(1), instantly, ByteBudget(10), max_ahead=max_ahead):
            pass


async def test_an_empty_plan() -> None:
    budget = ByteBudget(10)
    nothing: list[Item] = []
    async with open_prefetch(nothing, instantly, budget) as stream:
        assert [result async for result in stream] == []
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_the_last_bytes_are_given_back_at_the_end_of_the_plan() -> None:
    budget = ByteBudget(10)
    async with open_prefetch(items(3), instantly, budget) as stream:
        assert [result async for result in stream] == [0, 1, 2]
        assert budget.used == 0


async def test_an_item_larger_than_the_budget_is_an_error_at_once() -> None:
    budget, source = ByteBudget(25), Source()
    with pytest.raises(ConfigError, match="can never hold"):
        async with (
            checked(budget, source),
            open_prefetch([Item(0), Item(1, 26)], source.fetch, budget) as stream,
        ):
            async for _ in stream:
                pass


async def test_a_failed_fetch_reaches_the_waiting_consumer_as_itself() -> None:
    budget, source = ByteBudget(100), Source()
    error = OSError("sibling")
    with pytest.raises(OSError, match="sibling") as caught:
        async with checked(budget, source), open_prefetch(items(5), source.fetch, budget) as stream:
            await settle()
            source.fail(3, error)
            await anext(stream)
    assert caught.value is error


async def test_a_failed_fetch_reaches_a_body_that_is_busy_elsewhere() -> None:
    budget, source = ByteBudget(100), Source()
    with pytest.raises(OSError, match="sibling"):
        async with checked(budget, source), open_prefetch(items(5), source.fetch, budget) as stream:
            await settle()
            source.open(0)
            await anext(stream)
            source.fail(2, OSError("sibling"))
            await asyncio.Event().wait()


async def test_a_failure_seen_by_the_body_and_the_group_is_one_error() -> None:
    budget, source = ByteBudget(100), Source()
    with pytest.raises(OSError, match="only one"):
        async with checked(budget, source), open_prefetch(items(2), source.fetch, budget) as stream:
            await settle()
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            source.fail(0, OSError("only one"))
            await turn  # the fetch has failed, and its task group has not noticed yet
            await anext(stream)


async def test_a_failing_plan_is_the_error() -> None:
    def plan() -> Iterator[Item]:
        yield Item(0)
        raise LookupError("no plan")

    budget, source = ByteBudget(100), Source()
    with pytest.raises(LookupError, match="no plan"):
        async with checked(budget, source), open_prefetch(plan(), source.fetch, budget) as stream:
            await anext(stream)


async def test_a_fetch_that_fails_before_it_awaits() -> None:
    async def refuse(item: Item) -> int:
        raise KeyError(item.at)

    budget, source = ByteBudget(100), Source()
    with pytest.raises(KeyError):
        async with checked(budget, source), open_prefetch(items(3), refuse, budget) as stream:
            await anext(stream)


async def test_the_body_s_own_error_stays_alone() -> None:
    class Stubborn(Source):
        async def fetch(self, item: Item) -> str:
            try:
                return await super().fetch(item)
            except asyncio.CancelledError as error:
                raise OSError("a client that turns cancellation into its own error") from error

    budget, source = ByteBudget(100), Stubborn()
    with pytest.raises(ValueError, match="the body's"):
        async with checked(budget, source), open_prefetch(items(5), source.fetch, budget):
            await settle()
            raise ValueError("the body's")


async def test_two_failures_stay_a_group() -> None:
    budget, source = ByteBudget(100), Source()
    with pytest.raises(ExceptionGroup) as caught:
        async with checked(budget, source), open_prefetch(items(2), source.fetch, budget):
            await settle()
            source.fail(0, OSError("one"))
            source.fail(1, OSError("two"))
            await asyncio.Event().wait()
    assert sorted(str(error) for error in caught.value.exceptions) == ["one", "two"]


async def test_early_exit_cancels_and_gives_back() -> None:
    budget, source = ByteBudget(50), Source()
    async with checked(budget, source), open_prefetch(items(20), source.fetch, budget) as stream:
        await settle()
        source.open(0, 1)
        async for result in stream:
            if result == "result 1":
                break
        await settle()
        assert source.running


@pytest.mark.parametrize("opened", range(4))
@pytest.mark.parametrize("ticks", range(12))
async def test_cancelled_at_every_moment(opened: int, ticks: int) -> None:
    budget, source = ByteBudget(30), Source()

    async def consume() -> None:
        async with open_prefetch(items(8), source.fetch, budget) as stream:
            await settle()
            source.open(*range(min(opened, 3)))
            async for _ in stream:
                await asyncio.sleep(0)

    async with checked(budget, source):
        task = asyncio.create_task(consume())
        for _ in range(ticks * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_wait_that_timed_out_loses_nothing() -> None:
    budget, source = ByteBudget(30), Source()
    async with checked(budget, source), open_prefetch(items(3), source.fetch, budget) as stream:
        for at in range(3):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await anext(stream)
            await settle()
            source.open(at)
            assert await anext(stream) == f"result {at}"


async def test_a_second_waiter_is_refused() -> None:
    budget, source = ByteBudget(30), Source()
    async with checked(budget, source), open_prefetch(items(3), source.fetch, budget) as stream:
        first = asyncio.create_task(take(stream))
        await settle()
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        source.open(0)
        assert await first == "result 0"


async def take(stream: PrefetchStream[Item, str]) -> str:
    return await anext(stream)


async def test_advanced_in_another_task_it_gets_the_real_error() -> None:
    """The owner, not the consumer, is the one that the task group cancels."""
    budget, source = ByteBudget(100), Source()
    error = OSError("real")
    async with checked(budget, source):
        opened: asyncio.Queue[PrefetchStream[Item, str]] = asyncio.Queue()

        async def own() -> None:
            async with open_prefetch(items(5), source.fetch, budget) as stream:
                opened.put_nowait(stream)
                await asyncio.Event().wait()

        owner = asyncio.create_task(own())
        stream = await opened.get()
        consumer = asyncio.create_task(take(stream))
        await settle()
        source.fail(4, error)
        await asyncio.wait([owner, consumer])
        assert consumer.exception() is error
        assert owner.exception() is error
        with pytest.raises(OSError, match="real"):
            await anext(stream)


async def test_advanced_in_another_task_while_the_owner_leaves() -> None:
    budget, source = ByteBudget(100), Source()
    async with checked(budget, source):
        async with open_prefetch(items(1), source.fetch, budget) as stream:
            consumer = asyncio.create_task(take(stream))
            await settle()
        await asyncio.wait([consumer])
        with pytest.raises(RuntimeError, match="has been left"):
            await consumer


async def test_after_the_block_it_refuses() -> None:
    async with open_prefetch(items(3), instantly, ByteBudget(100)) as stream:
        pass
    with pytest.raises(RuntimeError, match="has been left"):
        await anext(stream)


async def test_a_fetch_cancelled_by_somebody_else_is_an_error() -> None:
    async def cancelled(item: Item) -> int:
        raise asyncio.CancelledError

    budget, source = ByteBudget(100), Source()
    with pytest.raises(RuntimeError, match="cancelled from outside"):
        async with checked(budget, source), open_prefetch(items(2), cancelled, budget) as stream:
            await anext(stream)


async def test_bytes_can_be_held_beyond_the_next_result() -> None:
    budget = ByteBudget(30)
    async with open_prefetch(items(5), instantly, budget) as stream:
        assert await anext(stream) == 0
        first = stream.hold()
        with pytest.raises(RuntimeError, match="no latest result"):
            stream.hold()
        assert await anext(stream) == 1
        with stream.hold() as second:
            assert second.nbytes == 10
            assert await anext(stream) == 2
            assert budget.used == 30
        first.release()
        first.release()
        await settle()
        assert budget.peak == 30
    assert budget.used == 0


async def test_held_bytes_outlive_the_block() -> None:
    budget = ByteBudget(30)
    async with open_prefetch(items(5), instantly, budget) as stream:
        await anext(stream)
        kept = stream.hold()
    assert budget.used == 10
    kept.release()
    assert budget.used == 0


async def test_results_nobody_got_are_discarded() -> None:
    budget, dropped = ByteBudget(100), list[int]()
    async with open_prefetch(items(5), instantly, budget, discard=dropped.append) as stream:
        await settle()
        assert await anext(stream) == 0
        assert await anext(stream) == 1
    assert dropped == [2, 3, 4]


async def test_unfinished_and_failed_fetches_are_not_discarded() -> None:
    budget, source, dropped = ByteBudget(100), Source(), list[str]()
    with pytest.raises(OSError):
        async with open_prefetch(items(3), source.fetch, budget, discard=dropped.append):
            await settle()
            source.open(1)
            await settle()
            source.fail(0, OSError())
            await asyncio.Event().wait()
    assert dropped == ["result 1"]


async def test_statistics_tell_who_waits() -> None:
    budget, source = ByteBudget(20), Source()
    async with checked(budget, source), open_prefetch(items(4), source.fetch, budget) as stream:
        waiting = asyncio.create_task(take(stream))
        await settle()
        source.open(0)
        await waiting
        await settle()
        found = stream.statistics()
        assert (found.delivered, found.ahead) == (1, 1)
        assert found.wait_seconds > 0
        source.open(1)
        await anext(stream)
        await settle()
        assert stream.statistics().budget_wait_seconds > 0


async def test_streams_share_a_budget() -> None:
    budget = ByteBudget(40)

    async def consume(count: int) -> list[int]:
        async with open_prefetch(items(count), instantly, budget) as stream:
            return [result async for result in stream]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(consume(count)) for count in (5, 30, 17)]
    assert [task.result() for task in tasks] == [list(range(count)) for count in (5, 30, 17)]
    assert budget.used == 0
    assert budget.peak <= 40
