"""The job that a contender is given, and the source data it works on. No torch here."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do, with which data."""

    task: str
    """`epoch`, `part` (an epoch of a share of the data), `first` (the first batch only), `random`,
    `write`, `check` or `fetch`; `prepare` writes what the other tasks read."""
    kind: str
    """`jpegs`, `tokens`, `records`, or `raw` (the pictures as files of their own)."""
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
    count: int = 0
    """How many inputs to write: the source's samples, again from the first where they are too few;
    0 for each once."""
    picks: int = 100
    share: float = 1.0
    """Of the data, for the task `part`; only aiolit's script looks at it."""
    decode: bool = False
    """Whether each JPEG is decoded and cropped, by reading.decode."""
    range_bytes: int = 8 * 1024 * 1024
    """Of a GET of the task `fetch`."""
    connections: int = 16
    """Of the task `fetch`, and of the limits."""
    mode: str = ""
    """A variant of the contender's own."""

    @property
    def remote(self) -> bool:
        """Whether the data is on the server."""
        return self.data.startswith("s3://")

    def url(self, name: str) -> str:
        """Where a file of the data set is on the server."""
        return f"{self.storage_options['endpoint_url']}/{self.data.removeprefix('s3://')}/{name}"

    def samples(self) -> int:
        """How many samples there are (blocks of tokens are cut by chunk, so only about)."""
        if self.kind == "records":
            return len(np.load(Path(self.source, "records.npy"), mmap_mode="r"))
        borders = borders_of(self)
        return int(borders[-1]) // self.block_size if self.kind == "tokens" else len(borders) - 1


def read_job() -> Job:
    """The job named on the command line."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def marks_of(job: Job) -> Path:
    """The folder where each process that writes says when it began, see `Source`."""
    return Path(job.cache, "marks")


def borders_of(job: Job) -> np.ndarray[Any, Any]:
    """Where the samples of a packed source file begin, and where the last one ends."""
    name = "tokens.npy" if job.kind == "tokens" else "jpegs.npy"
    borders: np.ndarray[Any, Any] = np.load(Path(job.source, name))
    return borders


def raw_name(number: int) -> str:
    """The name of a picture among the raw files."""
    return f"{number // 1000:03d}/{number:06d}.jpg"


def packed_of(job: Job) -> Path:
    """The file with the bytes of the source's samples, one behind the other."""
    names = {"records": "records.npy", "tokens": "tokens.bin"}
    return Path(job.source, names.get(job.kind, "jpegs.bin"))


def nbytes_of(job: Job, count: int) -> int:
    """How many bytes the first inputs hold; behind the last sample the source begins again."""
    if job.kind == "records":
        return count * 16
    borders = borders_of(job)
    times, rest = divmod(count, len(borders) - 1)
    size = 4 if job.kind == "tokens" else 1
    return size * int(times * borders[-1] + borders[rest])


class Source:
    """The source data as a function of the index, for `optimize` and its like. It pickles.

    When writing, its first call in a process leaves a file with the time in `marks_of(job)`, so
    that it is known when the work began. (The clock is the machine's, the same everywhere.)
    """

    def __init__(self, job: Job) -> None:
        self.kind, self.folder = job.kind, Path(job.source)
        self._marks = marks_of(job) if job.task == "write" else None
        if self._marks:
            self._marks.mkdir(exist_ok=True)
        self._open()
        self._count = job.count or self._samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None, "_borders": None}

    def __len__(self) -> int:
        return self._count

    def __call__(self, index: int) -> Any:
        """One sample: a picture's bytes and number, a document's tokens, or a pair of numbers."""
        if self._data is None:
            self._open()
        if self._marks:
            (self._marks / str(os.getpid())).write_text(repr(time.perf_counter()))
            self._marks = None
        place = index % self._samples
        if self.kind == "records":
            record = self._data[place]
            return {"id": int(index), "value": float(record["value"])}
        piece = self._data[int(self._borders[place]) : int(self._borders[place + 1])]
        if self.kind == "tokens":
            return np.array(piece)
        return {"image": piece.tobytes(), "id": int(index)}

    def values(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The values of many records."""
        found: np.ndarray[Any, Any] = self._data["value"][indices % self._samples]
        return found

    def _open(self) -> None:
        if self.kind == "records":
            self._data: Any = np.load(self.folder / "records.npy", mmap_mode="r")
            self._samples = len(self._data)
            return
        packed, dtype = ("tokens", np.int32) if self.kind == "tokens" else ("jpegs", np.uint8)
        self._borders: Any = np.load(self.folder / f"{packed}.npy")
        self._data = np.memmap(self.folder / f"{packed}.bin", dtype=dtype, mode="r")
        self._samples = len(self._borders) - 1


def seconds_since_exec() -> float:
    """How long this process has been there, imports and all; in hundredths."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total
