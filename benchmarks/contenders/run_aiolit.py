"""aiolit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiolit import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

if TYPE_CHECKING:
    from benchmarks.contenders.common import Job, Source, decode, main
else:
    sys.path.insert(0, str(Path(__file__).parent))
    from common import Job, Source, decode, main


def prepare(job: Job) -> None:
    source = Source(job)
    optimize(
        source,
        inputs=range(len(source)),
        output_dir=job.data,
        chunk_bytes=job.chunk_bytes,
        num_workers=2,
        item_loader=TokensLoader() if job.kind == "tokens" else None,
        verbose=False,
    )


def dataset(job: Job) -> StreamingDataset:
    remote = job.data.startswith("s3://")
    return StreamingDataset(
        job.data,
        cache_dir=job.cache if remote else None,
        storage_options=job.storage_options if remote else None,
        shuffle=True,
        drop_last=False,
        item_loader=TokensLoader(block_size=job.block_size) if job.kind == "tokens" else None,
        transform=decode if job.decode else None,
    )


def loader(job: Job) -> Iterable[Any]:
    return StreamingDataLoader(dataset(job), batch_size=job.batch_size, num_workers=job.num_workers)


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    if job.mode == "together":
        return lambda indices: data[list(indices)]
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    main(prepare=prepare, loader=loader, picker=picker)
