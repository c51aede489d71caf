"""MosaicML streaming, in its own environment: its writer is one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source
    from benchmarks.contenders.mosaicml_streaming import MDSWriter
    from benchmarks.contenders.writing import main
else:
    from job import Job, Source
    from mosaicml_streaming import MDSWriter
    from writing import main

COLUMNS = {
    "jpegs": {"image": "bytes", "id": "int"},
    "records": {"id": "int", "value": "float64"},
    "tokens": {"tokens": "ndarray:int32"},
}


def write(job: Job) -> int:
    source = Source(job)
    out = (str(Path(job.cache, "local")), job.data) if job.remote else job.data
    columns = COLUMNS[job.kind]
    with MDSWriter(out=out, columns=columns, size_limit=job.chunk_bytes) as writer:
        if job.kind != "tokens":
            for index in range(len(source)):
                writer.write(source(index))
            return len(source)
        # It reads what was written as one sample, so the blocks are cut here.
        tokens = np.memmap(Path(job.source, "tokens.bin"), dtype=np.int32, mode="r")
        starts = range(0, len(tokens) - job.block_size + 1, job.block_size)
        for at in starts:
            writer.write({"tokens": np.array(tokens[at : at + job.block_size])})
        return len(starts)


if __name__ == "__main__":
    main(write)
