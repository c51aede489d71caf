"""WebDataset, in its own environment: tar files, each worker reads its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import webdataset
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job
    from benchmarks.contenders.reading import collate, decode, main
else:
    from job import Job
    from reading import collate, decode, main


def urls(job: Job) -> list[str]:
    """Where the tars are; from a server they come through curl, as WebDataset's users do it."""
    if not job.remote:
        return [str(path) for path in sorted(Path(job.data).glob("*.tar"))]
    buckets = Path(job.source).parent.parent
    names = buckets / job.data.removeprefix("s3://") / "names.json"
    return [f"pipe:curl -s -f -L {job.url(name)}" for name in json.loads(names.read_text())]


def picture(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": sample["jpg"], "id": int(sample["id"])}


def loader(job: Job) -> Iterable[Any]:
    data = webdataset.WebDataset(
        urls(job), shardshuffle=100, empty_check=False, nodesplitter=webdataset.split_by_node
    )
    data = data.shuffle(1000).map(picture)
    if job.decode:
        data = data.map(decode)
    collated = torch.utils.data.default_collate if job.decode else collate
    data = data.batched(job.batch_size, collation_fn=collated)
    made: Iterable[Any] = DataLoader(data, batch_size=None, num_workers=job.num_workers)
    return made


if __name__ == "__main__":
    main(loader=loader)
