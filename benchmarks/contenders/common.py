"""What the contenders' scripts share: the job, the clock and the one line of JSON they print.

    python run_NAME.py JOB.json

A script hands `main` its functions: `prepare(job)` writes the data set, `loader(job)` makes an
iterable of batches, `picker(job)` makes a function of sample numbers. Imports are done when the
clock starts; everything from the first line of `loader` on is in the figures. Standard library,
numpy, Pillow and torch only: the scripts run in environments that hold nothing of this project.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do, with which data."""

    task: str
    """`prepare`, `epoch`, `first` (the first batch only) or `random`."""
    kind: str
    """`jpegs`, `tokens` or `records`."""
    source: str
    """The folder of the source data (data.py)."""
    data: str
    """Where the contender's data set is (a folder or an s3:// URL), or is to be written."""
    cache: str = ""
    """An empty folder for whatever the contender caches."""
    storage_options: dict[str, str] = dataclasses.field(default_factory=dict)
    batch_size: int = 64
    num_workers: int = 0
    block_size: int = 2048
    chunk_bytes: int = 64_000_000
    picks: int = 100
    decode: bool = False
    """Whether each JPEG is decoded and cropped, by `decode` below."""
    mode: str = ""
    """A variant of the contender's own."""

    def samples(self) -> int:
        """How many samples the source has (blocks of tokens are cut by chunk, so only about)."""
        if self.kind == "records":
            return len(np.load(Path(self.source, "records.npy"), mmap_mode="r"))
        borders = np.load(Path(self.source, f"{self.kind}.npy"))
        return int(borders[-1]) // self.block_size if self.kind == "tokens" else len(borders) - 1


class Source:
    """The source data as a function of the index, for `optimize` and its like. It pickles."""

    def __init__(self, job: Job) -> None:
        self.kind, self.folder = job.kind, Path(job.source)
        self._open: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"kind": self.kind, "folder": self.folder, "_open": None}

    def __len__(self) -> int:
        if self.kind == "records":
            return len(self._records())
        return len(self._packed()[0]) - 1

    def __call__(self, index: int) -> Any:
        """One sample: a picture's bytes and number, a document's tokens, or a pair of numbers."""
        if self.kind == "records":
            record = self._records()[index]
            return {"id": int(record["id"]), "value": float(record["value"])}
        borders, data = self._packed()
        piece = data[int(borders[index]) : int(borders[index + 1])]
        if self.kind == "tokens":
            return torch.from_numpy(np.array(piece))
        return {"image": piece.tobytes(), "id": int(index)}

    def _records(self) -> Any:
        if self._open is None:
            self._open = np.load(self.folder / "records.npy", mmap_mode="r")
        return self._open

    def _packed(self) -> tuple[Any, Any]:
        if self._open is None:
            dtype = np.int32 if self.kind == "tokens" else np.uint8
            data = np.memmap(self.folder / f"{self.kind}.bin", dtype=dtype, mode="r")
            self._open = np.load(self.folder / f"{self.kind}.npy"), data
        return self._open  # type: ignore[no-any-return]


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
    prepare: Callable[[Job], None] | None = None,
    loader: Callable[[Job], Iterable[Any]],
    picker: Callable[[Job], Callable[[Sequence[int]], Sequence[Any]]] | None = None,
) -> None:
    """Do the job named on the command line and print its result."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    result: dict[str, Any]
    if job.task == "prepare":
        assert prepare is not None
        prepare(job)
        result = {}
    elif job.task == "random":
        assert picker is not None
        result = _random(job, picker)
    else:
        result = _epoch(job, loader)
    print(json.dumps(result), flush=True)


def _epoch(job: Job, make_loader: Callable[[Job], Iterable[Any]]) -> dict[str, Any]:
    cpu_before, start = _cpu_seconds(), time.perf_counter()
    loader = make_loader(job)
    batches = iter(loader)
    batch = next(batches)
    first = time.perf_counter()
    samples, sum_of_ids = _look_at(batch)
    if job.task == "epoch":
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
        "cpu_s": _cpu_seconds() - cpu_before,
        "sum_of_ids": sum_of_ids,
    }


def _look_at(batch: Any) -> tuple[int, int]:
    """The number of samples of a batch, and the sum of their numbers."""
    if isinstance(batch, dict):
        ids = batch["id"]
        return len(ids), int(ids.sum())
    return len(batch), 0


def _random(
    job: Job, make: Callable[[Job], Callable[[Sequence[int]], Sequence[Any]]]
) -> dict[str, Any]:
    count = job.samples()
    picks = np.random.default_rng(5).choice(count, size=min(job.picks, count), replace=False)
    cpu_before, begin = _cpu_seconds(), time.perf_counter()
    pick = make(job)
    opened = time.perf_counter() - begin
    groups = [[int(i)] for i in picks] if job.mode != "together" else [[int(i) for i in picks]]
    times = []
    for group in groups:
        start = time.perf_counter()
        samples = pick(group)
        times.append(time.perf_counter() - start)
        assert [int(sample["id"]) for sample in samples] == group
    return {
        "samples": len(picks),
        "seconds": sum(times),
        "first_batch_s": opened + times[0],
        "median_ms": statistics.median(times) * 1e3,
        "p95_ms": sorted(times)[int(0.95 * (len(times) - 1))] * 1e3,
        "cpu_s": _cpu_seconds() - cpu_before,
    }


def _cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total
