"""Leaves that are written as the bytes they already are, under the format that reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiolit.errors import ConfigError, DatasetError, SchemaError
from aiolit.format.dtypes import numpy_index
from aiolit.format.serializers import Serializer

# Every kind of image is read alike, whatever the format is called: LitData reads this one, too.
IMAGE = "jpeg"


@dataclass(frozen=True, slots=True)
class Stored:
    """A leaf as its bytes.

    Attributes:
        format: The name of the format that decodes them.
        data: The bytes.
    """

    format: str
    data: bytes


class StoredSerializer(Serializer):
    """Writes ``Stored`` leaves as they are; readers need nothing of it."""

    def can_serialize(self, item: Any) -> bool:
        """Return whether ``item`` is a stored leaf."""
        return isinstance(item, Stored)

    def serialize(self, item: Stored) -> tuple[bytes, str]:
        """Return the bytes and the name of their format."""
        return item.data, item.format

    def deserialize(self, data: Any) -> Any:
        """Refuse: nothing is stored under this serializer's own name."""
        raise NotImplementedError


class KeepStored(Serializer):
    """Reads leaves of a format as ``Stored``: undecoded, to be written as they are.

    Args:
        stored_as: The format they are to be written as; by default their own.
    """

    def __init__(self, stored_as: str) -> None:
        self._format = stored_as

    def can_serialize(self, item: Any) -> bool:
        """Refuse everything: it only reads."""
        return False

    def serialize(self, item: Any) -> tuple[bytes, None]:
        """Refuse: it only reads."""
        raise NotImplementedError

    def deserialize(self, data: Any) -> Any:
        """Return the leaf."""
        return Stored(self._format, data)


def image_leaf(data: bytes) -> Stored:
    """Return an image's file as a leaf that is read as pixels."""
    return Stored(IMAGE, data)


def json_leaf(value: Any) -> Stored:
    """Return a value of JSON, of any shape, as a leaf; what JSON has no form for becomes text."""
    return Stored("json", json.dumps(value, ensure_ascii=False, default=str).encode())


def json_text_leaf(text: bytes, source: str) -> Stored:
    """Return JSON text as a leaf.

    Raises:
        DatasetError: It is none; the message begins with ``source``.
    """
    try:
        return json_leaf(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source}: no JSON: {error}") from error


def array_leaf(array: np.ndarray[Any, Any], source: str) -> Any:
    """Return an array as a leaf that keeps its type, also one without dimensions.

    Raises:
        SchemaError: Arrays of its type cannot be stored.
    """
    if array.ndim:
        return array
    index = numpy_index(array.dtype)
    if index is None:
        raise SchemaError(f"{source}: a number of type {array.dtype} cannot be stored")
    return Stored("numpy", struct.pack("<2I", index, 0) + array.tobytes())


def number_leaf(value: Any) -> Any:
    """Return a number of numpy as Python's where that keeps its type, else as an array."""
    if not isinstance(value, np.generic):
        return value
    if isinstance(value, np.int64 | np.float64 | np.bool_):
        return value.item()
    return array_leaf(np.asarray(value), "a number")


def check_columns(names: Sequence[str], wanted: Sequence[str] | None, source: str) -> None:
    """Refuse columns that are not there.

    Raises:
        ConfigError: One is not; the message begins with ``source``.
    """
    for name in wanted or ():
        if name not in names:
            raise ConfigError(f"{source} has no column {name!r}, only {', '.join(names)}")
