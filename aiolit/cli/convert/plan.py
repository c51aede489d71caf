"""A conversion as what ``optimize`` needs: a function, and its inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiolit.cli.convert.detect import Found, Kind, Place, find, split_place
from aiolit.cli.convert.images import ImageSample, find_classes
from aiolit.cli.convert.leaves import check_columns
from aiolit.cli.convert.parquet import read_columns, sample_maker
from aiolit.cli.convert.rows import (
    MdsSample,
    RowSamples,
    fitting_rows,
    open_mds,
    open_parquet,
    runs_of,
)
from aiolit.cli.convert.webdataset import TarSamples
from aiolit.errors import ConfigError
from aiolit.format.loader import ParquetLoader
from aiolit.runtime.portal import portal
from aiolit.store.connect import open_store
from aiolit.store.parquet_index import parquet_index_bytes, write_index
from aiolit.streaming.resolver import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user wants converted.

    Attributes:
        source: A folder, a file or a URL, with a pattern perhaps.
        kind: What it is, or None for whatever is there.
        columns: What to keep of each sample, or None for all.
        undecoded: Whether images are handed out as bytes.
        storage_options: Of the client of the source's store.
        session_options: Of its session.
    """

    source: str
    kind: Kind | None
    columns: Sequence[str] | None
    undecoded: bool
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the store."""
        return {
            "storage_options": self.storage_options,
            "session_options": self.session_options,
        }


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is converted.

    Attributes:
        kind: What the source is.
        fn: Yields the samples of an input.
        inputs: Tars, images, or runs of samples.
    """

    kind: Kind
    fn: Callable[[Any], Any]
    inputs: list[Any]


def plan(wanted: Wanted) -> Conversion:
    """Look at the source, and say how to convert it.

    Raises:
        ConfigError: It holds nothing that can be converted, or not the columns that are wanted.
        DatasetError: It is damaged.
        StoreError: It cannot be read.
    """
    split = split_place(wanted.source)
    place = Place(resolve(split.root).url, split.pattern)
    columns = None if wanted.columns is None else tuple(wanted.columns)
    store = open_store(place.root, **wanted.options)

    async def look() -> Found:
        async with store:
            return await find(store, place, wanted.kind)

    found = portal().call(look)
    if found.kind == "webdataset":
        fn = TarSamples(store, columns, wanted.undecoded)
        return Conversion(found.kind, fn, found.keys)
    if found.kind == "images":
        return _plan_images(wanted, place, found.keys)
    if found.kind == "mds":
        return _plan_mds(wanted, place)
    return _plan_parquet(wanted, place)


def _plan_images(wanted: Wanted, place: Place, keys: list[str]) -> Conversion:
    store = open_store(place.root, **wanted.options)
    fn = ImageSample(store, find_classes(keys), undecoded=wanted.undecoded)
    if wanted.columns is not None:
        check_columns(fn.names, wanted.columns, place.root)
        fn.columns = tuple(wanted.columns)
    return Conversion("images", fn, keys)


def _plan_mds(wanted: Wanted, place: Place) -> Conversion:
    dataset = open_mds(place.root, wanted.undecoded, **wanted.options)
    chunks = dataset.source.index.chunks
    if not chunks:
        raise ConfigError(f"{place.root} has no shards")
    names: list[str] = chunks[0].extra["column_names"]
    check_columns(names, wanted.columns, place.root)
    return _plan_rows("mds", dataset, MdsSample(tuple(wanted.columns or names)))


def _plan_parquet(wanted: Wanted, place: Place) -> Conversion:
    store = open_store(place.root, **wanted.options)

    async def index() -> bytes:
        async with store:
            return await parquet_index_bytes(store, place.pattern)

    data = portal().call(index)
    names = list(wanted.columns) if wanted.columns is not None else None
    with tempfile.TemporaryDirectory(prefix="aiolit-convert-") as folder:
        # Of the files as they are now: an index that lies there may be older.
        write_index(Path(folder) / "index.json", data)
        dataset = open_parquet(
            place.root, ParquetLoader(columns=names), index_path=folder, **wanted.options
        )

    async def columns() -> Any:
        async with store:
            return await read_columns(store, dataset.source.index.chunks)

    found = portal().call(columns)
    check_columns(list(found.schema.names), names, place.root)
    change = sample_maker(
        found, names or found.schema.names, undecoded=wanted.undecoded, source=place.root
    )
    return _plan_rows("parquet", dataset, change)


def _plan_rows(kind: Kind, dataset: Any, change: Callable[[Any], Any]) -> Conversion:
    runs = runs_of(dataset)
    if not runs:
        raise ConfigError(f"{dataset.input_dir} has no samples")
    return Conversion(kind, RowSamples(dataset, change, fitting_rows(dataset)), runs)
