"""aiolit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aiolit import StreamingDataLoader, StreamingDataset, StreamingRawDataset, TokensLoader

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, read_job
    from benchmarks.contenders.reading import decode, main
else:
    from job import Job, read_job
    from reading import decode, main


def dataset(job: Job) -> StreamingDataset:
    return StreamingDataset(
        job.data,
        cache_dir=job.cache if job.remote else None,
        cache="memory" if job.mode == "memory" else "disk",
        storage_options=job.storage_options if job.remote else None,
        shuffle=True,
        drop_last=False,
        subsample=job.share,
        item_loader=TokensLoader(block_size=job.block_size) if job.kind == "tokens" else None,
        transform=decode if job.decode else None,
    )


def files(job: Job) -> StreamingRawDataset:
    return StreamingRawDataset(
        job.data,
        cache_dir=job.cache,
        storage_options=job.storage_options if job.remote else None,
        shuffle=True,
        drop_last=False,
    )


def loader(job: Job) -> Iterable[Any]:
    data = files(job) if job.kind == "raw" else dataset(job)
    return StreamingDataLoader(data, batch_size=job.batch_size, num_workers=job.num_workers)


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    if job.mode == "together":
        return lambda indices: data[list(indices)]
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    if read_job().remote:  # imported on first use; here the clock starts after imports
        import aiolit.store.s3  # noqa: F401
    main(loader=loader, picker=picker)
