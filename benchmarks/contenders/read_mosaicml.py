"""MosaicML streaming, in its own environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import boto3  # noqa: F401  # imported on first use; here the clock starts after imports
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job
    from benchmarks.contenders.mosaicml_streaming import (
        StreamingDataset,
        clean_stale_shared_memory,
    )
    from benchmarks.contenders.reading import decode, main
else:
    from job import Job
    from mosaicml_streaming import StreamingDataset, clean_stale_shared_memory
    from reading import decode, main


class Decoded(StreamingDataset):  # type: ignore[misc]
    """Pictures decoded where they are read."""

    def __getitem__(self, index: int) -> Any:
        return decode(super().__getitem__(index))


class Blocks(StreamingDataset):  # type: ignore[misc]
    """Blocks of tokens, without the dict around them."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)["tokens"]


def dataset(job: Job) -> Any:
    clean_stale_shared_memory()
    kind = Decoded if job.decode else Blocks if job.kind == "tokens" else StreamingDataset
    return kind(
        remote=job.data if job.remote else None,
        local=job.cache if job.remote else job.data,
        shuffle=True,
        batch_size=job.batch_size,
    )


def loader(job: Job) -> Iterable[Any]:
    made: Iterable[Any] = DataLoader(
        dataset(job), batch_size=job.batch_size, num_workers=job.num_workers
    )
    return made


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    main(loader=loader, picker=picker)
