"""What a browser can show or play: recognised by its first bytes, or made of pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import MissingDependencyError
from aiolit.format.images import load_module

Pixels = NDArray[np.uint8]

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

_LEAST_SIDE, _MOST_SIDE = 8, 8192
_DARKEST = 64  # 8-bit images with no value above are stretched, or nothing would be seen
_MP3_BITRATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_RATES = (44100, 48000, 32000)


@dataclass(frozen=True, slots=True)
class Media:
    """Something that has an address of its own.

    Attributes:
        mime: The content type it is served as; one of a fixed few.
        nbytes: About how much memory it takes.
        content: Returns the bytes; may take a while, so it is called in a thread.
    """

    mime: str
    nbytes: int
    content: Callable[[], bytes]

    @classmethod
    def of_bytes(cls, mime: str, data: bytes) -> Media:
        """Return media of bytes that are there."""
        return cls(mime, len(data), lambda: data)


def sniff(data: bytes) -> str | None:
    """Return the content type of an image, sound or video by how it begins; None of all others."""
    head = data[:16]
    for start, mime in (
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"ID3", "audio/mpeg"),
        (b"\x1aE\xdf\xa3", "video/webm"),
    ):
        if head.startswith(start):
            return mime
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio/wav", b"WEBP": "image/webp"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        brands = {b"avif": "image/avif", b"avis": "image/avif", b"M4A ": "audio/mp4"}
        return brands.get(head[8:12], "video/mp4")
    if head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == len(data):
        return "image/bmp"
    return "audio/mpeg" if _is_mp3(data) else None


def _is_mp3(data: bytes) -> bool:
    """Whether a frame of MPEG-1 layer III begins here, and another where it ends."""
    at = 0
    for _ in range(2):
        frame = data[at : at + 4]
        if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xFE != 0xFA:
            return False
        bitrate, rate = frame[2] >> 4, frame[2] >> 2 & 3
        if not 0 < bitrate < 15 or rate == 3:
            return False
        at += 144000 * _MP3_BITRATES[bitrate] // _MP3_RATES[rate] + (frame[2] >> 1 & 1)
    return True


def readable_text(data: bytes) -> str | None:
    """Return bytes as text where they are UTF-8 without control characters; else None."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    plain = all(char.isprintable() or char in "\t\r\n" for char in text)
    return text if text and plain else None


def is_tiff(data: bytes) -> bool:
    """Whether the bytes are a TIFF file, which browsers do not show."""
    return data[:4] in (b"II*\0", b"MM\0*")


def tiff_as_png(data: bytes) -> bytes:
    """Return the first picture of a TIFF file as a PNG file.

    Raises:
        MissingDependencyError: Pillow is not installed.
        OSError: It cannot be decoded.
    """
    with _pillow().open(io.BytesIO(data), formats=["TIFF"]) as image:
        return picture_as_png(image)


def picture_as_png(image: Any) -> bytes:
    """Return a PIL image as a PNG file."""
    file = io.BytesIO()
    mode = image.mode if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "RGB"
    image.convert(mode).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def can_draw() -> bool:
    """Whether Pillow is there to make images of arrays."""
    return load_module("PIL.Image") is not None


def _pillow() -> Any:
    pillow = load_module("PIL.Image")
    if pillow is None:
        raise MissingDependencyError(
            "showing this image needs Pillow: pip install 'aiolit[viewer]'"
        )
    return pillow


def looks_like_picture(array: NDArray[Any]) -> bool:
    """Whether an array has the shape of an image: grey, or with 1, 3 or 4 channels in front or
    behind, and no side of less than 8 pixels."""
    if array.dtype.kind not in "biuf":
        return False
    sides = _sides(array.shape)
    return sides is not None and all(_LEAST_SIDE <= side <= _MOST_SIDE for side in sides)


def _sides(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) == 2:
        return shape
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return shape[1:]
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        return shape[:2]
    return None


def brightness(array: NDArray[Any]) -> tuple[float, float] | None:
    """Return the values that are shown black and white; None where pixels are shown as they are."""
    if array.dtype == np.bool_:
        return 0.0, 1.0
    values = array if array.dtype.kind in "iu" else array[np.isfinite(array)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if array.dtype == np.uint8 and high >= _DARKEST:
        return None
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high


def array_as_png(array: NDArray[Any]) -> bytes:
    """Return an array that looks like a picture as a PNG file."""
    span = brightness(array)
    pixels: Any = array
    if span is not None:
        low, high = span
        known = np.nan_to_num(array.astype(np.float64), nan=low, posinf=high, neginf=low)
        pixels = ((known - low) * (255 / (high - low or 1))).round().astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return picture_as_png(_pillow().fromarray(np.ascontiguousarray(pixels)))
