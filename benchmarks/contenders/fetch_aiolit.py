"""aiolit's store layer: signed requests, retries, each body into its own buffer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiolit.store.s3  # noqa: F401  # imported on first use; here the clock starts after imports
from aiolit.runtime.portal import portal
from aiolit.store.connect import open_store

if TYPE_CHECKING:
    from benchmarks.contenders.fetching import Ranges, main
    from benchmarks.contenders.job import Job
else:
    from fetching import main
    from job import Job


async def fetch_ranges(job: Job, ranges: Ranges) -> int:
    turns, nbytes = iter(ranges), 0

    async def some() -> None:
        nonlocal nbytes
        for start, stop in turns:
            out = bytearray(stop - start)
            await store.read_into("jpegs.bin", start, memoryview(out))
            nbytes += len(out)

    store = open_store(job.data, storage_options=job.storage_options)
    async with store, asyncio.TaskGroup() as group:
        for _ in range(job.connections):
            group.create_task(some())
    return nbytes


def fetch(job: Job, ranges: Ranges) -> int:
    return portal().call(fetch_ranges, job, ranges)


if __name__ == "__main__":
    main(fetch)
