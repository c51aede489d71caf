"""Samples of MDS shards and rows of Parquet files, through the reader that streams them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from aiolit.cli.convert.leaves import IMAGE, KeepStored, number_leaf
from aiolit.format.serializers import Serializer
from aiolit.streaming.dataset import StreamingDataset

Change = Callable[[Any], Any]

_READ_BYTES = 8 << 20  # samples read at once
_CACHE = "256MB"  # in each worker


@dataclass(frozen=True, slots=True)
class RowSamples:
    """Yields a run of samples of a data set.

    Attributes:
        dataset: The data set.
        change: Turns what it reads into what is written.
        at_once: Samples read at once.
    """

    dataset: StreamingDataset
    change: Change
    at_once: int

    def __call__(self, run: tuple[int, int]) -> Iterator[Any]:
        """Yield the samples ``[start, stop)``, in order.

        Raises:
            DatasetError: One is damaged.
            StoreError: They cannot be read.
        """
        start, stop = run
        for first in range(start, stop, self.at_once):
            rows = self.dataset.get_many(range(first, min(first + self.at_once, stop)))
            yield from map(self.change, rows)


def runs_of(dataset: StreamingDataset) -> list[tuple[int, int]]:
    """Return the samples that are decoded together, run by run: of a shard, or of a row group."""
    ends = [0, *dataset.segments.ends.tolist()]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]


def fitting_rows(dataset: StreamingDataset) -> int:
    """Return how many samples to read at once."""
    mean = int(np.sum(dataset.source.nbytes)) / max(1, dataset.num_samples)
    return int(min(4096, max(1, _READ_BYTES // max(1.0, mean))))


def open_mds(url: str, undecoded: bool, **options: Any) -> StreamingDataset:
    """Open MDS shards so that what is encoded in them stays so."""
    image = "bytes" if undecoded else IMAGE
    kept = {"jpeg": image, "png": image, "json": "json", "pickle": "pickle", "pil": "pil"}
    serializers: dict[str, Serializer] = {name: KeepStored(kind) for name, kind in kept.items()}
    return StreamingDataset(
        url, serializers=serializers, cache="memory", max_cache_size=_CACHE, **options
    )


def open_parquet(url: str, columns: Any, **options: Any) -> StreamingDataset:
    """Open Parquet files."""
    return StreamingDataset(
        url, item_loader=columns, cache="memory", max_cache_size=_CACHE, **options
    )


@dataclass(frozen=True, slots=True)
class MdsSample:
    """Turns a sample of an MDS shard into one that is written with its types.

    Attributes:
        names: The columns to keep.
    """

    names: tuple[str, ...]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the sample."""
        return {name: number_leaf(row[name]) for name in self.names}
