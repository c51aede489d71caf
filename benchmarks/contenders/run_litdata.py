"""LitData, in its own environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize
from litdata.streaming import downloader
from litdata.streaming.cache import Dir

if TYPE_CHECKING:
    from benchmarks.contenders.common import Job, Source, collate, decode, main
else:
    sys.path.insert(0, str(Path(__file__).parent))
    from common import Job, Source, collate, decode, main

# It takes https only, and offers no option for the rest; the server here has no certificate.
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True


def prepare(job: Job) -> None:
    source = Source(job)
    optimize(
        source,
        inputs=list(range(len(source))),
        output_dir=job.data,
        chunk_bytes=job.chunk_bytes,
        num_workers=1,  # two would write two runs of chunks, and the row's data would differ
        start_method="fork",
        item_loader=TokensLoader() if job.kind == "tokens" else None,
        verbose=False,
    )


def dataset(job: Job) -> Any:
    remote = job.data.startswith("s3://")
    return StreamingDataset(
        Dir(path=job.cache, url=job.data) if remote else job.data,
        storage_options=job.storage_options if remote else {},
        shuffle=True,
        drop_last=False,
        item_loader=TokensLoader(block_size=job.block_size) if job.kind == "tokens" else None,
        transform=decode if job.decode else None,
    )


def loader(job: Job) -> Iterable[Any]:
    options: dict[str, Any] = {"batch_size": job.batch_size, "num_workers": job.num_workers}
    if job.kind == "jpegs" and not job.decode:
        options["collate_fn"] = collate  # its bytes are memoryviews
    made: Iterable[Any] = StreamingDataLoader(dataset(job), **options)
    return made


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    main(prepare=prepare, loader=loader, picker=picker)
