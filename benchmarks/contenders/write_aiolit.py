"""aiolit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiolit.store.s3  # noqa: F401  # imported on first use; here the clock starts after imports
from aiolit import TokensLoader, optimize

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source
    from benchmarks.contenders.writing import main
else:
    from job import Job, Source
    from writing import main


def write(job: Job) -> int:
    source = Source(job)
    summary = optimize(
        source,
        inputs=range(len(source)),
        output_dir=job.data,
        chunk_bytes=job.chunk_bytes,
        num_workers=job.num_workers,
        item_loader=TokensLoader() if job.kind == "tokens" else None,
        storage_options=job.storage_options if job.remote else None,
        verbose=False,
    )
    return summary.samples


if __name__ == "__main__":
    main(write)
