"""Results waiting for their turn, within bounds; runs handed out, and again after a death."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit.errors import ProducerError
from aiolit.processing.collector import Arrival, Collector
from aiolit.processing.protocol import Piece, PieceMeta, Remainder
from aiolit.processing.scheduler import RunScheduler
from aiolit.processing.sentinel import ALL_DONE
from aiolit.processing.sources import (
    AsyncQueueSource,
    AsyncSource,
    Batched,
    FeedSource,
    InputSource,
    Limited,
    SequenceSource,
    ThreadSource,
    Timed,
    pull_blocks,
)
from aiolit.processing.spool import Spool


def piece(run: int, text: bytes, *, ended: bool) -> tuple[Arrival, Piece]:
    """One sample for each byte of the text."""
    meta = PieceMeta(run, [len(text)], ended, ended, len(text), False, 0.0)
    sizes = np.ones(len(text), dtype=np.int64)
    made = Piece(meta, sizes, None, memoryview(bytearray(text)))
    return Arrival(run, meta, None, "a test"), made


class Kept:
    """A sink that keeps what comes."""

    def __init__(self) -> None:
        self.text = b""

    async def take(self, arrival: Arrival, made: Piece) -> None:
        assert len(made.sizes) == len(made.data) == arrival.meta.num_samples
        await asyncio.sleep(0)
        self.text += bytes(made.data)


async def collect(
    kept: Kept, spool: Spool, *, memory_bytes: int, spool_bytes: int = 1 << 30
) -> Collector:
    return Collector(
        kept.take, spool, ordered=True, memory_bytes=memory_bytes, spool_bytes=spool_bytes
    )


class TestCollector:
    @pytest.mark.parametrize("memory_bytes", [0, 40, 10_000], ids=["spool", "both", "memory"])
    async def test_order_wherever_it_waits(self, memory_bytes: int, tmp_path: Path) -> None:
        """Seven readers bring runs in any order, each in three pieces."""
        kept, spool = Kept(), Spool(str(tmp_path))
        collector = await collect(kept, spool, memory_bytes=memory_bytes)
        runs = [(n, bytes([65 + n]) * 3) for n in range(20)]

        async def reader(mine: Sequence[tuple[int, bytes]]) -> None:
            for run, text in mine:
                for position in range(3):
                    ended = position == 2
                    await collector.add(*piece(run, text[position : position + 1], ended=ended))

        async with asyncio.TaskGroup() as group:
            for first in range(7):
                group.create_task(reader(runs[6 - first :: 7]))
        assert kept.text == b"".join(text for _, text in runs)
        assert collector.peak_memory <= memory_bytes
        assert spool.used == 0
        assert (spool.peak > 0) == (memory_bytes < 10_000)
        await spool.close()
        assert not os.listdir(tmp_path)

    async def test_room_comes_back_when_the_next_run_goes_on(self, tmp_path: Path) -> None:
        kept, spool = Kept(), Spool(str(tmp_path))
        collector = await collect(kept, spool, memory_bytes=0, spool_bytes=20)
        await collector.add(*piece(1, b"b" * 10, ended=True))
        assert not collector.has_room
        await collector.room(lambda: True)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(collector.room(lambda: False))
            await asyncio.sleep(0)
            assert not waiting.done()
            await collector.add(*piece(0, b"a", ended=True))
        assert kept.text == b"a" + b"b" * 10
        await spool.close()

    async def test_a_failing_sink_fails_the_reader(self, tmp_path: Path) -> None:
        async def sink(arrival: Arrival, made: Piece) -> None:
            raise LookupError("full")

        collector = Collector(
            sink, Spool(str(tmp_path)), ordered=True, memory_bytes=100, spool_bytes=100
        )
        await collector.add(*piece(1, b"b", ended=True))
        with pytest.raises(LookupError, match="full"):
            await collector.add(*piece(0, b"a", ended=True))


async def test_a_spool_that_many_begin_at_once(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(spool.put(run, [memoryview(b"%d" % run)])) for run in range(20)]
    assert len(os.listdir(tmp_path)) == 1
    for run, put in enumerate(puts):
        assert bytes(await spool.take(put.result())) == b"%d" % run
    await spool.close()
    assert not os.listdir(tmp_path)


class Ones:
    """Runs of one size."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def next_size(self) -> int:
        return self.size

    def finished(self, num_inputs: int, seconds: float) -> None:
        return


class TestScheduler:
    async def test_a_run_of_a_dead_worker_comes_first_and_nobody_leaves_early(self) -> None:
        scheduler = RunScheduler(SequenceSource("abcdef"), Ones(2))
        async with asyncio.TaskGroup() as group:
            group.create_task(scheduler.pump())
            first = await scheduler.next_run()
            second = await scheduler.next_run()
            assert first is not None
            assert second is not None
            await scheduler.give_back(first, Remainder(1, 5), blamed=True)
            again = await scheduler.next_run()
            assert again is not None
            assert (again.number, again.first, list(again.inputs)) == (0, 1, ["b"])
            assert (again.skip, again.attempt) == (5, 1)
            third = await scheduler.next_run()
            assert third is not None
            waiting = group.create_task(scheduler.next_run())
            await scheduler.completed(second, 0.0)
            await scheduler.completed(third, 0.0)
            await asyncio.sleep(0)
            assert not waiting.done()
            await scheduler.give_back(again, Remainder(0, 2), blamed=False)
            once_more = await waiting
            assert once_more is not None
            assert (once_more.skip, once_more.attempt) == (7, 1)
            last = group.create_task(scheduler.next_run())
            await scheduler.completed(once_more, 0.0)
            assert await last is None
        assert scheduler.num_inputs == 6

    async def test_a_source_is_not_read_ahead_of_the_workers(self) -> None:
        taken = []

        async def source() -> AsyncIterator[int]:
            for i in itertools.count():
                taken.append(i)
                yield i

        scheduler = RunScheduler(AsyncSource(source()), Ones())
        async with asyncio.TaskGroup() as group:
            pump = group.create_task(scheduler.pump())
            for _ in range(3):
                await scheduler.next_run()
            for _ in range(20):
                await asyncio.sleep(0)
            pump.cancel()
        assert taken == [0, 1, 2]


async def drain(source: InputSource, most: int = 3) -> list[Any]:
    found: list[Any] = []
    while block := await source.take(most):
        assert len(block) <= most
        found.extend(block)
    await source.close()
    return found


class TestSources:
    @pytest.mark.parametrize("items", [list(range(10)), tuple(range(10)), range(10)])
    async def test_sequences(self, items: Sequence[int]) -> None:
        assert await drain(SequenceSource(items)) == list(range(10))

    async def test_limited_and_batched(self) -> None:
        assert await drain(Limited(SequenceSource(range(10)), 7)) == list(range(7))
        assert await drain(Batched(SequenceSource(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
        assert Batched(SequenceSource(range(7)), 3).total == 3
        assert await drain(Batched(ThreadSource(iter([[1], [2, 3]])), 2)) == [[1, 2], [3]]

    async def test_a_queue_of_the_loop(self) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for item in (1, "ALL_DONE", 2, 3, 4, ALL_DONE, 5):
            queue.put_nowait(item)
        assert await drain(AsyncQueueSource(queue)) == [1, "ALL_DONE", 2, 3, 4]
        assert queue.qsize() == 1

    async def test_a_feed_waits_for_its_taker(self) -> None:
        feed = FeedSource()

        async def bring() -> None:
            for start in range(0, 10, 5):
                assert await feed.put(range(start, start + 5))
            await feed.end()

        async with asyncio.TaskGroup() as group:
            group.create_task(bring())
            assert await drain(feed) == list(range(10))
        assert not await feed.put([1])

    async def test_silence(self) -> None:
        with pytest.raises(ProducerError, match=r"0\.01 seconds"):
            await drain(Timed(FeedSource(), 0.01))

    async def test_an_async_iterable_is_closed(self) -> None:
        closed = []

        async def source() -> AsyncIterator[int]:
            try:
                for i in range(10):
                    yield i
            finally:
                closed.append(True)

        made = AsyncSource(source())
        assert await made.take(5) == [0]
        await made.close()
        assert closed == [True]


def test_blocks_are_cut_by_time() -> None:
    now = itertools.count(0, 0.005)
    blocks = list(pull_blocks(range(10), clock=lambda: next(now)))
    assert list(itertools.chain.from_iterable(blocks)) == list(range(10))
    assert len(blocks) == 3
