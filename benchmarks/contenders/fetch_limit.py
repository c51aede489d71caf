"""Bare GETs with aiohttp: each body into its own buffer. `mode` "uvloop" has another event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from benchmarks.contenders.fetching import Ranges, main
    from benchmarks.contenders.job import Job
else:
    from fetching import main
    from job import Job


async def fetch_ranges(job: Job, ranges: Ranges) -> int:
    where, turns, nbytes = job.url("jpegs.bin"), iter(ranges), 0

    async def some() -> None:
        nonlocal nbytes
        for start, stop in turns:
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            out, at = bytearray(stop - start), 0
            async with client.get(where, headers=headers) as response:
                response.raise_for_status()
                async for piece in response.content.iter_any():
                    out[at : at + len(piece)] = piece
                    at += len(piece)
            nbytes += at

    connector = aiohttp.TCPConnector(limit=job.connections)
    client = aiohttp.ClientSession(connector=connector, read_bufsize=2**20)
    async with client, asyncio.TaskGroup() as group:
        for _ in range(job.connections):
            group.create_task(some())
    return nbytes


def fetch(job: Job, ranges: Ranges) -> int:
    if job.mode == "uvloop":
        import uvloop  # only where it is asked for

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(fetch_ranges(job, ranges))
    return asyncio.run(fetch_ranges(job, ranges))


if __name__ == "__main__":
    main(fetch)
