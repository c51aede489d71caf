"""The ``json`` leaves that LitData 0.2.74 and later write for lists and dicts: a tagged form.

Every count is checked against the bytes that are there before anything is built from it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from aiolit.errors import ChunkFormatError

MAX_DEPTH = 200

_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")

# A decoder of one tag: takes the bytes, the position behind the tag and the depth; returns the
# value and the position behind it.
_Parsed = tuple[Any, int]
_Parse = Callable[[memoryview, int, int], _Parsed]


def decode_json(data: memoryview) -> Any:
    """Decode a ``json`` leaf: a tagged value, or plain JSON text in the form before that.

    Raises:
        ChunkFormatError: The bytes are cut off, disagree with themselves, or nest too deeply.
    """
    if len(data) and data[0] > 0x20:
        return _parse_text(data)
    value, end = _tagged(data, 0, 0)
    if end != len(data):
        raise ChunkFormatError(f"a json leaf of {len(data)} bytes ends after {end}")
    return value


def _tagged(data: memoryview, at: int, depth: int) -> _Parsed:
    if depth > MAX_DEPTH:
        raise ChunkFormatError(f"a json leaf is nested more than {MAX_DEPTH} deep")
    tag = _scalar(data, at, 1)[0]
    if tag >= len(_TAGS):
        raise ChunkFormatError(f"a json leaf has the unknown tag {tag} at byte {at}")
    return _TAGS[tag](data, at + 1, depth)


def _scalar(data: memoryview, at: int, nbytes: int) -> memoryview:
    part = data[at : at + nbytes]
    if len(part) != nbytes:
        raise ChunkFormatError(
            f"a json leaf of {len(data)} bytes is cut off: {nbytes} bytes are missing at {at}"
        )
    return part


def _count(data: memoryview, at: int, least_nbytes: int) -> _Parsed:
    """Read a count of elements that take at least ``least_nbytes`` bytes each."""
    count: int = _U32.unpack(_scalar(data, at, 4))[0]
    if count * least_nbytes > len(data) - at - 4:
        raise ChunkFormatError(
            f"a json leaf of {len(data)} bytes claims {count} elements at byte {at}"
        )
    return count, at + 4


def _text(data: memoryview, at: int, depth: int) -> _Parsed:
    nbytes, at = _count(data, at, 1)
    try:
        return str(data[at : at + nbytes], "utf-8"), at + nbytes
    except UnicodeDecodeError as exc:
        raise ChunkFormatError(f"a json leaf has a text that is not UTF-8: {exc}") from exc


def _parse_text(text: memoryview) -> Any:
    try:
        return json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ChunkFormatError(f"a json leaf is not JSON: {exc}") from exc


def _json_text(data: memoryview, at: int, depth: int) -> _Parsed:
    nbytes, at = _count(data, at, 1)
    return _parse_text(data[at : at + nbytes]), at + nbytes


def _list_of_texts(data: memoryview, at: int, depth: int) -> _Parsed:
    count, at = _count(data, at, 4)
    texts = []
    for _ in range(count):
        text, at = _text(data, at, depth)
        texts.append(text)
    return texts, at


def _list_of(dtype: str) -> _Parse:
    itemsize = np.dtype(dtype).itemsize

    def parse(data: memoryview, at: int, depth: int) -> _Parsed:
        count, at = _count(data, at, itemsize)
        end = at + count * itemsize
        return np.frombuffer(data[at:end], dtype).tolist(), end

    return parse


def _list_of_flags(data: memoryview, at: int, depth: int) -> _Parsed:
    count, at = _count(data, at, 1)
    return [byte != 0 for byte in data[at : at + count]], at + count


def _dict(data: memoryview, at: int, depth: int) -> _Parsed:
    count, at = _count(data, at, 5)
    value = {}
    for _ in range(count):
        key, at = _text(data, at, depth)
        value[key], at = _tagged(data, at, depth + 1)
    return value, at


def _table(data: memoryview, at: int, depth: int) -> _Parsed:
    rows, at = _count(data, at, 1)
    columns, at = _count(data, at, 4)
    keys = []
    for _ in range(columns):
        key, at = _text(data, at, depth)
        keys.append(key)
    # A row without columns takes no bytes, so nothing would bound their number.
    if not columns or rows * columns > len(data) - at:
        raise ChunkFormatError(
            f"a json leaf of {len(data)} bytes claims {rows} rows of {columns} cells"
        )
    table = []
    for _ in range(rows):
        row = {}
        for key in keys:
            row[key], at = _cell(data, at)
        table.append(row)
    return table, at


def _cell(data: memoryview, at: int) -> _Parsed:
    tag = _scalar(data, at, 1)[0]
    parse = _CELLS.get(tag)
    if parse is None:
        raise ChunkFormatError(f"a json leaf has the unknown cell tag {tag} at byte {at}")
    return parse(data, at + 1, 0)


def _int(data: memoryview, at: int, depth: int) -> _Parsed:
    return _I64.unpack(_scalar(data, at, 8))[0], at + 8


def _float(data: memoryview, at: int, depth: int) -> _Parsed:
    return _F64.unpack(_scalar(data, at, 8))[0], at + 8


def _flag(data: memoryview, at: int, depth: int) -> _Parsed:
    return _scalar(data, at, 1)[0] != 0, at + 1


def _none(data: memoryview, at: int, depth: int) -> _Parsed:
    return None, at


_TAGS: tuple[_Parse, ...] = (
    _json_text,
    _list_of_texts,
    _list_of("<i8"),
    _list_of("<f8"),
    _list_of_flags,
    _dict,
    _table,
    _text,
    _int,
    _float,
    _flag,
    _none,
)
_CELLS: dict[int, _Parse] = {0x10: _none, 0x11: _text, 0x12: _int, 0x13: _float, 0x14: _flag}
