"""Texts, numbers, flags and bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from aiolit.errors import ChunkFormatError, SchemaError
from aiolit.format.serializers.base import Decode, LeafEncoder, LeafKind, Serializer, mismatch

_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")
_INTS = (int, np.integer)


class TextKind(LeafKind):
    """UTF-8 text that LitData wrote from a ``Text`` wrapper; only read."""

    name = "text"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_str


class StrKind(TextKind):
    """UTF-8 text."""

    name = "str"

    def claims(self, value: Any) -> bool:
        return isinstance(value, str)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not isinstance(value, str):
                raise mismatch(path, "a str", value)
            try:
                return value.encode()
            except UnicodeEncodeError as exc:
                raise SchemaError(f"leaf '{path}': the text has no UTF-8 form: {exc}") from exc

        return LeafEncoder(path, self.name, encode)


class BoolKind(LeafKind):
    """One byte, 0 or 1; numpy's flags too, which come back as Python's."""

    name = "bool"

    def claims(self, value: Any) -> bool:
        return isinstance(value, bool | np.bool_)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if value is True:
                return b"\x01"
            if value is False:
                return b"\x00"
            if isinstance(value, np.bool_):
                return b"\x01" if value else b"\x00"
            raise mismatch(path, "a bool", value)

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_bool


class IntKind(LeafKind):
    """A signed 64-bit number; numpy's too, which come back as Python's.

    Where the first is one of numpy's of fewer bits, the leaf keeps them: see `ArrayKind`.
    """

    name = "int"

    def claims(self, value: Any) -> bool:
        return isinstance(value, int | np.int64)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        pack = _I64.pack

        def encode(value: Any) -> bytes:
            # A bool is an int to Python, but would come back as a number.
            if not isinstance(value, _INTS) or value is True or value is False:
                raise mismatch(path, "an int", value)
            try:
                return pack(value)
            except struct.error:
                raise SchemaError(f"leaf '{path}': {value} does not fit in 64 bits") from None

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_int


class FloatKind(LeafKind):
    """A 64-bit floating-point number; ints are accepted in its place."""

    name = "float"

    def claims(self, value: Any) -> bool:
        return isinstance(value, float)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        pack = _F64.pack

        def encode(value: Any) -> bytes:
            if not isinstance(value, float | int) or value is True or value is False:
                raise mismatch(path, "a float", value)
            try:
                return pack(value)
            except (OverflowError, struct.error):
                raise SchemaError(
                    f"leaf '{path}': an int this large does not fit in a float"
                ) from None

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_float


class FileKind(LeafKind):
    """The content of a file that LitData wrote from a ``File`` wrapper; only read, as bytes."""

    name = "file"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return bytes


class BytesKind(FileKind):
    """The bytes themselves."""

    name = "bytes"

    def claims(self, value: Any) -> bool:
        return isinstance(value, bytes)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not isinstance(value, bytes):
                raise mismatch(path, "bytes", value)
            return value

        return LeafEncoder(path, self.name, encode)


class BytesSerializer(Serializer):
    """Gives the stored bytes of a leaf as they are.

    Pass it to read leaves undecoded: ``serializers={"video": BytesSerializer()}``.
    """

    def can_serialize(self, item: Any) -> bool:
        """Return whether ``item`` is bytes."""
        return isinstance(item, bytes)

    def serialize(self, item: Any) -> tuple[bytes, None]:
        """Return ``item``."""
        return item, None

    def deserialize(self, data: Any) -> bytes:
        """Return the stored bytes."""
        return bytes(data)


def decode_str(data: memoryview) -> str:
    """Decode UTF-8 text."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as exc:
        raise ChunkFormatError(f"a text leaf is not UTF-8: {exc}") from exc


def decode_bool(data: memoryview) -> bool:
    """Decode a flag; any byte but 0 is true."""
    if len(data) != 1:
        raise ChunkFormatError(f"a bool leaf has 1 byte, not {len(data)}")
    return data[0] != 0


def decode_int(data: memoryview) -> int:
    """Decode a signed 64-bit number."""
    try:
        return _I64.unpack(data)[0]  # type: ignore[no-any-return]
    except struct.error:
        raise ChunkFormatError(f"an int leaf has 8 bytes, not {len(data)}") from None


def decode_float(data: memoryview) -> float:
    """Decode a 64-bit floating-point number."""
    try:
        return _F64.unpack(data)[0]  # type: ignore[no-any-return]
    except struct.error:
        raise ChunkFormatError(f"a float leaf has 8 bytes, not {len(data)}") from None
