"""Files whose decoding takes a library of their own: video, sound, volumes, meshes, documents."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from typing import Any

from aiolit.errors import ChunkFormatError
from aiolit.format.optional import require
from aiolit.format.serializers.base import (
    Decode,
    LeafEncoder,
    LeafKind,
    is_file_with,
    mismatch,
    read_file,
)

Open = Callable[[Any, memoryview, str], Any]
"""Takes the library, the stored file and its extension."""

_GZIP_START = b"\x1f\x8b"
_VIDEO_EXTENSIONS = (".mp4", ".ogv", ".mjpeg", ".avi", ".mov", ".h264", ".mpg", ".webm", ".wmv")


class MediaKind(LeafKind):
    """An encoded file; only read, and decoded with an optional library.

    Args:
        name: The format name.
        module: The library's module.
        pip_name: What to give to pip.
        open_file: Decodes a file with the library.
    """

    def __init__(self, name: str, module: str, pip_name: str, open_file: Open) -> None:
        self.name = name
        self.module = module
        self.pip_name = pip_name
        self.open_file = open_file

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        extension = format_name.partition(":")[2]

        def decode(data: memoryview) -> Any:
            library = require(
                self.module,
                self.pip_name,
                f"decoding a {self.name} leaf",
                instead=f"; or pass serializers={{'{self.name}': "
                "aiolit.format.serializers.BytesSerializer()} to get the stored bytes",
            )
            try:
                return self.open_file(library, data, extension)
            except Exception as exc:
                # Each of these libraries has error classes of its own, which share no base.
                raise ChunkFormatError(
                    f"a {self.name} leaf of {len(data)} bytes cannot be decoded with "
                    f"{self.module}: {exc}"
                ) from exc

        return decode

    def file_reader(self) -> Decode:
        return bytes


class VideoKind(MediaKind):
    """A video file, given by its path; the extension is part of the name, ``video:mp4``."""

    def claims(self, value: Any) -> bool:
        return is_file_with(value, _VIDEO_EXTENSIONS)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not self.claims(value):
                raise mismatch(path, "the path of a video file", value)
            return read_file(value)

        extension = os.path.splitext(value)[1].removeprefix(".").lower()
        return LeafEncoder(path, f"{self.name}:{extension}", encode)


def open_video(torchcodec: Any, data: memoryview, extension: str) -> Any:
    """Return a ``torchcodec.decoders.VideoDecoder`` of a video file."""
    return torchcodec.VideoDecoder(bytes(data))


def open_audio(torchcodec: Any, data: memoryview, extension: str) -> Any:
    """Return a ``torchcodec.decoders.AudioDecoder`` of a sound file."""
    return torchcodec.AudioDecoder(bytes(data))


def open_nifti(nibabel: Any, data: memoryview, extension: str) -> Any:
    """Return a ``nibabel.Nifti1Image`` of a volume, unpacked if it is gzipped."""
    raw = bytes(data)
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(raw) if raw[:2] == _GZIP_START else raw)


def open_mesh(trimesh: Any, data: memoryview, extension: str) -> Any:
    """Return what trimesh loads from a mesh file: a scene or a mesh."""
    return trimesh.load(io.BytesIO(data), file_type=extension or "glb")


def open_pdf(pdfplumber: Any, data: memoryview, extension: str) -> Any:
    """Return a ``pdfplumber.PDF`` of a document."""
    return pdfplumber.open(io.BytesIO(data))


VIDEO = VideoKind("video", "torchcodec.decoders", "torchcodec", open_video)
READ_ONLY_MEDIA = (
    MediaKind("audio", "torchcodec.decoders", "torchcodec", open_audio),
    MediaKind("nifti", "nibabel", "nibabel", open_nifti),
    MediaKind("mesh", "trimesh", "trimesh", open_mesh),
    MediaKind("pdf", "pdfplumber", "pdfplumber", open_pdf),
)
