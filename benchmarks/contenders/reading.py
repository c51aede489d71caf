"""What the contenders' scripts of reading share: the clock and the one line of JSON they print.

    python read_NAME.py JOB.json

A script hands `main` its functions: `loader(job)` makes an iterable of batches, `picker(job)` makes
a function of sample numbers. Imports are done when the clock starts; everything from the first line
of `loader` on is in the figures. Standard library, numpy, Pillow and torch only: the scripts run in
environments that hold nothing of this project.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from benchmarks.contenders.job import Job, Source, cpu_seconds, read_job, seconds_since_exec
else:
    from job import Job, Source, cpu_seconds, read_job, seconds_since_exec


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    """The picture's centre, 224 pixels square, as a uint8 tensor: the same code for everyone."""
    with Image.open(io.BytesIO(sample["image"])) as image:
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.array(image.convert("RGB").crop((left, top, left + 224, top + 224)))
    return {"image": torch.from_numpy(pixels).permute(2, 0, 1), "id": sample["id"]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What torch's default makes of pictures' bytes, for those whose bytes it does not take."""
    return {
        "image": [bytes(sample["image"]) for sample in samples],
        "id": torch.tensor([sample["id"] for sample in samples]),
    }


def main(
    *,
    loader: Callable[[Job], Iterable[Any]],
    picker: Callable[[Job], Callable[[Sequence[int]], Sequence[Any]]] | None = None,
) -> None:
    """Do the job named on the command line and print its result."""
    job = read_job()
    result: dict[str, Any]
    if job.task == "check":
        check = _check_tokens if job.kind == "tokens" else _check_samples
        result = {"samples": check(job, loader)}
    elif job.task == "random":
        assert picker is not None
        result = _random(job, picker)
    else:
        result = _epoch(job, loader)
    print(json.dumps(result), flush=True)


def _epoch(job: Job, make_loader: Callable[[Job], Iterable[Any]]) -> dict[str, Any]:
    cpu_before, start = cpu_seconds(), time.perf_counter()
    loader = make_loader(job)
    batches = iter(loader)
    batch = next(batches)
    first, since_exec = time.perf_counter(), seconds_since_exec()
    samples, sum_of_ids = _look_at(batch)
    if job.task != "first":
        for batch in batches:
            count, ids = _look_at(batch)
            samples += count
            sum_of_ids += ids
    end = time.perf_counter()
    del batch, batches, loader
    gc.collect()  # ends the loader's workers, whose CPU time is known only then
    return {
        "samples": samples,
        "seconds": end - start,
        "first_batch_s": first - start,
        "since_exec_s": since_exec,
        "cpu_s": cpu_seconds() - cpu_before,
        "sum_of_ids": sum_of_ids,
    }


def _look_at(batch: Any) -> tuple[int, int]:
    """Count the samples of a batch, and sum up their numbers (bare bytes: their lengths)."""
    if isinstance(batch, dict):
        ids = batch["id"]
        return len(ids), int(ids.sum())
    return len(batch), 0 if isinstance(batch, torch.Tensor) else sum(map(len, batch))


def _random(
    job: Job, make: Callable[[Job], Callable[[Sequence[int]], Sequence[Any]]]
) -> dict[str, Any]:
    count = job.samples()
    picks = np.random.default_rng(5).choice(count, size=min(job.picks, count), replace=False)
    cpu_before, begin = cpu_seconds(), time.perf_counter()
    pick = make(job)
    opened = time.perf_counter() - begin
    groups = [[int(i)] for i in picks] if job.mode != "together" else [[int(i) for i in picks]]
    times, nbytes = [], 0
    for group in groups:
        start = time.perf_counter()
        samples = pick(group)
        times.append(time.perf_counter() - start)
        assert [int(sample["id"]) for sample in samples] == group
        nbytes += sum(len(sample["image"]) for sample in samples)
    return {
        "samples": len(picks),
        "seconds": sum(times),
        "first_batch_s": opened + times[0],
        "median_ms": statistics.median(times) * 1e3,
        "p95_ms": sorted(times)[int(0.95 * (len(times) - 1))] * 1e3,
        "cpu_s": cpu_seconds() - cpu_before,
        "nbytes": nbytes,
    }


def _check_samples(job: Job, make_loader: Callable[[Job], Iterable[Any]]) -> int:
    """Read back what was written: each input once, with the source's content; returns how many."""
    source = Source(job)
    seen = np.zeros(len(source), bool)
    for batch in make_loader(job):
        ids = batch["id"].numpy()
        if job.kind == "records":
            found, expected = batch["value"].numpy(), source.values(ids)
            same = np.array_equal(found, expected)
        else:
            pairs = zip(batch["image"], ids, strict=True)
            same = all(bytes(image) == source(int(i))["image"] for image, i in pairs)
        if not same or seen[ids].any() or len(np.unique(ids)) != len(ids):
            raise ValueError(f"a sample differs or comes twice, one of {ids.tolist()}")
        seen[ids] = True
    if not seen.all():
        raise ValueError(f"{np.count_nonzero(~seen):,} of {len(seen):,} samples are missing")
    return len(seen)


def _check_tokens(job: Job, _: object) -> int:
    """Read back the documents from the chunk files, in any order; returns how many.

    A reader gives blocks; the documents' borders are in the chunks only.
    """
    source = Source(job)
    found = sorted(zlib.crc32(document) for document in _documents(Path(job.data)))
    expected = sorted(zlib.crc32(source(index)) for index in range(len(source)))
    if found != expected:
        raise ValueError(f"not the documents: {len(found):,}, where {len(expected):,} were written")
    return len(found)


def _documents(folder: Path) -> Iterator[bytes]:
    for chunk in json.loads((folder / "index.json").read_text())["chunks"]:
        data = (folder / chunk["filename"]).read_bytes()
        count = int(np.frombuffer(data, np.uint32, 1)[0])
        borders = np.frombuffer(data, np.uint32, count + 1, offset=4).tolist()
        for start, stop in itertools.pairwise(borders):
            yield data[start:stop]
