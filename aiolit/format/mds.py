"""Samples of MosaicML MDS shards."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChunkFormatError, IndexFormatError
from aiolit.format.dataset_info import Index
from aiolit.format.serializers import SerializerRegistry

Decode = Callable[[memoryview], Any]

_SCALARS = {
    f"{kind}{8 * nbytes}": np.dtype(f"<{kind[0]}{nbytes}")
    for kind in ("uint", "int", "float")
    for nbytes in (1, 2, 4, 8)
    if (kind, nbytes) != ("float", 1)
}
# The formats of ours that hold the same bytes.
_SAME = {"str": "str", "bytes": "bytes", "pil": "pil", "jpeg": "jpeg", "png": "image:png"}
# Numbers that stand for element types in arrays whose encoding leaves the type open.
_ARRAY_DTYPES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}


def compile_mds_decoder(index: Index, registry: SerializerRegistry, source: str) -> Decode:
    """Return the function that turns an MDS sample's bytes into a dict of its columns.

    A sample is a u32 size for each column whose size is not fixed, then all columns.

    Raises:
        IndexFormatError: An encoding is not known.
    """
    if not index.chunks:
        return lambda data: {}
    extra = index.chunks[0].extra
    names: list[str] = extra["column_names"]
    sizes: list[int | None] = [size or None for size in extra["column_sizes"]]
    decoders = [_decoder(name, registry, source) for name in extra["column_encodings"]]
    free = sum(size is None for size in sizes)
    header = struct.Struct(f"<{free}I")

    def decode(data: memoryview) -> dict[str, Any]:
        if len(data) < header.size:
            raise ChunkFormatError(f"{len(data)} bytes are less than the sizes of its columns")
        declared = iter(header.unpack_from(data))
        sample: dict[str, Any] = {}
        at = header.size
        for name, size, decode_column in zip(names, sizes, decoders, strict=True):
            end = at + (next(declared) if size is None else size)
            if end > len(data):
                raise ChunkFormatError(f"column '{name}' ends behind the sample")
            try:
                sample[name] = decode_column(data[at:end])
            except (ValueError, struct.error) as error:
                raise ChunkFormatError(f"column '{name}': {error}") from error
            at = end
        if at != len(data):
            raise ChunkFormatError(f"{len(data) - at} bytes are left behind its columns")
        return sample

    return decode


def _decoder(encoding: str, registry: SerializerRegistry, source: str) -> Decode:
    kind, _, parameters = encoding.partition(":")
    if encoding in registry.user:
        return registry.decoder(encoding)
    if encoding in _SCALARS:
        return _scalar(_SCALARS[encoding])
    if encoding == "int":
        return _integer
    if encoding in ("str_int", "str_float"):
        return _text_number(int if encoding == "str_int" else float)
    if encoding == "str_decimal":
        return _decimal
    if kind == "ndarray":
        return _array_decoder(parameters, encoding, source)
    if encoding == "json":
        return _parse_json
    if encoding == "pkl":
        return registry.decoder("pickle")
    if kind in _SAME and (kind == "jpeg" or not parameters):
        return registry.decoder(_SAME[kind])  # "jpeg:90" tells the quality it was written with
    raise IndexFormatError(f"{source}: field 'column_encodings': {encoding!r} is not known")


def _scalar(dtype: np.dtype[Any]) -> Decode:
    def decode(data: memoryview) -> Any:
        if len(data) != dtype.itemsize:
            raise ChunkFormatError(f"{len(data)} bytes are no {dtype.name}")
        return np.frombuffer(data, dtype)[0]

    return decode


def _integer(data: memoryview) -> int:
    if len(data) != 8:
        raise ChunkFormatError(f"{len(data)} bytes are no int")
    return int.from_bytes(data, "little", signed=True)


def _text_number(number: type[int | float]) -> Decode:
    return lambda data: number(str(data, "utf-8"))


def _decimal(data: memoryview) -> Decimal:
    text = str(data, "utf-8")
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ChunkFormatError(f"{text[:40]!r} is no decimal number") from error


def _parse_json(data: memoryview) -> Any:
    try:
        return json.loads(str(data, "utf-8"))
    except RecursionError as error:
        raise ChunkFormatError("JSON nested too deeply") from error


def _array_decoder(parameters: str, encoding: str, source: str) -> Decode:
    """Arrays: type and shape stand in the encoding, or else before the elements."""
    name, _, sides = parameters.partition(":")
    try:
        fixed_shape = tuple(int(side) for side in sides.split(",")) if sides else None
    except ValueError:
        fixed_shape = (0,)
    if (name and name not in _SCALARS) or (fixed_shape and min(fixed_shape) < 1):
        raise IndexFormatError(f"{source}: field 'column_encodings': {encoding!r} is not known")

    def decode(data: memoryview) -> NDArray[Any]:
        at = 0
        if name:
            dtype = _SCALARS[name]
        else:
            dtype, at = _read_dtype(data), 1
        shape, at = (fixed_shape, at) if fixed_shape else _read_shape(data, at)
        if math.prod(shape) * dtype.itemsize != len(data) - at:
            raise ChunkFormatError(
                f"an array of shape {shape} and type {dtype.name} does not take {len(data) - at} "
                "bytes"
            )
        return np.frombuffer(data, dtype, offset=at).reshape(shape).copy()

    return decode


def _read_dtype(data: memoryview) -> np.dtype[Any]:
    name = _ARRAY_DTYPES.get(data[0]) if len(data) else None
    if name is None:
        raise ChunkFormatError("an array without a known element type")
    return _SCALARS[name]


def _read_shape(data: memoryview, at: int) -> tuple[tuple[int, ...], int]:
    if len(data) <= at:
        raise ChunkFormatError("an array without a shape")
    ndim, width = data[at] >> 2, 1 << (data[at] & 3)
    end = at + 1 + ndim * width
    if len(data) < end or ndim > 32:
        raise ChunkFormatError("an array whose shape is cut off or has too many dimensions")
    sides = np.frombuffer(data, f"<u{width}", count=ndim, offset=at + 1)
    return tuple(sides.tolist()), end
