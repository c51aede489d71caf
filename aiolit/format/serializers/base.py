"""What a serializer is: the protocol users write against, and the form the built-in ones have."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from aiolit.errors import SchemaError
from aiolit.format.leaf_types import describe

BytesLike = bytes | bytearray | memoryview
Encode = Callable[[Any], BytesLike]
Decode = Callable[[memoryview], Any]


class Serializer(ABC):
    """Turns one kind of leaf into bytes and back; subclass it for types of your own.

    Pass instances as ``serializers={"name": MySerializer()}``. The name is stored with the data,
    so a reader needs the same mapping. Any class with these methods works, whatever it inherits.

    Attributes:
        zero_copy: True when ``deserialize`` wants the stored bytes as a ``memoryview`` without a
            copy; by default it gets ``bytes``.
    """

    zero_copy: ClassVar[bool] = False

    @abstractmethod
    def can_serialize(self, item: Any) -> bool:
        """Return whether this serializer stores ``item``."""

    @abstractmethod
    def serialize(self, item: Any) -> tuple[BytesLike, str | None]:
        """Return the stored bytes, and the format name or None for its key in the mapping.

        The format name must be the same for every sample.
        """

    @abstractmethod
    def deserialize(self, data: Any) -> Any:
        """Return the value that ``data``, the stored bytes, stands for."""

    def setup(self, metadata: str) -> None:  # noqa: B027  # optional to override
        """Take the full format name, such as ``"name:suffix"``, before the first ``deserialize``.

        It is called on a copy of the serializer, one for each leaf.
        """


@dataclass(frozen=True, slots=True)
class LeafEncoder:
    """The serializer chosen for one leaf of the tree, from the first sample.

    Attributes:
        path: Where the leaf is in the sample, such as ``"boxes[0].label"``.
        format_name: The name stored in the index, suffix included.
        encode: Turns a value into bytes that share no memory with it. Raises SchemaError, with
            the path, when the value is of another kind than the first sample's.
    """

    path: str
    format_name: str
    encode: Encode


class LeafKind(ABC):
    """A built-in serializer: one row of the format's table."""

    name: str

    def claims(self, value: Any) -> bool:
        """Return whether a first sample's ``value`` is stored in this form.

        Kinds that are only read claim nothing.
        """
        return False

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        """Return the encoder for a leaf whose first value, one this kind claims, is ``value``."""
        raise NotImplementedError(f"'{self.name}' is only read")

    @abstractmethod
    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        """Return the function that turns stored bytes into the value."""

    def file_reader(self) -> Decode | None:
        """Return the function that hands out the encoded file, or files, that are stored; None if
        what is stored is no file."""
        return None


def mismatch(path: str, expected: str, value: Any) -> SchemaError:
    """Return the error for a value that differs in kind from the first sample's."""
    return SchemaError(
        f"leaf '{path}': expected {expected} as in the first sample, got {describe(value)}"
    )


def is_file_with(value: Any, extensions: tuple[str, ...]) -> bool:
    """Return whether ``value`` is a text that names an existing file with one of the endings."""
    return isinstance(value, str) and value.endswith(extensions) and os.path.isfile(value)


def read_file(path: str) -> bytes:
    """Return the content of a file that a sample names."""
    with open(path, "rb") as file:
        return file.read()
