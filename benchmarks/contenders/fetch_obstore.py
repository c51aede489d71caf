"""Bare GETs with obstore's async client (Rust), in its own environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

if TYPE_CHECKING:
    from benchmarks.contenders.fetching import Ranges, main
    from benchmarks.contenders.job import Job
else:
    from fetching import main
    from job import Job


async def fetch_ranges(job: Job, ranges: Ranges) -> int:
    bucket, _, folder = job.data.removeprefix("s3://").partition("/")
    options = job.storage_options
    store = S3Store(
        bucket,
        prefix=folder,
        endpoint=options["endpoint_url"],
        access_key_id=options["aws_access_key_id"],
        secret_access_key=options["aws_secret_access_key"],
        region=options["region_name"],
        client_options={"allow_http": True, "pool_max_idle_per_host": str(job.connections)},
    )
    turns, nbytes = iter(ranges), 0

    async def some() -> None:
        nonlocal nbytes
        for start, stop in turns:
            body = await obstore.get_range_async(store, "jpegs.bin", start=start, end=stop)
            nbytes += len(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(job.connections):
            group.create_task(some())
    return nbytes


def fetch(job: Job, ranges: Ranges) -> int:
    return asyncio.run(fetch_ranges(job, ranges))


if __name__ == "__main__":
    main(fetch)
