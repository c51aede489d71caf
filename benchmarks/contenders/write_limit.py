"""What the machine and the network allow: the same bytes with nothing of a library around them.

`mode`: "copy" is what `cp` does; "puts" sends the bytes in objects of a chunk's size, four at a
time; "fn" makes every sample, in this process alone, and drops it; "interpreters" starts as many
bare interpreters as there are workers, which import what aiolit's worker and the function need.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source, nbytes_of, packed_of
    from benchmarks.contenders.writing import main
else:
    from job import Job, Source, nbytes_of, packed_of
    from writing import main

COPY_BYTES = 256 * 1024
PIECE_BYTES = 1024 * 1024
PUTS = 4
WORKER = "import aiolit.processing.worker_main, aiolit.runtime.worker_entry, job"


def write(job: Job) -> int:
    count = len(Source(job))
    if job.mode == "interpreters":
        interpreters(job.num_workers)
    elif job.mode == "fn":
        source = Source(job)
        for index in range(count):
            source(index)
    elif job.mode == "puts":
        asyncio.run(put(job, count))
    else:
        copy(job, count)
    return count


def chunks(job: Job, count: int) -> Iterator[list[tuple[int, int]]]:
    """The bytes of the inputs in chunks: spans of the packed file, one or more for each."""
    whole, left = packed_of(job).stat().st_size, nbytes_of(job, count)
    at, spans, room = 0, [], job.chunk_bytes
    while left:
        size = min(whole - at, left, room)
        spans.append((at, at + size))
        at, left, room = (at + size) % whole, left - size, room - size
        if not room or not left:
            yield spans
            spans, room = [], job.chunk_bytes


def copy(job: Job, count: int) -> None:
    """Copy through a buffer, as `cp` does where the file system cannot share blocks."""
    Path(job.data).mkdir(parents=True)
    buffer = memoryview(bytearray(COPY_BYTES))
    with packed_of(job).open("rb", buffering=0) as source:
        for number, spans in enumerate(chunks(job, count)):
            with Path(job.data, f"{number}.bin").open("wb", buffering=0) as out:
                for start, stop in spans:
                    source.seek(start)
                    while start < stop:
                        got = source.readinto(buffer[: stop - start]) or 0
                        out.write(buffer[:got])
                        start += got


async def put(job: Job, count: int) -> None:
    """Send each chunk with one PUT, at most so many at a time."""
    data = np.memmap(packed_of(job), dtype=np.uint8, mode="r")
    turns = asyncio.Semaphore(PUTS)

    async def pieces(spans: list[tuple[int, int]]) -> AsyncIterator[bytes]:
        for start, stop in spans:
            for at in range(start, stop, PIECE_BYTES):
                yield data[at : min(at + PIECE_BYTES, stop)].tobytes()

    async def one(number: int, spans: list[tuple[int, int]]) -> None:
        size = {"Content-Length": str(sum(stop - start for start, stop in spans))}
        where = job.url(f"{number}.bin")
        async with turns, client.put(where, data=pieces(spans), headers=size) as response:
            response.raise_for_status()

    async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as group:
        for number, spans in enumerate(chunks(job, count)):
            group.create_task(one(number, spans))


def interpreters(count: int) -> None:
    """Start interpreters at the same time, and wait until they have imported and ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER]
    started = [subprocess.Popen(command, env=environment) for _ in range(count)]
    if failed := [process.args for process in started if process.wait()]:
        raise RuntimeError(f"an interpreter failed: {failed}")


if __name__ == "__main__":
    main(write)
