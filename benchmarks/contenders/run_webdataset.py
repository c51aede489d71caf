"""WebDataset, in its own environment: tar files, each worker reads its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import webdataset
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from benchmarks.contenders.common import Job, Source, collate, decode, main
else:
    sys.path.insert(0, str(Path(__file__).parent))
    from common import Job, Source, collate, decode, main


def prepare(job: Job) -> None:
    source = Source(job)
    Path(job.data).mkdir(parents=True)
    pattern = str(Path(job.data, "%06d.tar"))
    with webdataset.ShardWriter(pattern, maxsize=job.chunk_bytes, verbose=0) as out:
        for index in range(len(source)):
            sample = source(index)
            out.write({"__key__": f"{index:08d}", "jpg": sample["image"], "id": sample["id"]})
    names = sorted(path.name for path in Path(job.data).glob("*.tar"))
    Path(job.data, "names.json").write_text(json.dumps(names))


def urls(job: Job) -> list[str]:
    """Where the tars are; from a server they come through curl, as WebDataset's users do it."""
    if not job.data.startswith("s3://"):
        return [str(path) for path in sorted(Path(job.data).glob("*.tar"))]
    base = f"{job.storage_options['endpoint_url']}/{job.data.removeprefix('s3://')}"
    names = Path(job.source).parent / "webdataset" / job.kind / "names.json"
    return [f"pipe:curl -s -f -L {base}/{name}" for name in json.loads(names.read_text())]


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
    main(prepare=prepare, loader=loader)
