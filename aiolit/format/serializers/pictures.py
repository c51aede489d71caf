"""PIL images as pixels, JPEG images as the files they came from."""

from __future__ import annotations

import io
import os
import struct
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from aiolit.errors import ChunkFormatError, SchemaError
from aiolit.format.images import decode_image
from aiolit.format.leaf_types import is_jpeg, is_jpeg_sequence, is_pil_image
from aiolit.format.optional import require
from aiolit.format.serializers.base import (
    Decode,
    LeafEncoder,
    LeafKind,
    is_file_with,
    mismatch,
    read_file,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image

_HEADER = struct.Struct("<3I")
# No compression that is in use packs more tightly than this, and most claims are far below.
_TIFF_RATIO = 4096
_TIFF_NBYTES_FREE = 1 << 28
# What tifffile raises for bytes it cannot make sense of.
_BAD_TIFF = (
    *(ArithmeticError, LookupError, NotImplementedError, OSError, TypeError, ValueError),
    struct.error,
)
_JPEG_START = b"\xff\xd8"

# Bytes a pixel of PIL's modes; "1" packs eight pixels into a byte.
_PIXEL_NBYTES = {
    **dict.fromkeys(("L", "P"), 1),
    **dict.fromkeys(("LA", "La", "PA", "I;16", "I;16L", "I;16B", "I;16N"), 2),
    **dict.fromkeys(("RGB", "YCbCr", "LAB", "HSV"), 3),
    **dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK", "I", "F"), 4),
}


class PilKind(LeafKind):
    """A PIL image that is no JPEG, as raw pixels; palette and metadata are lost."""

    name = "pil"

    def claims(self, value: Any) -> bool:
        return is_pil_image(value) and not is_jpeg(value)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not is_pil_image(value):
                raise mismatch(path, "a PIL image", value)
            mode = value.mode.encode()
            header = _HEADER.pack(value.width, value.height, len(mode))
            return b"".join((header, mode, value.tobytes()))

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_pil


class JpegKind(LeafKind):
    """A JPEG image, as a JPEG file. Other PIL images at its place are encoded at quality 100."""

    name = "jpeg"

    def claims(self, value: Any) -> bool:
        return is_jpeg(value)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not is_pil_image(value):
                raise mismatch(path, "a PIL image", value)
            return jpeg_file(value, path)

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_image

    def file_reader(self) -> Decode:
        return bytes


class JpegArrayKind(LeafKind):
    """A list or tuple of JPEG images, of any length, as JPEG files."""

    name = "jpeg_array"

    def claims(self, value: Any) -> bool:
        return is_jpeg_sequence(value)

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not isinstance(value, list | tuple) or not all(map(is_pil_image, value)):
                raise mismatch(path, "a list of PIL images", value)
            files = [jpeg_file(image, path) for image in value]
            header = struct.pack(f"<{1 + len(files)}I", len(files), *map(len, files))
            return b"".join((header, *files))

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_jpeg_array

    def file_reader(self) -> Decode:
        return lambda data: [bytes(file) for file in jpeg_files(data)]


class ImageKind(LeafKind):
    """An encoded image file that LitData wrote from an ``Image`` wrapper or path; only read."""

    name = "image"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_image

    def file_reader(self) -> Decode:
        return bytes


class TiffKind(LeafKind):
    """A TIFF file that LitData wrote from a ``Tiff`` wrapper; only read."""

    name = "tiff"

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_tiff

    def file_reader(self) -> Decode:
        return bytes


class TiffFileKind(TiffKind):
    """A TIFF file, given by its path; decoded to an array."""

    name = "tifffile"

    def claims(self, value: Any) -> bool:
        return is_file_with(value, (".tif", ".tiff"))

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not self.claims(value):
                raise mismatch(path, "the path of a TIFF file", value)
            return read_file(value)

        return LeafEncoder(path, self.name, encode)


def jpeg_file(image: Image.Image, path: str) -> bytes:
    """Return an image as a JPEG file: the file it came from if there is one, else encoded."""
    if is_jpeg(image) and (original := _original_file(image)):
        return original
    file = io.BytesIO()
    try:
        image.save(file, format="JPEG", quality="keep" if image.format == "JPEG" else 100)
    except (OSError, ValueError) as exc:
        raise SchemaError(f"leaf '{path}': the image cannot be a JPEG: {exc}") from exc
    return file.getvalue()


def _original_file(image: Any) -> bytes:
    """Return the file an image was opened from, or nothing when it is out of reach."""
    if image.filename and os.path.isfile(image.filename):
        return read_file(image.filename)
    # Opened from memory and not decoded yet: Pillow still holds the file.
    file = image.fp
    if file is None or getattr(file, "closed", True):
        return b""
    position = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(position)
    return data if data[:2] == _JPEG_START else b""


def decode_pil(data: memoryview) -> Image.Image:
    """Decode a PIL image from raw pixels."""
    pillow = require("PIL.Image", "aiolit[images]", "decoding a PIL image")
    if len(data) < _HEADER.size:
        raise ChunkFormatError(f"a PIL image of {len(data)} bytes is shorter than its header")
    width, height, mode_nbytes = _HEADER.unpack_from(data)
    start = _HEADER.size + mode_nbytes
    mode = bytes(data[_HEADER.size : start]).decode("ascii", "replace")
    if mode != "1" and mode not in _PIXEL_NBYTES:
        raise ChunkFormatError(f"a PIL image has the unknown mode {mode[:20]!r}")
    row_nbytes = (width + 7) // 8 if mode == "1" else width * _PIXEL_NBYTES[mode]
    if row_nbytes * height != len(data) - start:
        raise ChunkFormatError(
            f"a PIL image claims {width} x {height} pixels of mode {mode}, but has "
            f"{len(data) - start} bytes of pixels"
        )
    try:
        image: Image.Image = pillow.frombytes(mode, (width, height), data[start:])
    except (ValueError, OverflowError, MemoryError) as exc:
        # No pixels in one direction, and more in the other than PIL takes.
        raise ChunkFormatError(f"a PIL image of {width} x {height} pixels: {exc}") from exc
    return image


def decode_jpeg_array(data: memoryview) -> list[torch.Tensor]:
    """Decode a list of JPEG images."""
    return [decode_image(file) for file in jpeg_files(data)]


def jpeg_files(data: memoryview) -> list[memoryview]:
    """Cut a stored list of JPEG images into its files."""
    count = int.from_bytes(data[:4], "little")
    start = 4 + 4 * count
    if len(data) < max(4, start):
        raise ChunkFormatError(f"a JPEG list of {len(data)} bytes claims {count} images")
    sizes = struct.unpack_from(f"<{count}I", data, 4)
    if start + sum(sizes) != len(data):
        raise ChunkFormatError(
            f"a JPEG list of {len(data)} bytes claims {count} images of {sum(sizes)} bytes"
        )
    ends = accumulate(sizes, initial=start)
    return [data[lo:hi] for lo, hi in pairwise(ends)]


def decode_tiff(data: memoryview) -> Any:
    """Decode a TIFF file to an array."""
    tifffile = require("tifffile", "tifffile", "decoding a TIFF leaf")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            nbytes = max((series.nbytes for series in tiff.series), default=0)
            if nbytes > _TIFF_NBYTES_FREE and nbytes > _TIFF_RATIO * len(data):
                raise ValueError(f"it claims {nbytes} bytes of pixels")
            return tiff.asarray()
    except (tifffile.TiffFileError, *_BAD_TIFF) as exc:
        raise ChunkFormatError(f"a TIFF of {len(data)} bytes cannot be decoded: {exc}") from exc
