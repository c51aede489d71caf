"""What one sample of each kind costs: microseconds of CPU time, loader and collation included.

    python -m benchmarks.sample_cost [--quick] [--json FILE]

Each kind is written to a temporary folder and read in this process with `num_workers=0`, from the
page cache, shuffled, in batches of 256 (pictures 32, blocks of tokens 16): one epoch to warm up,
then the median of five. CPU time is that of all threads of the process, so it is steady on a busy
machine; torch has one thread, as in a loader's worker, because the others of its pool would spin
while they wait. Below it: what a JPEG costs each decoder that is installed, and what a batch costs
beside its samples (read one by one).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aiolit import StreamingDataLoader, StreamingDataset, TokensLoader, aio
from aiolit.errors import MissingDependencyError
from aiolit.format.images import choose_jpeg_decoder, load_module
from benchmarks.data import make_jpegs

BLOCK = 2048


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of sample."""

    name: str
    make: Callable[[int], Any]
    count: int
    batch_size: int = 256
    transform: Callable[[Any], Any] | None = None
    tokens: bool = False


def kinds(pictures: list[bytes], share: float) -> list[Kind]:
    """The kinds, with `share` of the samples of a real run."""
    random = np.random.default_rng(1)
    words = "abcdefghijklmnopqrstuvwxyz      " * 8

    def number(index: int) -> dict[str, Any]:
        return {"id": index, "value": index * 0.5}

    def picture(index: int) -> dict[str, Any]:
        return {"image": pictures[index % len(pictures)], "id": index}

    def image(index: int) -> Any:
        return Image.open(io.BytesIO(pictures[index % len(pictures)]))

    def text(index: int) -> dict[str, Any]:
        return {"text": words[: 100 + index % 100], "id": index}

    def array(index: int) -> dict[str, Any]:
        return {"x": np.full((16, 16), index, np.float32), "id": index}

    def uneven(index: int) -> Any:
        return np.full(100 + index % 100, index, np.float32)

    def document(index: int) -> Any:
        return random.integers(0, 50_000, BLOCK, dtype=np.int32)

    def some(count: int) -> int:
        return max(64, int(count * share))

    return [
        Kind(name="two numbers, by columns", make=number, count=some(200_000)),
        Kind(name="two numbers, transform", make=number, count=some(50_000), transform=dict),
        Kind(name="array of 16 x 16 float32, by columns", make=array, count=some(20_000)),
        Kind(name="arrays of 100 to 199 float32", make=uneven, count=some(20_000), transform=len),
        Kind(name="text of 100 to 199 letters", make=text, count=some(50_000)),
        Kind(
            name="block of 2048 int32 tokens",
            make=document,
            count=some(10_000),
            batch_size=16,
            tokens=True,
        ),
        Kind(name="JPEG bytes, 110 KB", make=picture, count=some(1_000), batch_size=32),
        Kind(name="JPEG decoded, 640 x 480", make=image, count=some(200), batch_size=32),
    ]


async def write(folder: Path, kind: Kind) -> None:
    """Write a data set of a kind, in this process."""
    loader = TokensLoader() if kind.tokens else None
    async with aio.Writer(str(folder), chunk_bytes="64MB", item_loader=loader) as writer:
        for index in range(kind.count):
            await writer.put(kind.make(index))


def cost(kind: Kind, repeats: int) -> float:
    """Return what one sample of a kind costs."""
    with tempfile.TemporaryDirectory(prefix="sample-cost-") as folder:
        asyncio.run(write(Path(folder), kind))
        return cpu_per(kind.count, epochs(folder, kind), repeats)


def epochs(folder: str, kind: Kind) -> Callable[[], int]:
    """Return a function that reads an epoch and counts its batches."""
    dataset = StreamingDataset(
        folder,
        shuffle=True,
        transform=kind.transform,
        item_loader=TokensLoader(block_size=BLOCK) if kind.tokens else None,
    )
    loader = StreamingDataLoader(dataset, batch_size=kind.batch_size, num_workers=0)
    return lambda: _length(loader)


def cpu_per(count: int, work: Callable[[], object], repeats: int) -> float:
    """Return microseconds of CPU time for each of `count` pieces of work; once to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times[1:]) / count * 1e6


def decoders(pictures: list[bytes], repeats: int) -> dict[str, float | None]:
    """Return what a picture costs each decoder; None where it is not installed."""
    costs: dict[str, float | None] = {}
    for label, module in (
        ("torchvision", "torchvision.io"),
        ("simplejpeg", "simplejpeg"),
        ("Pillow", "PIL.Image"),
    ):
        try:
            decoder = choose_jpeg_decoder(partial(_load_only, module))
        except MissingDependencyError:
            costs[label] = None
            continue

        def work(decoder: Callable[[memoryview, int], Any] = decoder) -> None:
            for picture in pictures:
                decoder(memoryview(picture), 3)

        costs[label] = cpu_per(len(pictures), work, repeats)
    return costs


def measure(pictures: list[bytes], share: float, repeats: int) -> dict[str, dict[str, Any]]:
    """Measure everything: costs in microseconds, by kind, by decoder, and of a batch."""
    found = {kind.name: cost(kind, repeats) for kind in kinds(pictures, share)}
    numbers = next(iter(kinds(pictures, share / 40)))
    one_by_one = cost(dataclasses.replace(numbers, batch_size=1), repeats)
    batch = {numbers.name: one_by_one - found[numbers.name]}
    return {"sample": found, "decoder": decoders(pictures, repeats), "batch": batch}


def main() -> int:
    """Print the costs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample_cost")
    parser.add_argument("--quick", action="store_true", help="few samples: a smoke test")
    parser.add_argument("--json", type=Path, help="write the costs to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = make_jpegs(8 if options.quick else 64)
    costs = measure(pictures, 0.01 if options.quick else 1.0, 1 if options.quick else 5)
    for title, what in (
        ("one sample", "sample"),
        ("one JPEG of 640 x 480, decoder alone", "decoder"),
        ("one batch, beside its samples", "batch"),
    ):
        print(f"{title + ', us CPU':48}")
        for name, cost in costs[what].items():
            print(f"  {name:46}" + ("not installed" if cost is None else f"{cost:13,.2f}"))
    if options.json:
        options.json.write_text(json.dumps(costs, indent=1))
    return 0


def _load_only(wanted: str, name: str) -> Any:
    return load_module(name) if name == wanted else None


def _length(batches: Iterable[Any]) -> int:
    return sum(1 for _ in batches)


if __name__ == "__main__":
    raise SystemExit(main())
