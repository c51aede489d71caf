"""Columns of Parquet files as leaves: what each is written as, known before the first row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aiolit.cli.convert.leaves import image_leaf, json_leaf
from aiolit.errors import ConfigError, DatasetError
from aiolit.format.dataset_info import ChunkInfo
from aiolit.format.optional import require
from aiolit.format.parquet import FOOTER_BYTES
from aiolit.groups import single_error
from aiolit.store.base import Store

Leaf = Callable[[Any], Any]

_AT_ONCE = 16
_HUB = b"huggingface"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the footers of all files say of their columns.

    Attributes:
        schema: The Arrow schema.
        with_nulls: The columns in which a cell is empty, or may be.
        features: What the Hugging Face Hub says of a column: ``Image``, ``Audio``, ...
    """

    schema: Any
    with_nulls: frozenset[str]
    features: dict[str, str]


async def read_columns(store: Store, chunks: Sequence[ChunkInfo]) -> Columns:
    """Read the footers of Parquet files.

    Raises:
        StoreError: One cannot be read.
    """
    places = asyncio.Semaphore(_AT_ONCE)
    nulls: set[str] = set()
    schemas: dict[int, Any] = {}

    async def read(number: int, chunk: ChunkInfo) -> None:
        async with places:
            size, footer = chunk.nbytes, int(chunk.extra[FOOTER_BYTES])
            tail = await store.get_range(chunk.filename, size - footer, size)
        schema, empty = await asyncio.to_thread(_parse, tail)
        nulls.update(empty)
        if not number:
            schemas[0] = schema

    with single_error():
        async with asyncio.TaskGroup() as group:
            for number, chunk in enumerate(chunks):
                group.create_task(read(number, chunk))
    return Columns(schemas[0], frozenset(nulls), _features(schemas[0]))


def _parse(tail: bytes) -> tuple[Any, set[str]]:
    arrow = require("pyarrow", "aiolit[parquet]", "reading Parquet")
    parquet = require("pyarrow.parquet", "aiolit[parquet]", "reading Parquet")
    metadata = parquet.read_metadata(arrow.BufferReader(tail))
    empty: set[str] = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            found = column.statistics
            if found is None or not found.has_null_count or found.null_count:
                empty.add(column.path_in_schema.partition(".")[0])
    return metadata.schema.to_arrow_schema(), empty


def _features(schema: Any) -> dict[str, str]:
    """Return the kinds of the columns that the Hub's ``datasets`` noted in the file."""
    try:
        features = json.loads((schema.metadata or {}).get(_HUB, b"{}"))["info"]["features"]
        return {name: str(feature["_type"]) for name, feature in features.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True, slots=True)
class ParquetSample:
    """Turns a row into a sample.

    Attributes:
        leaves: For each column what makes its leaf.
    """

    leaves: dict[str, Leaf]

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the sample."""
        return {name: leaf(row[name]) for name, leaf in self.leaves.items()}


def sample_maker(
    columns: Columns, wanted: Sequence[str], *, undecoded: bool, source: str
) -> ParquetSample:
    """Return what turns rows into samples.

    Texts, numbers, flags and bytes stay what they are, lists of numbers become arrays, images (as
    the Hub's files mark them) become images, times become text. Everything else, and every column
    with empty cells, becomes a leaf of JSON, which reads as what it was.

    Raises:
        ConfigError: A column has bytes in a place where none can be stored.
    """
    schema = columns.schema
    return ParquetSample(
        {
            name: _leaf(
                name,
                schema.field(name).type,
                empty=name in columns.with_nulls,
                feature=columns.features.get(name, ""),
                undecoded=undecoded,
                source=source,
            )
            for name in wanted
        }
    )


def _leaf(name: str, kind: Any, *, empty: bool, feature: str, undecoded: bool, source: str) -> Leaf:
    types = require("pyarrow", "aiolit[parquet]", "reading Parquet").types
    if _is_file(types, kind):
        return partial(_file, name, decoded=feature == "Image" and not undecoded)
    if not empty:
        if types.is_dictionary(kind):
            kind = kind.value_type
        if _is_plain(types, kind):
            return _same
        if types.is_temporal(kind) or types.is_decimal(kind):
            return str
        if (dtype := _list_dtype(types, kind)) is not None:
            return partial(np.array, dtype=dtype)
    if _has_bytes(types, kind):
        raise ConfigError(
            f"{source}: column {name!r} is {kind}, of which cells are empty or nested, and bytes "
            "have no form there; name the other columns with --columns"
        )
    return json_leaf


def _same(value: Any) -> Any:
    return value


def _file(name: str, value: Any, *, decoded: bool) -> Any:
    data = None if value is None else value["bytes"]
    if data is None:
        raise DatasetError(
            f"column {name!r} has a row without a file's bytes; name the others with --columns"
        )
    return image_leaf(data) if decoded else data


def _is_file(types: Any, kind: Any) -> bool:
    """Whether a column holds files as the Hub stores them: bytes, and the path they came from."""
    if not types.is_struct(kind) or kind.num_fields != 2:
        return False
    return {kind.field(0).name, kind.field(1).name} == {"bytes", "path"}


def _is_plain(types: Any, kind: Any) -> bool:
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def _list_dtype(types: Any, kind: Any) -> Any:
    """Return numpy's type of the numbers in a column of lists, or None where it is none."""
    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    # Lists in lists may be of different lengths, which is no array.
    return np.dtype(kind.to_pandas_dtype()) if number and depth == 1 else None


def _has_bytes(types: Any, kind: Any) -> bool:
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_has_bytes(types, kind.field(n).type) for n in range(kind.num_fields))
