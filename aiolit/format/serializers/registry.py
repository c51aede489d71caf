"""Which serializer stores a leaf, and which reads it back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from aiolit.errors import IndexFormatError, SchemaError
from aiolit.format.leaf_types import describe
from aiolit.format.serializers.arrays import ArrayKind, BareArrayKind
from aiolit.format.serializers.base import (
    BytesLike,
    Decode,
    LeafEncoder,
    LeafKind,
    Serializer,
    mismatch,
)
from aiolit.format.serializers.media import READ_ONLY_MEDIA, VIDEO
from aiolit.format.serializers.pickles import PickleKind
from aiolit.format.serializers.pictures import (
    ImageKind,
    JpegArrayKind,
    JpegKind,
    PilKind,
    TiffFileKind,
    TiffKind,
)
from aiolit.format.serializers.scalars import (
    BoolKind,
    BytesKind,
    FileKind,
    FloatKind,
    IntKind,
    StrKind,
    TextKind,
)
from aiolit.format.serializers.structures import GraphKind, JsonKind
from aiolit.format.serializers.tensors import BareTensorKind, TensorKind

# The order of trial for a first sample. The two kinds that take the path of an existing file come
# first, so that "str" may claim every other text: LitData pickles the path of an existing file of
# another kind, here it stays a text, which every version reads as the same text.
_WRITTEN: tuple[LeafKind, ...] = (
    VIDEO,
    TiffFileKind(),
    StrKind(),
    BoolKind(),
    IntKind(),
    FloatKind(),
    PilKind(),
    JpegKind(),
    JpegArrayKind(),
    BytesKind(),
    BareArrayKind(),
    ArrayKind(),
    BareTensorKind(),
    TensorKind(),
    PickleKind(),
)
_READ_ONLY: tuple[LeafKind, ...] = (
    TextKind(),
    FileKind(),
    ImageKind(),
    TiffKind(),
    JsonKind(),
    GraphKind(),
    *READ_ONLY_MEDIA,
)
_BY_NAME: dict[str, LeafKind] = {kind.name: kind for kind in _WRITTEN + _READ_ONLY}

_FIXED_NBYTES = {"int": 8, "float": 8, "bool": 1}


def format_names() -> tuple[str, ...]:
    """Return the names of the built-in formats, without suffixes."""
    return tuple(_BY_NAME)


def fixed_nbytes(format_name: str) -> int | None:
    """Return how many bytes every leaf of a built-in format has, or None when they differ."""
    return _FIXED_NBYTES.get(format_name)


class SerializerRegistry:
    """The serializers of one data set: the user's, then the built-in ones.

    Args:
        user: The user's serializers by name, tried first and in this order.
        allow_pickle: Whether pickled leaves may be loaded, which runs code from the data.
        decode_files: Whether images, videos and the like, stored as encoded files, are decoded;
            else they are read as bytes.
    """

    def __init__(
        self,
        user: Mapping[str, Serializer] | None = None,
        *,
        allow_pickle: bool = True,
        decode_files: bool = True,
    ) -> None:
        self.user = dict(user or {})
        self.allow_pickle, self.decode_files = allow_pickle, decode_files

    def choose(self, leaf: Any, path: str) -> LeafEncoder:
        """Return the encoder for the leaf at ``path``, chosen by its value in the first sample.

        Raises:
            SchemaError: No serializer can store it, such as an array of objects.
        """
        for name, serializer in self.user.items():
            if serializer.can_serialize(leaf):
                return _user_encoder(serializer, name, leaf, path)
        kind = next(kind for kind in _WRITTEN if kind.claims(leaf))
        return kind.encoder(leaf, path)

    def decoder(self, format_name: str) -> Decode:
        """Return the function that decodes leaves of a stored format.

        The function takes a ``memoryview`` and returns a value that owns its memory. It raises
        ChunkFormatError for bytes that disagree with themselves, MissingDependencyError when
        an optional library is needed, and UntrustedDataError for pickles that are not allowed.

        Raises:
            IndexFormatError: No serializer has this name.
        """
        base, _, suffix = format_name.partition(":")
        if (serializer := self.user.get(format_name)) is not None:
            return _user_decoder(serializer, format_name)
        if base == "file" and "file" not in self.user:
            # LitData decodes "file:json" as JSON and unpickles "file:pickle": a file's own
            # ending must not choose how, or whether to run, its content.
            return _BY_NAME["file"].decoder(format_name, allow_pickle=False)
        for name in (suffix, base):
            if name == suffix == "tiff":
                continue  # no serializer's name to LitData, so "image:tiff" is an image
            if name in self.user:
                return _user_decoder(self.user[name], format_name)
            if name in _BY_NAME:
                kind = _BY_NAME[name]
                if not self.decode_files and (read_file := kind.file_reader()) is not None:
                    return read_file
                return kind.decoder(format_name, allow_pickle=self.allow_pickle)
        known = ", ".join(sorted({*self.user, *_BY_NAME}))
        raise IndexFormatError(
            f"no serializer for leaves of format '{format_name}'; pass serializers={{'{base}': "
            f"...}} as when the data set was written (known: {known})"
        )

    def fixed_nbytes(self, format_name: str) -> int | None:
        """Return how many bytes every leaf of a format has, or None when they differ."""
        return None if format_name in self.user else fixed_nbytes(format_name)


def _user_encoder(serializer: Serializer, name: str, leaf: Any, path: str) -> LeafEncoder:
    first = serializer.serialize(leaf)[1] or name

    def encode(value: Any) -> BytesLike:
        if not serializer.can_serialize(value):
            raise mismatch(path, f"a value for the serializer '{name}'", value)
        stored, format_name = serializer.serialize(value)
        if (format_name or name) != first:
            raise SchemaError(
                f"leaf '{path}': the serializer '{name}' gave the format '{format_name or name}', "
                f"but '{first}' for the first sample"
            )
        if not isinstance(stored, bytes | bytearray | memoryview):
            raise SchemaError(
                f"leaf '{path}': the serializer '{name}' gave a {describe(stored)}, not bytes"
            )
        return stored

    return LeafEncoder(path, first, encode)


def _user_decoder(serializer: Serializer, format_name: str) -> Decode:
    setup = getattr(serializer, "setup", None)
    if setup is not None:
        # One copy a leaf, since setup may keep the suffix of this leaf's format.
        serializer = copy.copy(serializer)
        serializer.setup(format_name)
    deserialize = serializer.deserialize
    if getattr(serializer, "zero_copy", False):
        return deserialize
    return lambda data: deserialize(bytes(data))
