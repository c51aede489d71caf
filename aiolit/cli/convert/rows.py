"""Samples of MDS shards and rows of Parquet files, through the reader that streams them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiolit.cli.convert.leaves import IMAGE, KeepStored, check_columns, number_leaf
from aiolit.cli.convert.parquet import Columns, read_columns, sample_maker
from aiolit.errors import ConfigError
from aiolit.format.loader import ParquetLoader
from aiolit.format.serializers import Serializer
from aiolit.groups import single_error
from aiolit.runtime.portal import portal
from aiolit.store.base import ObjectInfo, Store
from aiolit.store.kept import write_kept
from aiolit.store.parquet_index import index_of_files
from aiolit.streaming.dataset import StreamingDataset

_READ_BYTES = 8 << 20  # samples read at once
_READ_ROWS = 4096
_CACHE = "256MB"  # in the memory of each worker
_HEADS = 32


@dataclass(frozen=True, slots=True)
class RowSamples:
    """Yields a run of samples of a data set.

    Attributes:
        dataset: The data set.
        change: Turns what it reads into what is written.
    """

    dataset: StreamingDataset
    change: Callable[[Any], Any]

    def runs(self) -> list[tuple[int, int]]:
        """Return the samples that are decoded together: those of a shard, or of a row group.

        Raises:
            ConfigError: There are none.
        """
        found = list(pairwise([0, *self.dataset.segments.ends.tolist()]))
        if not found:
            raise ConfigError(f"{self.dataset.input_dir} has no samples")
        return found

    def __call__(self, run: tuple[int, int]) -> Iterator[Any]:
        """Yield the samples ``[start, stop)``, in order.

        Raises:
            DatasetError: One is damaged.
            StoreError: They cannot be read.
        """
        start, stop = run
        mean = int(self.dataset.source.nbytes.sum()) // max(1, self.dataset.num_samples)
        step = min(_READ_ROWS, max(1, _READ_BYTES // max(1, mean)))
        for first in range(start, stop, step):
            rows = self.dataset.get_many(range(first, min(first + step, stop)))
            yield from map(self.change, rows)


def mds_samples(
    store: Store, wanted: Sequence[str] | None, undecoded: bool, options: Mapping[str, Any]
) -> RowSamples:
    """Return what yields the samples of MDS shards; what is encoded in them stays so.

    Raises:
        ConfigError: There are no shards, or a column is not there.
    """
    image = "bytes" if undecoded else IMAGE
    kept = {"jpeg": image, "png": image, "json": "json", "pickle": "pickle", "pil": "pil"}
    serializers: dict[str, Serializer] = {name: KeepStored(kind) for name, kind in kept.items()}
    dataset = _open(store, serializers=serializers, **options)
    if not dataset.num_samples:
        raise ConfigError(f"{store.url} has no samples")
    names: list[str] = dataset.source.index.chunks[0].extra["column_names"]
    check_columns(names, wanted, store.url)
    return RowSamples(dataset, partial(_mds_sample, tuple(wanted or names)))


def _mds_sample(names: tuple[str, ...], row: dict[str, Any]) -> dict[str, Any]:
    return {name: number_leaf(row[name]) for name in names}


def parquet_samples(
    store: Store,
    keys: Sequence[str],
    wanted: Sequence[str] | None,
    undecoded: bool,
    options: Mapping[str, Any],
) -> RowSamples:
    """Return what yields the rows of Parquet files.

    Raises:
        ConfigError: A column is not there, or cannot be stored.
        SchemaError: Two files have not the same columns.
        StoreError: A file cannot be read.
    """
    loader = ParquetLoader(columns=wanted)
    with tempfile.TemporaryDirectory(prefix="aiolit-convert-") as folder:
        # Of these files as they are now: an index that lies beside them may be older.
        index = portal().call(_parquet_index, store, keys)
        write_kept(Path(folder) / "index.json", index)
        dataset = _open(store, item_loader=loader, index_path=folder, **options)
    columns = portal().call(_parquet_columns, store, dataset)
    names: list[str] = columns.schema.names
    check_columns(names, wanted, store.url)
    change = sample_maker(columns, wanted or names, undecoded=undecoded, source=store.url)
    return RowSamples(dataset, change)


def _open(store: Store, **options: Any) -> StreamingDataset:
    return StreamingDataset(store.url, cache="memory", max_cache_size=_CACHE, **options)


async def _parquet_index(store: Store, keys: Sequence[str]) -> bytes:
    places = asyncio.Semaphore(_HEADS)

    async def head(key: str) -> ObjectInfo:
        async with places:
            return await store.head(key)

    async with store:
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(head(key)) for key in keys]
        return await index_of_files(store, [task.result() for task in tasks])


async def _parquet_columns(store: Store, dataset: StreamingDataset) -> Columns:
    async with store:
        return await read_columns(store, dataset.source.index.chunks)
