"""The data set on the caller's own loop: the same samples, and nothing left when it is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit.errors import ChecksumError, ConfigError, DatasetNotFoundError
from aiolit.streaming.async_dataset import AsyncStreamingDataset
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset

COUNT = 203


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": np.random.default_rng(number).bytes(1000)}


def numbers(samples: Any) -> list[int]:
    return [one["n"] for one in samples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [sample(number) for number in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("set"), samples, chunk_size=10)


@pytest.fixture(params=["direct", "cached", "no room"])
def arguments(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> dict[str, Any]:
    prefix = "" if request.param == "direct" else "local:"
    limit = 1 if request.param == "no room" else "1GB"
    return {
        "input_dir": f"{prefix}{folder}",
        "cache_dir": tmp_path / "cache",
        "max_cache_size": limit,
        "shuffle": True,
    }


async def test_the_order_is_that_of_the_thread(arguments: dict[str, Any]) -> None:
    plain = StreamingDataset(**arguments)
    epochs = [await asyncio.to_thread(numbers, plain) for _ in range(2)]
    async with AsyncStreamingDataset(**arguments) as dataset:
        assert dataset.num_samples == len(dataset) == COUNT
        for expected in epochs:
            assert [one["n"] async for one in dataset] == expected


@pytest.mark.parametrize("drop_last", [True, False])
async def test_batches_are_those_of_a_loader(arguments: dict[str, Any], drop_last: bool) -> None:
    arguments |= {"rank": 1, "world_size": 2, "drop_last": drop_last}
    loader = StreamingDataLoader(StreamingDataset(**arguments), batch_size=8, collate_fn=numbers)
    expected = await asyncio.to_thread(list, loader)
    async with AsyncStreamingDataset(**arguments) as dataset:
        assert [batch async for batch in dataset.batches(8, collate_fn=numbers)] == expected
    assert len(expected) == (12 if drop_last else 13)


async def test_random_access(arguments: dict[str, Any]) -> None:
    async with AsyncStreamingDataset(**arguments) as dataset:
        assert await dataset.get(17) == sample(17)
        assert await dataset.get(-1) == sample(COUNT - 1)
        chosen = [5, 200, 5, 61]
        assert await dataset.get_many(chosen) == [sample(n) for n in chosen]
        assert await dataset.get_many([]) == []
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(dataset.get(n)) for n in range(COUNT)]
        assert numbers(task.result() for task in tasks) == list(range(COUNT))
        with pytest.raises(IndexError, match="index 203 is out of range: 203 samples"):
            await dataset.get(COUNT)


async def test_transforms(arguments: dict[str, Any]) -> None:
    arguments["transform"] = [lambda one: one["n"], lambda n: -n]
    async with AsyncStreamingDataset(**arguments) as dataset:
        assert await dataset.get(3) == -3
        assert sorted([-n async for n in dataset]) == list(range(COUNT))


async def test_two_iterations_at_once(arguments: dict[str, Any]) -> None:
    async def drain(stream: AsyncIterator[Any]) -> list[int]:
        return [one["n"] async for one in stream]

    async with AsyncStreamingDataset(**arguments) as dataset:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(drain(aiter(dataset))) for _ in range(3)]
        epochs = [task.result() for task in tasks]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


# ---- left early: the checks of every test look for what stays open -----------------------------


async def test_a_break(arguments: dict[str, Any]) -> None:
    async with AsyncStreamingDataset(**arguments) as dataset:
        for wanted in (1, 20, 100):
            read = 0
            async for _ in dataset:
                read += 1
                if read == wanted:
                    break
        async with aclosing(dataset.batches(4)) as stream:  # type: ignore[type-var]
            await anext(stream)
        assert len([one async for one in dataset]) == COUNT


async def test_an_error_in_the_body_leaves_alone(arguments: dict[str, Any]) -> None:
    error = ValueError("the user's own")

    async def read() -> None:
        async with AsyncStreamingDataset(**arguments) as dataset:
            async for _ in dataset:
                raise error

    with pytest.raises(ValueError, match="the user's own") as caught:
        await read()
    assert caught.value is error


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_cancelled_in_an_iteration(arguments: dict[str, Any], steps: int) -> None:
    async def read() -> None:
        async with AsyncStreamingDataset(**arguments) as dataset:
            async for _ in dataset.batches(16):
                await asyncio.sleep(0)

    task = asyncio.create_task(read())
    for _ in range(steps):
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


async def test_damage_is_told_to_the_one_who_reads_it(folder: Path, tmp_path: Path) -> None:
    bad = write_dataset(tmp_path / "bad", [sample(n) for n in range(50)], chunk_size=10)
    path = bad / "chunk-0-2.bin"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    async with AsyncStreamingDataset(f"local:{bad}", cache_dir=tmp_path / "cache") as dataset:
        with pytest.raises(ChecksumError, match=r"chunk-0-2\.bin"):
            async for _ in dataset:
                pass
        assert numbers(await dataset.get_many([0, 49, 19])) == [0, 49, 19]


async def test_used_before_it_is_opened_or_after(folder: Path, tmp_path: Path) -> None:
    dataset = AsyncStreamingDataset(folder)
    with pytest.raises(ConfigError, match="open the data set first: async with"):
        await dataset.get(0)
    async with dataset:
        assert numbers([await dataset.get(0)]) == [0]
    with pytest.raises(ConfigError, match="open the data set first"):
        len(dataset)
    with pytest.raises(DatasetNotFoundError):
        async with AsyncStreamingDataset(tmp_path / "nothing"):
            pass
