"""The data of the benchmarks, the same on every machine: seeded, and made of what is at hand.

JPEG files are crops of the two photographs that ship inside scikit-learn, so that their statistics
(and so the cost of decoding them) are those of photographs. Tokens are documents of log-normal
length. Records are pairs of numbers, where everything but the payload is overhead.
"""

from __future__ import annotations

__all__ = ["Inputs", "Sizes", "data_folder", "make_jpegs", "make_raw", "make_source"]

import dataclasses
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from aiolit.raw.index_file import INDEX_FILE, RawIndex, dump_raw_index
from aiolit.raw.items import FileMetadata
from benchmarks.contenders.job import raw_name

SEED = 20260401
JPEG_SIZE = (640, 480)
JPEG_QUALITY = 95
VOCABULARY = 50_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each kind."""

    jpegs: int = 4096
    tokens: int = 32_000_000
    records: int = 1_000_000

    @classmethod
    def quick(cls) -> Sizes:
        """So little that a run is a smoke test and its figures mean nothing."""
        return cls(jpegs=192, tokens=200_000, records=20_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How many inputs the jobs of writing have; where the source has fewer, it begins again."""

    jpegs: int = 5000
    records: int = 1_000_000
    tokens: int = 46_500
    """Documents: 200 MB of tokens."""
    few: int = 100

    @classmethod
    def quick(cls) -> Inputs:
        """A smoke test's."""
        return cls(jpegs=200, records=5_000, tokens=400)


def data_folder() -> Path:
    """Where data is kept between runs: `$AIOLIT_BENCH_DIR`, or in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("AIOLIT_BENCH_DIR", cache / "aiolit-bench"))


def make_source(folder: Path, sizes: Sizes) -> None:
    """Write the source data into `folder`, unless the same is there already.

    Each kind is one packed file and one `.npy` with the borders of its samples (`jpegs.bin`,
    `jpegs.npy`; `tokens.bin` of int32, `tokens.npy`) or the samples (`records.npy`).
    """
    about = json.dumps({"seed": SEED, "version": 1, **dataclasses.asdict(sizes)}, sort_keys=True)
    stamp = folder / "complete.json"
    if stamp.exists() and stamp.read_text() == about:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _pack(folder / "jpegs", sizes.jpegs, _jpeg_maker())
    _write_tokens(folder, sizes.tokens)
    _write_records(folder, sizes.records)
    stamp.write_text(about)


def make_raw(source: Path, folder: Path, url: str) -> None:
    """Write the pictures as files of their own, and the list of them, unless they are there.

    Args:
        source: What `make_source` has made.
        folder: Where the files go.
        url: What the contenders will call the folder; the list's paths begin with it.
    """
    about = (source / "complete.json").read_text()
    stamp = folder.with_name(f"{folder.name}.complete")
    if stamp.exists() and stamp.read_text() == about:
        return
    shutil.rmtree(folder, ignore_errors=True)
    borders = np.load(source / "jpegs.npy").tolist()
    data = np.memmap(source / "jpegs.bin", dtype=np.uint8, mode="r")
    files = []
    for number, (start, stop) in enumerate(itertools.pairwise(borders)):
        path = folder / raw_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[start:stop].tobytes())
        files.append(FileMetadata(f"{url}/{raw_name(number)}", stop - start))
    (folder / INDEX_FILE).write_bytes(dump_raw_index(url, RawIndex(files, time.time())))
    stamp.write_text(about)


def make_jpegs(count: int) -> list[bytes]:
    """The first pictures of the source data."""
    make = _jpeg_maker()
    return [make(np.random.default_rng([SEED, i])) for i in range(count)]


def _pack(path: Path, count: int, make: Callable[[np.random.Generator], bytes]) -> None:
    borders = np.zeros(count + 1, np.int64)
    with open(f"{path}.bin", "wb") as out:
        for i in range(count):
            out.write(make(np.random.default_rng([SEED, i])))
            borders[i + 1] = out.tell()
        os.fsync(out.fileno())
    np.save(f"{path}.npy", borders)


def _jpeg_maker() -> Callable[[np.random.Generator], bytes]:
    from sklearn.datasets import load_sample_images  # slow to import, used once

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]

    def make(random: np.random.Generator) -> bytes:
        photograph = photographs[random.integers(len(photographs))]
        height = int(random.integers(240, photograph.height))
        width = min(height * 4 // 3, photograph.width)
        left = int(random.integers(photograph.width - width + 1))
        top = int(random.integers(photograph.height - height + 1))
        box = (left, top, left + width, top + height)
        crop = photograph.resize(JPEG_SIZE, Image.Resampling.LANCZOS, box=box)
        if random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop = ImageEnhance.Brightness(crop).enhance(float(random.uniform(0.7, 1.2)))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    return make


def _write_tokens(folder: Path, count: int) -> None:
    random = np.random.default_rng([SEED, 1])
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    lengths = np.exp(random.normal(6.5, 1.0, size=count // 500 + 16)).astype(np.int64) + 1
    borders = np.minimum(np.concatenate([[0], np.cumsum(lengths)]), count)
    borders = borders[: int(np.searchsorted(borders, count)) + 1]
    tokens = random.integers(0, VOCABULARY, size=int(borders[-1]), dtype=np.int32)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "tokens.npy", borders)


def _write_records(folder: Path, count: int) -> None:
    random = np.random.default_rng([SEED, 2])
    records = np.zeros(count, dtype=[("id", np.int64), ("value", np.float64)])
    records["id"] = np.arange(count)
    records["value"] = random.normal(size=count)
    np.save(folder / "records.npy", records)
