"""WebDataset, in its own environment: tar files, written by one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import webdataset

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source
    from benchmarks.contenders.writing import main
else:
    from job import Job, Source
    from writing import main


def write(job: Job) -> int:
    source = Source(job)
    Path(job.data).mkdir(parents=True)
    pattern = str(Path(job.data, "%06d.tar"))
    with webdataset.ShardWriter(pattern, maxsize=job.chunk_bytes, verbose=0) as out:
        for index in range(len(source)):
            sample = source(index)
            out.write({"__key__": f"{index:08d}", "jpg": sample["image"], "id": sample["id"]})
    names = sorted(path.name for path in Path(job.data).glob("*.tar"))
    Path(job.data, "names.json").write_text(json.dumps(names))
    return len(source)


if __name__ == "__main__":
    main(write)
