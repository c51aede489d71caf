"""Small data sets for tests, written at once: no workers, no progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiolit.format.assemble import assemble
from aiolit.format.index import dump_index, parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers.registry import SerializerRegistry

__all__ = ["read_dataset", "write_dataset"]


def write_dataset(folder: Path, samples: Iterable[Any], *, chunk_size: int, **options: Any) -> Path:
    """Write samples as a data set into a new folder and return the folder.

    Args:
        folder: Where to; made if it is not there.
        samples: The samples, in order; at least one.
        chunk_size: Samples in a chunk.
        options: As for ``aiolit.format.assemble.assemble``: ``item_loader``, ``compression``, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    index, files = assemble(samples, chunk_size=chunk_size, **options)
    for filename, content in files.items():
        (folder / filename).write_bytes(content)
    (folder / "index.json").write_bytes(dump_index(index))
    return folder


def read_dataset(folder: Path) -> list[Any]:
    """Read all samples of a data set by the format alone: no cache, order or process is involved.

    Args:
        folder: Where it lies, written with the usual item loader, and not encrypted.
    """
    index = parse_index((folder / "index.json").read_bytes(), source=str(folder))
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source=str(folder))
    samples: list[Any] = []
    for chunk in index.chunks:
        data = memoryview((folder / chunk.filename).read_bytes())
        reader = loader.open(data, chunk, chunk.filename)
        samples += [reader.sample(number) for number in range(chunk.num_items)]
    return samples
