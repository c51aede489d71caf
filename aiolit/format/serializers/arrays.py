"""NumPy arrays: of one dimension as bare elements, of any other number with a header."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from aiolit.errors import ChunkFormatError, IndexFormatError, SchemaError
from aiolit.format.dtypes import numpy_dtype, numpy_index
from aiolit.format.serializers.base import Decode, LeafEncoder, LeafKind, mismatch

# NumPy 2 allows 64, NumPy 1 half of it and says so itself.
MAX_RANK = 64


class BareArrayKind(LeafKind):
    """A 1-D array; its dtype is part of the format name, ``no_header_numpy:3``."""

    name = "no_header_numpy"

    def claims(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.ndim == 1

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        index, dtype = storable_index(value, path), value.dtype

        def encode(value: Any) -> bytes:
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
                raise mismatch(path, f"a 1-D numpy array of {dtype}", value)
            if isinstance(value, np.ma.MaskedArray):
                storable_index(value, path)
            return value.tobytes()

        return LeafEncoder(path, f"{self.name}:{index}", encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        index = no_header_index(format_name)
        dtype = numpy_dtype(index)
        if dtype is None:
            raise IndexFormatError(f"'{format_name}': arrays of dtype {index} cannot be read")
        itemsize = dtype.itemsize

        def decode(data: memoryview) -> npt.NDArray[Any]:
            if len(data) % itemsize:
                raise ChunkFormatError(
                    f"an array leaf of {len(data)} bytes holds no whole number of {dtype}"
                )
            return np.frombuffer(data, dtype).copy()

        return decode


class ArrayKind(LeafKind):
    """An array with its dtype and shape before the elements; so a scalar keeps its dtype too.

    A scalar comes back as an array without dimensions, which is what LitData's reader makes of it:
    its writer would pickle it.
    """

    name = "numpy"

    def claims(self, value: Any) -> bool:
        if isinstance(value, np.ndarray) and value.ndim > 0:
            return value.ndim > 1
        # What has no dimensions and cannot be stored here is left to pickle.
        return (
            isinstance(value, np.ndarray | np.generic)
            and not isinstance(value, np.ma.MaskedArray)
            and numpy_index(value.dtype) is not None
        )

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        is_number = np.ndim(value) == 0
        accepted = (np.ndarray, np.generic, int, float) if is_number else np.ndarray
        expected = "a number or an array" if is_number else "a numpy array"

        def encode(value: Any) -> bytes:
            if not isinstance(value, accepted):
                raise mismatch(path, expected, value)
            array = value if isinstance(value, np.ndarray) else np.asarray(value)
            index = storable_index(array, path)
            header = struct.pack(f"<{2 + array.ndim}I", index, array.ndim, *array.shape)
            return b"".join((header, np.ascontiguousarray(array).data))

        storable_index(np.asanyarray(value), path)
        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_array


def storable_index(value: npt.NDArray[Any], path: str) -> int:
    """Return the number of an array's dtype, or raise SchemaError when it cannot be stored."""
    index = numpy_index(value.dtype)
    if index is None:
        raise SchemaError(
            f"leaf '{path}': numpy arrays of dtype {value.dtype} cannot be stored; convert it to "
            "native numbers or bools, or store a text or bytes"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise SchemaError(f"leaf '{path}': a masked array would lose its mask; store .filled()")
    return index


def no_header_index(format_name: str) -> int:
    """Return the dtype number in a format name such as ``no_header_numpy:3``.

    Raises:
        IndexFormatError: There is no number.
    """
    index = format_name.partition(":")[2]
    if not (index.isascii() and index.isdecimal() and len(index) < 4):
        raise IndexFormatError(f"the format name '{format_name}' has no dtype number")
    return int(index)


def read_header(data: memoryview, order: str, what: str) -> tuple[int, tuple[int, ...], int]:
    """Return dtype number, shape, and where the elements begin.

    Args:
        data: The stored leaf.
        order: ``"<"`` or ``">"``, the byte order of the header.
        what: The kind of leaf; it opens the error messages.

    Raises:
        ChunkFormatError: The header is cut off or has too many dimensions.
    """
    if len(data) < 8:
        raise ChunkFormatError(f"{what} of {len(data)} bytes is shorter than its header")
    index, rank = struct.unpack_from(f"{order}2I", data)
    start = 8 + 4 * rank
    if rank > MAX_RANK or start > len(data):
        raise ChunkFormatError(f"{what} of {len(data)} bytes claims to have {rank} dimensions")
    return index, struct.unpack_from(f"{order}{rank}I", data, 8), start


def check_size(shape: tuple[int, ...], itemsize: int, nbytes: int, what: str) -> None:
    """Raise ChunkFormatError unless a shape accounts for exactly ``nbytes`` bytes."""
    if math.prod(shape) * itemsize != nbytes:
        raise ChunkFormatError(
            f"{what} claims the shape {shape} with {itemsize} bytes an element, but has {nbytes} "
            "bytes of elements"
        )


def decode_array(data: memoryview) -> npt.NDArray[Any]:
    """Decode an array with a header."""
    index, shape, start = read_header(data, "<", "an array leaf")
    dtype = numpy_dtype(index)
    if dtype is None:
        raise ChunkFormatError(f"an array leaf has dtype {index}, which cannot be read")
    check_size(shape, dtype.itemsize, len(data) - start, "an array leaf")
    try:
        return np.frombuffer(data[start:], dtype).reshape(shape).copy()
    except ValueError as exc:  # no elements, and yet more dimensions or length than NumPy takes
        raise ChunkFormatError(f"an array leaf has the shape {shape}: {exc}") from exc
