"""Fetching items ahead: order, bounds kept, failures in their place, nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.runs import Ints
from aiolit.raw.window import ItemWindow
from aiolit.runtime.budget import ByteBudget


@dataclass
class Shelf:
    """Gives each item its number, when its gate opens; counts what is under way."""

    gated: bool = False
    broken: frozenset[int] = frozenset()
    begun: list[int] = field(default_factory=list)
    running: int = 0
    gates: dict[int, asyncio.Event] = field(default_factory=dict)

    async def fetch(self, item: int) -> int:
        self.begun.append(item)
        self.running += 1
        try:
            if self.gated:
                await self.gates.setdefault(item, asyncio.Event()).wait()
            else:
                await asyncio.sleep(0)
            if item in self.broken:
                raise OSError(f"item {item}")
            return item
        finally:
            self.running -= 1


def lanes_of(*lanes: list[int]) -> list[Ints]:
    return [np.array(lane, np.int64) for lane in lanes]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(
    shelf: Shelf, lanes: list[Ints], nbytes: list[int], budget: ByteBudget, most: int = 100
) -> AsyncIterator[ItemWindow]:
    window = ItemWindow(shelf.fetch, lanes, np.array(nbytes, np.int64), budget, most)
    task = asyncio.create_task(window.run())
    try:
        yield window
    finally:
        await window.stop()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert budget.used == 0
    assert shelf.running == 0


async def test_items_come_in_order_and_are_fetched_ahead() -> None:
    shelf, budget = Shelf(), ByteBudget(100)
    async with opened(shelf, lanes_of([3, 1, 2], [0, 4]), [10] * 5, budget) as window:
        await settle()
        assert shelf.begun == [3, 0, 1, 4, 2]
        assert await window.take(0, 2) == [3, 1]
        assert await window.take(1, 2) == [0, 4]
        assert await window.take(0, 1) == [2]
        assert await window.take(0, 0) == []


async def test_the_budget_and_the_count_bound_what_is_ahead() -> None:
    budget = ByteBudget(35)
    shelf = Shelf()
    async with opened(shelf, lanes_of(list(range(10))), [10] * 10, budget) as window:
        await settle()
        assert shelf.begun == [0, 1, 2]
        assert await window.take(0, 1) == [0]
        await settle()
        assert shelf.begun == [0, 1, 2, 3]
    shelf = Shelf()
    async with opened(shelf, lanes_of(list(range(10))), [1] * 10, budget, most=2):
        await settle()
        assert shelf.begun == [0, 1]


async def test_an_item_larger_than_the_budget_comes_all_the_same() -> None:
    budget = ByteBudget(10)
    shelf = Shelf()
    async with opened(shelf, lanes_of([0, 1, 2]), [1000, 1000, 1000], budget) as window:
        assert await window.take(0, 3) == [0, 1, 2]


async def test_what_is_asked_for_does_not_wait_for_room() -> None:
    shelf, budget = Shelf(gated=True), ByteBudget(10)
    async with opened(shelf, lanes_of([0, 1], [2, 3]), [10] * 4, budget) as window:
        await settle()
        assert shelf.begun == [0]
        taking = asyncio.create_task(window.take(1, 2))
        await settle()
        assert shelf.begun == [0, 2, 3]
        shelf.gates[3].set()
        shelf.gates[2].set()
        assert await taking == [2, 3]


async def test_a_failure_waits_for_its_turn() -> None:
    shelf, budget = Shelf(broken=frozenset({2})), ByteBudget(100)
    async with opened(shelf, lanes_of([0, 1, 2, 3], [4]), [1] * 5, budget) as window:
        await settle()
        assert await window.take(0, 2) == [0, 1]
        with pytest.raises(OSError, match="item 2"):
            await window.take(0, 2)
        assert await window.take(1, 1) == [4]


async def test_many_items_are_fetched_by_few_workers_and_what_is_waited_for_goes_first() -> None:
    shelf, budget = Shelf(gated=True), ByteBudget(1000)
    lanes = lanes_of(list(range(100)), list(range(100, 200)))
    async with opened(shelf, lanes, [10] * 200, budget, most=100) as window:
        await settle()
        assert shelf.running == 64
        begun = len(shelf.begun)
        taking = asyncio.create_task(window.take(0, 60))  # the last ten are not even queued
        await settle()
        assert len(shelf.begun) == begun
        for item in list(shelf.begun[:12]):
            shelf.gates[item].set()
        await settle()
        assert shelf.running == 64
        assert shelf.begun[begun : begun + 10] == list(range(50, 60))
        for item in range(60):
            shelf.gates.setdefault(item, asyncio.Event()).set()
        assert await taking == list(range(60))


async def test_a_reader_that_still_waits_at_the_end_is_let_go() -> None:
    shelf, budget = Shelf(gated=True), ByteBudget(100)
    async with opened(shelf, lanes_of(list(range(100))), [1] * 100, budget) as window:
        taking = asyncio.create_task(window.take(0, 80))  # more than are under way
        await settle()
    with pytest.raises(asyncio.CancelledError):
        await taking


async def test_leaving_while_all_is_under_way_leaves_nothing() -> None:
    shelf, budget = Shelf(gated=True), ByteBudget(100)
    async with opened(shelf, lanes_of(list(range(50))), [1] * 50, budget) as window:
        taking = asyncio.create_task(window.take(0, 3))
        await settle()
        assert shelf.running == 50
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    limit=st.integers(1, 60),
    most=st.integers(1, 10),
    data=st.data(),
)
async def test_any_order_of_taking_gives_each_lane_in_order(
    sizes: list[int], cuts: list[int], limit: int, most: int, data: Any
) -> None:
    edges = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    lanes = [list(range(lo, hi)) for lo, hi in pairwise(edges)]
    shelf, budget = Shelf(), ByteBudget(limit)
    found: list[list[int]] = [[] for _ in lanes]
    async with opened(shelf, lanes_of(*lanes), sizes, budget, most) as window:
        while found != lanes:
            lane = data.draw(
                st.sampled_from([n for n in range(len(lanes)) if found[n] != lanes[n]])
            )
            count = data.draw(st.integers(1, len(lanes[lane]) - len(found[lane])))
            found[lane] += await window.take(lane, count)
            assert budget.used <= limit
            assert shelf.running <= most
    assert sorted(shelf.begun) == list(range(len(sizes)))


async def test_fetches_that_fail_as_they_are_cancelled_are_the_last() -> None:
    """A task group in a fetch may let its failure leave in the cancellation's place."""

    class Failing(Shelf):
        async def fetch(self, item: int) -> int:
            try:
                return await super().fetch(item)
            except asyncio.CancelledError:
                self.gated = False
                raise OSError(f"item {item}") from None

    shelf, budget = Failing(gated=True), ByteBudget(10_000)
    async with opened(shelf, lanes_of(list(range(100))), [10] * 100, budget):
        await settle()
        begun = len(shelf.begun)
        assert 0 < begun < 100
    assert len(shelf.begun) == begun
