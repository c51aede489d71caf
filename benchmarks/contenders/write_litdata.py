"""LitData, in its own environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litdata import TokensLoader, optimize
from litdata.streaming import downloader

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source
    from benchmarks.contenders.writing import main
else:
    from job import Job, Source
    from writing import main

# It takes https only, and offers no option for the rest; the server here has no certificate.
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True


def write(job: Job) -> int:
    source = Source(job)
    optimize(
        source,
        inputs=list(range(len(source))),
        output_dir=job.data,
        chunk_bytes=job.chunk_bytes,
        num_workers=job.num_workers,
        start_method="fork",
        item_loader=TokensLoader() if job.kind == "tokens" else None,
        storage_options=job.storage_options if job.remote else {},
        verbose=False,
    )
    return len(source)  # it does not say; the check counts


if __name__ == "__main__":
    main(write)
