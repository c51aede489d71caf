"""Mix data sets in shares that change while training goes on: a curriculum of prose and code.

An epoch begins with prose alone, goes over to equal shares, and ends with mostly code; the next one
has other shares. Run it with ``python examples/mixing_with_schedule.py``. Prose is the reference of
the Python language, code its standard library; both come with Python.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

import aiolit

BLOCK = 128
BATCH = 20


def tokenize(text: str) -> torch.Tensor:
    """Turn a text into tokens, one for each byte."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def write(texts: list[str], output_dir: str) -> None:
    """Write texts as one stream of tokens."""
    aiolit.optimize(
        tokenize,
        texts,
        output_dir,
        chunk_size=50_000,
        item_loader=aiolit.TokensLoader(),
        num_workers=2,
        verbose=False,
    )


def with_source(block: torch.Tensor, source: int) -> dict[str, Any]:
    """Say of a block where it is from."""
    return {"tokens": block, "source": source}


def open_member(folder: str, source: int) -> aiolit.StreamingDataset:
    """Open a member of the mixture."""
    return aiolit.StreamingDataset(
        folder,
        item_loader=aiolit.TokensLoader(block_size=BLOCK),
        shuffle=True,
        drop_last=True,
        transform=partial(with_source, source=source),
    )


def report(loader: aiolit.StreamingDataLoader, name: str) -> None:
    """Read an epoch and print the share of code in each quarter of it."""
    sources = torch.cat([batch["source"] for batch in loader])
    shares = [f"{quarter.float().mean():.0%}" for quarter in sources.chunk(4)]
    print(f"{name}: {len(sources)} blocks, code in its quarters: {' '.join(shares)}")


def main() -> None:
    """Mix prose and code."""
    library = Path(os.__file__).parent
    code = [path.read_text("utf-8") for path in sorted(library.glob("*.py"))[:40]]
    with tempfile.TemporaryDirectory() as work:
        write(list(topics.values()), f"{work}/prose")
        write(code, f"{work}/code")
        members = [open_member(f"{work}/prose", source=0), open_member(f"{work}/code", source=1)]

        # From so many samples on (over all ranks), these shares of (prose, code).
        schedule = [(0, [1, 0]), (2000, [1, 1]), (4000, [1, 4])]
        mixture = aiolit.CombinedStreamingDataset(
            members, iterate_over_all=False, weight_schedule=schedule
        )
        loader = aiolit.StreamingDataLoader(mixture, batch_size=BATCH, num_workers=2)
        print(f"an epoch has {len(loader)} batches; it ends when a member is used up")
        report(loader, "with a schedule")

        mixture.set_weights([3, 1])  # from the next epoch on; saved with the loader's state
        report(loader, "with [3, 1]")


if __name__ == "__main__":
    main()
