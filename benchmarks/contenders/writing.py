"""What the contenders' scripts of writing share: the clock, and the one line of JSON they print.

    python write_NAME.py JOB.json

A script hands `main` one function, `write(job)`. Imports are done when the clock starts. No torch
here: nobody needs it to write bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, cpu_seconds, marks_of, read_job
else:
    from job import Job, cpu_seconds, marks_of, read_job


def main(write: Callable[[Job], int]) -> None:
    """Do the job named on the command line and print its result.

    Args:
        write: Writes the data set and returns how many samples it holds.
    """
    job = read_job()
    cpu_before, start = cpu_seconds(), time.perf_counter()
    samples = write(job)
    seconds = time.perf_counter() - start
    marks = [float(path.read_text()) for path in marks_of(job).glob("*")]
    result = {
        "samples": samples,
        "seconds": seconds,
        # Until the first sample was asked for, in any of the processes.
        "startup_s": min(marks, default=start) - start,
        "cpu_s": cpu_seconds() - cpu_before,
    }
    print(json.dumps(result), flush=True)
