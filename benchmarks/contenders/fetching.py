"""What the contenders' scripts of fetching share: the ranges, the clock and the line of JSON.

    python fetch_NAME.py JOB.json

A script hands `main` one function, `fetch(job, ranges)`: it gets each range of `jpegs.bin` into a
buffer of its own, `job.connections` at a time. No torch here.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, borders_of, cpu_seconds, read_job
else:
    from job import Job, borders_of, cpu_seconds, read_job

Ranges = Sequence[tuple[int, int]]


def main(fetch: Callable[[Job, Ranges], int]) -> None:
    """Do the job named on the command line and print its result.

    Args:
        fetch: Fetches the ranges of the packed pictures and returns how many bytes came.
    """
    job = read_job()
    ranges = _ranges(job)
    cpu_before, start = cpu_seconds(), time.perf_counter()
    nbytes = fetch(job, ranges)
    seconds = time.perf_counter() - start
    if nbytes != ranges[-1][1]:
        raise ValueError(f"{nbytes:,} bytes came, of {ranges[-1][1]:,}")
    result = {
        "samples": len(ranges),
        "seconds": seconds,
        "cpu_s": cpu_seconds() - cpu_before,
        "nbytes": nbytes,
    }
    print(json.dumps(result), flush=True)


def _ranges(job: Job) -> list[tuple[int, int]]:
    """All bytes of the packed pictures: a range for each, or in ranges of one size."""
    borders = borders_of(job).tolist()
    if not job.range_bytes:
        return list(itertools.pairwise(borders))
    stop = borders[-1]
    return [(at, min(at + job.range_bytes, stop)) for at in range(0, stop, job.range_bytes)]
