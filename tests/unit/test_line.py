"""The line that requests wait in: bounded, by priority, and left by whoever is cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiolit.plan.link import LinkModel
from aiolit.runtime.line import Line


class Visit:
    """A request that holds its place until it is told to leave."""

    def __init__(self, line: Line, priority: int, log: list[int]) -> None:
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(line, priority, log))

    async def _visit(self, line: Line, priority: int, log: list[int]) -> None:
        async with line.place(priority) as request:
            log.append(priority)
            await self._leave.wait()
            request.progressed(100)

    async def end(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_lowest_number_goes_first() -> None:
    line, log = Line(LinkModel(limit=1)), list[int]()
    first = Visit(line, 9, log)
    await settle()
    others = {number: Visit(line, number, log) for number in (5, 3, 4, 1, 2)}
    await settle()
    assert (log, line.busy, line.waiting) == ([9], 1, 5)
    await first.end()
    for number in (1, 2, 3, 4, 5):
        await settle()
        assert log[-1] == number
        await others[number].end()
    assert (line.busy, line.waiting) == (0, 0)


async def test_equal_ones_go_as_they_came() -> None:
    line, log = Line(LinkModel(limit=1)), list[int]()
    async with line.place(0):
        order = list[int]()

        async def visit(number: int) -> None:
            async with line.place(7):
                order.append(number)

        tasks = [asyncio.create_task(visit(number)) for number in range(10)]
        await settle()
        assert log == order == []
    for task in tasks:
        await task
    assert order == list(range(10))


async def test_the_bound_is_reached_and_kept_whoever_is_cancelled() -> None:
    chance, log = random.Random(7), list[int]()
    line = Line(LinkModel(limit=4))
    visits = [Visit(line, chance.randrange(5), log) for _ in range(60)]
    peak = 0
    for visit in chance.sample(visits, len(visits)):
        await settle()
        assert line.busy <= 4
        peak = max(peak, line.busy)
        if chance.random() < 0.5:
            visit.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await visit.task
        else:
            visit._leave.set()
    for visit in visits:
        await asyncio.wait([visit.task])
    assert (peak, line.busy, line.waiting) == (4, 0, 0)


async def test_a_place_given_to_one_that_is_just_cancelled_goes_on() -> None:
    line, log = Line(LinkModel(limit=1)), list[int]()
    first, second, third = (Visit(line, number, log) for number in (1, 2, 3))
    await settle()
    first._leave.set()
    await first.task  # the second has been let in and has not run yet
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    await settle()
    assert log[-1] == 3
    await third.end()
    assert (line.busy, line.waiting) == (0, 0)


async def test_a_higher_limit_lets_those_who_wait_in() -> None:
    model, log = LinkModel(limit=1), list[int]()
    line = Line(model)
    visits = [Visit(line, number, log) for number in range(5)]
    await settle()
    assert log == [0]
    model.limit = 3
    await visits[0].end()
    await settle()
    assert log == [0, 1, 2, 3]
    model.limit = 1
    await visits[1].end()
    await settle()
    assert log == [0, 1, 2, 3]
    for visit in visits[2:]:
        await visit.end()
    assert log == [0, 1, 2, 3, 4]


async def test_an_error_gives_the_place_back_and_teaches_nothing() -> None:
    model = LinkModel()
    line = Line(model)

    async def fail() -> None:
        async with line.place(0) as request:
            request.progressed(5)
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await fail()
    assert line.busy == 0
    assert model == LinkModel()
