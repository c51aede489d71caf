"""Leaves as the viewer reads them: files as they are stored, and a reason where one cannot be read.

A data set is opened with these in the place of the built-in serializers. So an image is not decoded
here and encoded again, audio and video need no library, and one leaf that cannot be read (a pickle
that nobody allowed, a library that is missing) does not hide the rest of its sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from aiolit.errors import UntrustedDataError
from aiolit.format.serializers.base import BytesLike, Serializer
from aiolit.format.serializers.pictures import jpeg_files
from aiolit.format.serializers.registry import SerializerRegistry, format_names

_FILES = frozenset({"jpeg", "image", "video", "audio", "nifti", "mesh", "pdf"})
_FILE_LISTS = frozenset({"jpeg_array"})


@dataclass(frozen=True, slots=True)
class File:
    """A leaf that is a whole file.

    Attributes:
        format_name: The leaf's format, such as ``"image:png"``.
        data: The file's bytes.
    """

    format_name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for a leaf that cannot be read; ``reason`` is one sentence."""

    reason: str


class _Reading(Serializer):
    """Reads leaves of the built-in formats, and writes none."""

    zero_copy: ClassVar[bool] = True

    def __init__(self, registry: SerializerRegistry) -> None:
        self._registry = registry

    def can_serialize(self, item: Any) -> bool:
        return False

    def serialize(self, item: Any) -> tuple[BytesLike, str | None]:
        raise NotImplementedError("leaves are only read")

    def setup(self, metadata: str) -> None:
        self._name = metadata
        self._base = metadata.partition(":")[0]
        self._decode = self._registry.decoder(metadata)

    def deserialize(self, data: Any) -> Any:
        try:
            if self._base in _FILES:
                return File(self._name, bytes(data))
            if self._base in _FILE_LISTS:
                return [File(self._name, bytes(one)) for one in jpeg_files(data)]
            return self._decode(data)
        except UntrustedDataError:
            return Unread(
                f"a pickled value of {len(data):,} bytes, which is not loaded: that would run code "
                "from the data (--allow-pickle, if you trust where it comes from)"
            )
        except Exception as error:  # noqa: BLE001 - a pickle can raise anything, and it is shown
            return Unread(one_sentence(error))


def reading_serializers(*, allow_pickle: bool) -> dict[str, Serializer]:
    """Return what reads the leaves of the built-in formats, by their names."""
    registry = SerializerRegistry(allow_pickle=allow_pickle)
    # A "file" leaf is bytes already, whatever its suffix says.
    return {name: _Reading(registry) for name in format_names() if name != "file"}


def one_sentence(error: BaseException) -> str:
    """Return what an error says, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    ours = type(error).__module__.startswith("aiolit.")
    return text if ours and text else f"{type(error).__name__}: {text}".rstrip(": ")
