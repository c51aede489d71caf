"""Write one of the data sets that the documented examples read: ``make_data.py NAME FOLDER``."""

from __future__ import annotations

import sys
from typing import Any

import torch

import aiolit


def number(index: int) -> int:
    """Return the sample of a data set of numbers."""
    return index


def image(index: int) -> torch.Tensor:
    """Return a random (3, 40, 50) image of bytes."""
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (3, 40, 50), generator=generator).to(torch.uint8)


def tokens(count: int) -> torch.Tensor:
    """Return a document of `count` tokens."""
    return torch.arange(count, dtype=torch.int32) % 32_000


def make(name: str, output_dir: str) -> None:
    """Write the data set `name` to `output_dir`."""
    numbers = {
        "my-data": range(100_000),
        "my-train-data": range(200),
        "my-val-data": range(150),
        "thirty": range(30),
        "one": range(50),
        "two": range(1000, 1050),
    }
    options: dict[str, Any] = {"num_workers": 1, "verbose": False}
    if name in numbers:
        aiolit.optimize(number, list(numbers[name]), output_dir, chunk_bytes="100KB", **options)
    elif name == "images":
        aiolit.optimize(image, list(range(8)), output_dir, chunk_bytes="20KB", **options)
    elif name == "tokens":
        loader = aiolit.TokensLoader()
        aiolit.optimize(
            tokens,
            [2049] * 200,
            output_dir,
            chunk_size=2049 * 20,
            item_loader=loader,
            **options,
        )
    else:
        raise SystemExit(f"no data set is called {name}")


if __name__ == "__main__":
    make(*sys.argv[1:])
