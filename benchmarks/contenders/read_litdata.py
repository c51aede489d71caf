"""LitData, in its own environment. `mode` "ahead" lets it fetch more ahead than by default."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3  # noqa: F401  # imported on first use, as obstore is; the clock starts after imports
import obstore  # noqa: F401
from litdata import StreamingDataLoader, StreamingDataset, StreamingRawDataset, TokensLoader
from litdata.streaming import downloader
from litdata.streaming.cache import Dir
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job
    from benchmarks.contenders.reading import collate, decode, main
else:
    from job import Job
    from reading import collate, decode, main

# It takes https only, and offers no option for the rest; the server here has no certificate.
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True


def dataset(job: Job) -> Any:
    return StreamingDataset(
        Dir(path=job.cache, url=job.data) if job.remote else job.data,
        storage_options=job.storage_options if job.remote else {},
        shuffle=True,
        drop_last=False,
        item_loader=TokensLoader(block_size=job.block_size) if job.kind == "tokens" else None,
        transform=decode if job.decode else None,
        max_pre_download=16 if job.mode == "ahead" else 2,
    )


def files(job: Job) -> Any:
    """The raw files. It would fetch the list of them with s3fs; here the list is there before."""
    buckets, bucket_path = Path(job.source).parent.parent, job.data.removeprefix("s3://")
    folder = Path(job.cache, hashlib.md5(job.data.encode()).hexdigest())
    folder.mkdir()
    shutil.copy(buckets / bucket_path / "index.json.zstd", folder)
    ahead = {"max_prefetch": 128, "max_concurrent_downloads": 128} if job.mode == "ahead" else {}
    return StreamingRawDataset(
        job.data, cache_dir=job.cache, storage_options=job.storage_options, **ahead
    )


def loader(job: Job) -> Iterable[Any]:
    options: dict[str, Any] = {"batch_size": job.batch_size, "num_workers": job.num_workers}
    made: Iterable[Any]
    if job.kind == "raw":
        made = DataLoader(files(job), shuffle=True, **options)
        return made
    if job.kind == "jpegs" and not job.decode:
        options["collate_fn"] = collate  # its bytes are memoryviews
    made = StreamingDataLoader(dataset(job), **options)
    return made


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    main(loader=loader, picker=picker)
