"""A conversion as what ``optimize`` needs: a function, and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from aiolit.cli.convert.detect import Found, Kind, Place, find, split_place
from aiolit.cli.convert.images import ImageSample, classes_line, find_classes
from aiolit.cli.convert.leaves import check_columns
from aiolit.cli.convert.webdataset import TarSamples
from aiolit.runtime.portal import portal
from aiolit.store.connect import open_store
from aiolit.streaming.resolver import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user wants converted.

    Attributes:
        source: A folder, a file or a URL, with a pattern perhaps.
        kind: What it is, or None for whatever is there.
        columns: What to keep of each sample, or None for all.
        undecoded: Whether images are handed out as bytes.
        checks: Whether each image of a folder is decoded, to see that it can be.
        storage_options: Of the client of the source's store.
        session_options: Of its session.
    """

    source: str
    kind: Kind | None
    columns: Sequence[str] | None
    undecoded: bool
    checks: bool
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
        note: What else there is to say of what was found.
    """

    kind: Kind
    fn: Callable[[Any], Any]
    inputs: list[Any]
    note: str = ""


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
    # Torch comes with these readers, and nothing else needs it: as with commands, see main().
    readers = import_module("aiolit.cli.convert.rows")
    if found.kind == "mds":
        rows = readers.mds_samples(store, wanted.columns, wanted.undecoded, wanted.options)
    else:
        rows = readers.parquet_samples(
            store, found.keys, wanted.columns, wanted.undecoded, wanted.options
        )
    return Conversion(found.kind, rows, rows.runs())


def _plan_images(wanted: Wanted, place: Place, keys: list[str]) -> Conversion:
    store = open_store(place.root, **wanted.options)
    classes = find_classes(keys)
    fn = ImageSample(store, classes, undecoded=wanted.undecoded, checks=wanted.checks)
    if wanted.columns is not None:
        check_columns(fn.names, wanted.columns, place.root)
        fn.columns = tuple(wanted.columns)
    return Conversion("images", fn, keys, note=classes_line(keys, classes))
