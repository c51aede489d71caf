"""What the machine and the network allow: the same work with nothing of a library around it.

On a disk: the packed source file, mapped. From S3: bare GETs with aiohttp, sixteen at a time.

`mode`: "gets" fetches the bytes and drops them, without a loader; "" is a pipeline of the same
under torch's DataLoader; "batch" makes one GET for each sample of one batch and collates it;
"together" fetches the samples of one call at the same time.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source, borders_of, raw_name
    from benchmarks.contenders.reading import collate, decode, main
else:
    from job import Job, Source, borders_of, raw_name
    from reading import collate, decode, main

SEED = 42


def session(job: Job) -> aiohttp.ClientSession:
    """Open a session, on the running loop."""
    connector = aiohttp.TCPConnector(limit=job.connections)
    return aiohttp.ClientSession(connector=connector, read_bufsize=2**20)


async def fetch(client: aiohttp.ClientSession, where: str, start: int, out: memoryview) -> None:
    """Receive `len(out)` bytes from `start` on."""
    headers = {"Range": f"bytes={start}-{start + len(out) - 1}"}
    async with client.get(where, headers=headers) as response:
        response.raise_for_status()
        at = 0
        async for piece in response.content.iter_any():
            out[at : at + len(piece)] = piece
            at += len(piece)
    assert at == len(out)


async def fetch_all(client: aiohttp.ClientSession, job: Job, start: int, stop: int) -> bytearray:
    """Receive a range in parts, as many at a time as there are connections."""
    data, where = bytearray(stop - start), job.url("jpegs.bin")
    async with asyncio.TaskGroup() as group:
        for at in range(start, stop, job.range_bytes):
            part = memoryview(data)[at - start : min(at + job.range_bytes, stop) - start]
            group.create_task(fetch(client, where, at, part))
    return data


async def fetch_borders(client: aiohttp.ClientSession, job: Job) -> np.ndarray[Any, Any]:
    async with client.get(job.url("jpegs.npy")) as response:
        response.raise_for_status()
        borders: np.ndarray[Any, Any] = np.load(io.BytesIO(await response.read()))
        return borders


def runs_of(borders: np.ndarray[Any, Any], job: Job) -> list[tuple[int, int]]:
    """Runs of samples about as long as a chunk, in the epoch's order, of this worker."""
    ends = np.arange(1, int(borders[-1]) // job.chunk_bytes + 1) * job.chunk_bytes
    cuts = [0, *np.searchsorted(borders, ends).tolist(), len(borders) - 1]
    runs = [(a, b) for a, b in itertools.pairwise(cuts) if b > a]
    info = get_worker_info()
    if info is not None:  # equal shares, cut where they fall
        count = len(borders) - 1
        low, high = (count * w // info.num_workers for w in (info.id, info.id + 1))
        runs = [(max(a, low), min(b, high)) for a, b in runs if max(a, low) < min(b, high)]
    return [runs[i] for i in np.random.default_rng(SEED).permutation(len(runs))]


class MappedPictures(IterableDataset[Any]):
    """Pictures of a mapped file, a run after the other, shuffled within each."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[Any]:
        source = Source(self.job)
        borders = borders_of(self.job)
        for first, last in runs_of(borders, self.job):
            order = np.random.default_rng(first).permutation(last - first) + first
            for i in order.tolist():
                sample = source(i)
                yield decode(sample) if self.job.decode else sample


class FetchedPictures(IterableDataset[Any]):
    """The same from S3: a loop in a thread keeps two runs ahead of the one that is read."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[Any]:
        ready: queue.Queue[Any] = queue.Queue(maxsize=1)
        thread = threading.Thread(target=lambda: asyncio.run(self._fetch(ready)), daemon=True)
        thread.start()
        while (run := ready.get()) is not None:
            first, borders, data = run
            for i in np.random.default_rng(first).permutation(len(borders) - 1).tolist():
                start, stop = (int(border - borders[0]) for border in borders[i : i + 2])
                yield {"image": bytes(data[start:stop]), "id": first + i}
        thread.join()

    async def _fetch(self, ready: queue.Queue[Any]) -> None:
        async with session(self.job) as client, asyncio.TaskGroup() as group:
            borders = await fetch_borders(client, self.job)
            tasks: list[Any] = []
            runs = runs_of(borders, self.job)
            for n in range(len(runs) + 1):
                if n < len(runs):
                    low, high = (int(borders[i]) for i in runs[n])
                    tasks.append(group.create_task(fetch_all(client, self.job, low, high)))
                if n > 0:
                    first, last = runs[n - 1]
                    done = first, borders[first : last + 1], memoryview(await tasks[n - 1])
                    tasks[n - 1] = None
                    await asyncio.to_thread(ready.put, done)
        ready.put(None)


def records(job: Job) -> Iterator[dict[str, torch.Tensor]]:
    """Batches gathered by numpy from the mapped array."""
    data = np.load(Path(job.source, "records.npy"), mmap_mode="r")
    order = np.random.default_rng(SEED).permutation(len(data))
    for at in range(0, len(order), job.batch_size):
        batch = data[order[at : at + job.batch_size]]
        yield {name: torch.from_numpy(batch[name].copy()) for name in ("id", "value")}


def tokens(job: Job) -> Iterator[torch.Tensor]:
    """Batches of blocks, copied from the mapped file."""
    data = np.memmap(Path(job.source, "tokens.bin"), dtype=np.int32, mode="r")
    blocks = data[: len(data) // job.block_size * job.block_size].reshape(-1, job.block_size)
    order = np.random.default_rng(SEED).permutation(len(blocks))
    for at in range(0, len(order), job.batch_size):
        yield torch.from_numpy(blocks[order[at : at + job.batch_size]])


def gets(job: Job) -> Iterator[dict[str, torch.Tensor]]:
    """All bytes, fetched in ranges and dropped."""

    async def everything() -> int:
        async with session(job) as client:
            borders, where = await fetch_borders(client, job), job.url("jpegs.bin")
            stop, step = int(borders[-1]), job.connections * job.range_bytes

            async def every(nth: int) -> None:
                out = memoryview(bytearray(job.range_bytes))
                for at in range(nth * job.range_bytes, stop, step):
                    await fetch(client, where, at, out[: min(job.range_bytes, stop - at)])

            async with asyncio.TaskGroup() as group:
                for nth in range(job.connections):
                    group.create_task(every(nth))
            return len(borders) - 1

    yield {"id": torch.arange(asyncio.run(everything()))}


def files(job: Job) -> Iterator[list[range]]:
    """All files, one GET each; for the bodies, which are dropped, ranges of their lengths."""

    async def everything() -> list[range]:
        async with session(job) as client:
            turns = iter(range(job.samples()))
            found: list[range] = []

            async def some() -> None:
                for number in turns:
                    async with client.get(job.url(raw_name(number))) as response:
                        response.raise_for_status()
                        found.append(range(len(await response.read())))

            async with asyncio.TaskGroup() as group:
                for _ in range(job.connections):
                    group.create_task(some())
            return found

    yield asyncio.run(everything())


def batch(job: Job) -> Iterator[dict[str, Any]]:
    """One batch of samples from anywhere, one GET each."""

    async def everything() -> list[dict[str, Any]]:
        async with session(job) as client:
            borders = await fetch_borders(client, job)
            picks = np.random.default_rng(SEED).choice(len(borders) - 1, job.batch_size)

            async def one(number: int) -> dict[str, Any]:
                low, high = int(borders[number]), int(borders[number + 1])
                return {"image": await fetch_all(client, job, low, high), "id": number}

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number)) for number in picks.tolist()]
            return [task.result() for task in tasks]

    yield collate(asyncio.run(everything()))


def loader(job: Job) -> Iterable[Any]:
    if job.kind == "raw":
        return files(job)
    if job.mode == "gets":
        return gets(job)
    if job.mode == "batch":
        return batch(job)
    if job.kind == "records":
        return records(job)
    if job.kind == "tokens":
        return tokens(job)
    data: IterableDataset[Any] = FetchedPictures(job) if job.remote else MappedPictures(job)
    return DataLoader(data, batch_size=job.batch_size, num_workers=job.num_workers)


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    if not job.remote:
        source = Source(job)
        return lambda indices: [source(index) for index in indices]
    return Pictures(job)


class Pictures:
    """Pictures by number: one GET each for whoever knows where they lie."""

    def __init__(self, job: Job) -> None:
        self._job, self._borders = job, borders_of(job)
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None

    def __call__(self, indices: Sequence[int]) -> Sequence[Any]:
        return self._runner.run(self._fetch(indices))

    async def _fetch(self, indices: Sequence[int]) -> Sequence[Any]:
        client = self._session = self._session or session(self._job)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._fetch_one(client, i)) for i in indices]
        return [task.result() for task in tasks]

    async def _fetch_one(self, client: aiohttp.ClientSession, index: int) -> Any:
        low, high = int(self._borders[index]), int(self._borders[index + 1])
        image = await fetch_all(client, self._job, low, high)
        return {"image": bytes(image), "id": index}


if __name__ == "__main__":
    main(loader=loader, picker=picker)
