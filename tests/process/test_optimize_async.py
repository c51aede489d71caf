"""Async functions, async callers, queues of every kind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue as thread_queue
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from aiolit.errors import ConfigError, ProducerError, SchemaError
from aiolit.processing import async_functions as aio
from aiolit.processing.async_functions import Writer
from aiolit.processing.async_functions import optimize as async_optimize
from aiolit.processing.functions import optimize
from aiolit.processing.sentinel import ALL_DONE
from aiolit.testing.datasets import read_dataset


def workers() -> list[str]:
    """Return the names of this process's workers; multiprocessing keeps children of its own."""
    names = [child.name() for child in psutil.Process().children()]
    return [name for name in names if name.startswith("aiolit-worker")]


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.*"))


async def late_first(index: int) -> int:
    """The earlier the input, the longer it takes: everything ends in the wrong order."""
    for _ in range(20 - index % 20):
        await asyncio.sleep(0)
    return index


async def triple(index: int) -> AsyncIterator[tuple[int, int]]:
    for k in range(index % 4):
        await asyncio.sleep(0)
        yield index, k


class TestAsyncFunctions:
    @pytest.mark.parametrize("num_workers", [1, 2])
    @pytest.mark.parametrize("concurrency", [1, 5, 64])
    def test_order_is_kept(self, num_workers: int, concurrency: int, tmp_path: Path) -> None:
        optimize(
            late_first,
            range(300),
            tmp_path / "out",
            chunk_size=50,
            num_workers=num_workers,
            concurrency=concurrency,
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == list(range(300))

    def test_async_generators(self, tmp_path: Path) -> None:
        optimize(triple, range(50), tmp_path / "out", chunk_size=9, num_workers=2, verbose=False)
        assert read_dataset(tmp_path / "out") == [(i, k) for i in range(50) for k in range(i % 4)]

    def test_so_many_are_in_flight_and_no_more(self, tmp_path: Path) -> None:
        """All items of a worker wait for each other, which only `concurrency` at once can do."""

        class Meet:
            def __init__(self, size: int) -> None:
                self.size = size
                self.here = 0
                self.all_here: asyncio.Event | None = None

            async def __call__(self, index: int) -> int:
                self.all_here = self.all_here or asyncio.Event()
                self.here += 1
                if self.here == self.size:
                    self.all_here.set()
                assert self.here <= self.size
                await self.all_here.wait()
                self.here -= 1
                return index

        optimize(
            Meet(16),
            range(160),
            tmp_path / "out",
            chunk_size=50,
            num_workers=1,
            concurrency=16,
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == list(range(160))

    @pytest.mark.parametrize("concurrency", [256, 7, 1])
    def test_so_many_stay_in_flight(self, concurrency: int, tmp_path: Path) -> None:
        """An item ends only when the last of those that fit beside it has begun.

        So the job ends at all only if a new item begins whenever one has ended: with 100 ms an
        item, a worker does ten times ``concurrency`` items a second.
        """
        count = 5 * concurrency

        class Window:
            def __init__(self) -> None:
                self.begun = self.here = self.most = 0
                self.changed: asyncio.Condition | None = None

            async def __call__(self, index: int) -> int:
                changed = self.changed = self.changed or asyncio.Condition()
                self.begun += 1
                self.here += 1
                self.most = max(self.most, self.here)
                last = min(self.begun + concurrency - 1, count)
                async with changed:
                    changed.notify_all()
                    await changed.wait_for(lambda: self.begun >= last)
                self.here -= 1
                return self.most

        optimize(
            Window(),
            range(count),
            tmp_path / "out",
            chunk_size=500,
            num_workers=1,
            concurrency=concurrency,
            verbose=False,
        )
        assert max(read_dataset(tmp_path / "out")) == concurrency

    @pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError, TimeoutError])
    def test_a_failure_names_its_input(self, error: type[BaseException], tmp_path: Path) -> None:
        async def fails(index: int) -> int:
            await asyncio.sleep(0)
            if index == 30:
                raise error("boom")
            return index

        expected = error if issubclass(error, Exception) else Exception
        with pytest.raises(expected) as caught:
            optimize(
                fails, range(100), tmp_path / "out", chunk_size=5, num_workers=2, verbose=False
            )
        assert "while working on input 30: 30" in "".join(caught.value.__notes__)
        assert files(tmp_path) == []

    def test_skip(self, tmp_path: Path) -> None:
        async def fails(index: int) -> int:
            await asyncio.sleep(0)
            return 12 // (index % 3)

        summary = optimize(
            fails,
            range(9),
            tmp_path / "out",
            chunk_size=5,
            num_workers=1,
            on_error="skip",
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == [12, 6] * 3
        assert [skipped.index for skipped in summary.skipped] == [0, 3, 6]

    def test_a_killed_worker_is_replaced(self, tmp_path: Path) -> None:
        mark = tmp_path / "died"

        async def dies(index: int) -> int:
            await asyncio.sleep(0)
            if index == 90 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return index

        optimize(
            dies,
            range(200),
            tmp_path / "out",
            chunk_size=5,
            num_workers=2,
            max_retries=1,
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == list(range(200))

    def test_an_awaitable_of_a_plain_function_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="async def"):
            optimize(
                lambda i: late_first(i),
                range(3),
                tmp_path / "out",
                chunk_size=5,
                num_workers=1,
                verbose=False,
            )


class TestAsyncCallers:
    async def test_optimize(self, tmp_path: Path) -> None:
        async def source() -> AsyncIterator[int]:
            for i in range(30):
                await asyncio.sleep(0)
                yield i

        for name, inputs in {"async": source(), "list": range(30), "sync": iter(range(30))}.items():
            summary = await async_optimize(
                lambda i: i * 2,
                inputs,
                tmp_path / name,
                chunk_size=7,
                num_workers=1,
                verbose=False,
            )
            assert summary.samples == 30
            assert read_dataset(tmp_path / name) == [i * 2 for i in range(30)]

    async def test_a_queue_of_the_loop(self, tmp_path: Path) -> None:
        inputs: asyncio.Queue[Any] = asyncio.Queue(maxsize=3)

        async def produce() -> None:
            for word in ["a", "ALL_DONE", "b"]:
                await inputs.put(word)
            await inputs.put(ALL_DONE)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            await async_optimize(
                lambda text: text,
                inputs,
                tmp_path / "out",
                chunk_size=7,
                num_workers=2,
                verbose=False,
            )
        assert read_dataset(tmp_path / "out") == ["a", "ALL_DONE", "b"]

    async def test_silence_has_a_limit(self, tmp_path: Path) -> None:
        inputs: asyncio.Queue[Any] = asyncio.Queue()
        inputs.put_nowait(1)
        with pytest.raises(ProducerError, match=r"0\.2 seconds"):
            await async_optimize(
                lambda i: i,
                inputs,
                tmp_path / "out",
                chunk_size=7,
                num_workers=1,
                timeout=0.2,
                verbose=False,
            )

    async def test_cancelling_ends_the_job(self, tmp_path: Path) -> None:
        inputs: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        async with asyncio.TaskGroup() as group:
            job = group.create_task(
                async_optimize(
                    lambda i: i,
                    inputs,
                    tmp_path / "out",
                    chunk_size=2,
                    num_workers=2,
                    verbose=False,
                )
            )
            for i in range(100):
                await inputs.put(i)
            job.cancel()
        assert workers() == []
        assert files(tmp_path) == []

    async def test_errors_pass_unchanged(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            await async_optimize(
                lambda i: 1 // i,
                [1, 0],
                tmp_path / "out",
                chunk_size=7,
                num_workers=1,
                verbose=False,
            )

    async def test_map_merge_walk(self, tmp_path: Path) -> None:
        def number(index: int, output_dir: str) -> None:
            Path(output_dir, f"{index}.txt").write_text(f"{index}")

        made = await aio.map(number, range(5), tmp_path / "map", num_workers=1, verbose=False)
        assert len(made.files) == 5
        for name in "ab":
            async with aio.Writer(tmp_path / name, chunk_size=4) as writer:
                for i in range(6):
                    await writer.put(i)
        merged = await aio.merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
        assert merged.samples == 12
        assert read_dataset(tmp_path / "ab") == [*range(6), *range(6)]
        async with aio.walk(tmp_path) as entries:
            found = {Path(folder).name: names async for folder, _, names in entries}
        assert found["map"] == [f"{i}.txt" for i in range(5)]


class TestWriter:
    async def test_samples_in_the_order_of_the_calls(self, tmp_path: Path) -> None:
        async with Writer(tmp_path / "out", chunk_bytes="100KB") as writer:
            for i in range(5000):
                await writer.put({"i": i, "a": np.full(i % 30, i)})
        samples = read_dataset(tmp_path / "out")
        assert [sample["i"] for sample in samples] == list(range(5000))
        assert samples[29]["a"].tolist() == [29] * 29
        assert writer.summary.samples == 5000
        assert writer.summary.chunks > 3

    async def test_many_tasks(self, tmp_path: Path) -> None:
        async with Writer(tmp_path / "out", chunk_size=100) as writer:

            async def produce(first: int) -> None:
                for i in range(first, first + 500):
                    await writer.put(i)
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as group:
                for first in range(0, 5000, 500):
                    group.create_task(produce(first))
        assert sorted(read_dataset(tmp_path / "out")) == list(range(5000))

    async def test_append(self, tmp_path: Path) -> None:
        for first in (0, 10):
            async with Writer(tmp_path / "out", chunk_size=4, mode="append") as writer:
                for i in range(first, first + 10):
                    await writer.put(i)
        assert read_dataset(tmp_path / "out") == list(range(20))

    async def test_append_with_keys_in_another_order(self, tmp_path: Path) -> None:
        for sample in ({"a": 1, "b": "x"}, {"b": "y", "a": 2}):
            async with Writer(tmp_path / "out", chunk_size=4, mode="append") as writer:
                await writer.put(sample)
        assert read_dataset(tmp_path / "out") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]

    async def test_an_error_writes_nothing(self, tmp_path: Path) -> None:
        async def interrupted() -> None:
            async with Writer(tmp_path / "out", chunk_size=10) as writer:
                for i in range(5000):
                    await writer.put(i)
                raise LookupError

        with pytest.raises(LookupError):
            await interrupted()
        assert files(tmp_path) == []

    async def test_a_sample_that_does_not_fit_is_not_taken(self, tmp_path: Path) -> None:
        async with Writer(tmp_path / "out", chunk_size=10) as writer:
            await writer.put({"a": 1})
            with pytest.raises(SchemaError, match="a"):
                await writer.put({"a": "text"})
            await writer.put({"a": 2})
        assert read_dataset(tmp_path / "out") == [{"a": 1}, {"a": 2}]

    async def test_outside_the_block(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path / "out", chunk_size=10)
        with pytest.raises(ConfigError, match="async with"):
            await writer.put(1)
        with pytest.raises(ConfigError, match="summary"):
            _ = writer.summary


def produce_numbers(queue: Any) -> None:
    for i in range(50):
        queue.put((i, i**2))
    queue.put(ALL_DONE)


def produce_and_die(queue: Any) -> None:
    for i in range(20):
        queue.put((i, i**2))
    queue.close()
    queue.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def produce_and_forget(queue: Any) -> None:
    queue.put((0, 0))


class TestQueues:
    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_a_queue_of_every_start_method(self, method: str, tmp_path: Path) -> None:
        context: Any = multiprocessing.get_context(method)
        queue = context.Queue(maxsize=10)
        producer = context.Process(target=produce_numbers, args=(queue,))
        producer.start()
        optimize(
            lambda pair: pair,
            queue=queue,
            output_dir=tmp_path / "out",
            chunk_size=10,
            num_workers=2,
            verbose=False,
        )
        producer.join()
        queue.close()
        assert read_dataset(tmp_path / "out") == [(i, i**2) for i in range(50)]

    @pytest.mark.parametrize("produce", [produce_and_die, produce_and_forget])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_a_producer_that_ends_without_the_mark(
        self, produce: Callable[[Any], None], ordered: bool, tmp_path: Path
    ) -> None:
        context: Any = multiprocessing.get_context("fork")
        queue = context.Queue()
        producer = context.Process(target=produce, args=(queue,))
        producer.start()
        with pytest.raises(ProducerError, match="without putting ALL_DONE"):
            optimize(
                lambda pair: pair,
                queue=queue,
                output_dir=tmp_path / "out",
                chunk_size=10,
                num_workers=2,
                keep_data_ordered=ordered,
                verbose=False,
            )
        producer.join()
        queue.close()
        assert files(tmp_path) == []

    def test_a_producer_in_this_process(self, tmp_path: Path) -> None:
        queue: Any = multiprocessing.get_context("spawn").Queue()
        producer = threading.Thread(target=produce_numbers, args=(queue,))
        producer.start()
        optimize(
            lambda pair: pair,
            inputs=queue,
            output_dir=tmp_path / "out",
            chunk_size=10,
            num_workers=1,
            verbose=False,
        )
        producer.join()
        queue.close()
        queue.join_thread()
        assert len(read_dataset(tmp_path / "out")) == 50

    def test_a_queue_of_threads(self, tmp_path: Path) -> None:
        queue: thread_queue.Queue[Any] = thread_queue.Queue(maxsize=5)
        producer = threading.Thread(target=produce_numbers, args=(queue,))
        producer.start()
        optimize(
            lambda pair: pair,
            queue=queue,
            output_dir=tmp_path / "out",
            chunk_size=10,
            num_workers=1,
            verbose=False,
        )
        producer.join()
        assert len(read_dataset(tmp_path / "out")) == 50

    def test_a_silent_queue_of_threads(self, tmp_path: Path) -> None:
        with pytest.raises(ProducerError, match="ALL_DONE"):
            optimize(
                lambda pair: pair,
                queue=thread_queue.Queue(),
                output_dir=tmp_path / "out",
                chunk_size=10,
                timeout=0.1,
                verbose=False,
            )

    def test_an_asyncio_queue_needs_the_loop(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"aiolit\.aio\.optimize"):
            optimize(lambda pair: pair, queue=asyncio.Queue(), output_dir=tmp_path, chunk_size=10)
