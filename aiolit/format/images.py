"""Encoded images to uint8 tensors, channels first, with the number of channels the file has."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aiolit.errors import ChunkFormatError, MissingDependencyError

if TYPE_CHECKING:
    import torch

JpegDecoder = Callable[[memoryview, int], "torch.Tensor"]
"""Takes a JPEG file and its number of channels."""

_JPEG_START = b"\xff\xd8"
# What Pillow's many decoders raise for bytes they cannot decode; EOFError and OSError among them.
_BAD_IMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, struct.error)
# A block of 8x8 pixels takes at least one bit, so a byte cannot stand for more than 512 pixels.
_PIXELS_PER_BYTE = 1024
_PIXELS_FREE = 1 << 20


def load_module(name: str) -> Any:
    """Import a module, or return None when it is missing or does not load."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError):
        # OSError and RuntimeError: a torchvision that was built for another torch.
        return None


def decode_image(data: memoryview, *, load: Callable[[str], Any] = load_module) -> torch.Tensor:
    """Decode an encoded image of any kind to a writable uint8 tensor of shape (C, H, W).

    Args:
        data: The image file.
        load: Imports a module by name, or returns None.

    Raises:
        ChunkFormatError: The bytes are no image, cut off, or claim a size they cannot hold.
        MissingDependencyError: No library that can decode it is installed.
    """
    if data[:2] == _JPEG_START:
        return decode_jpeg(data)
    pillow = load("PIL.Image")
    if pillow is None:
        raise MissingDependencyError(
            "decoding images that are not JPEG needs Pillow: pip install 'aiolit[images]'"
        )
    return _decode_with_pillow(pillow, data)


def decode_jpeg(data: memoryview) -> torch.Tensor:
    """Decode a JPEG file with the fastest library installed: torchvision, simplejpeg or Pillow."""
    height, width, channels = jpeg_shape(data)
    if height * width > _PIXELS_FREE + _PIXELS_PER_BYTE * len(data):
        raise ChunkFormatError(
            f"a JPEG of {len(data)} bytes claims to have {width} x {height} pixels"
        )
    try:
        return _jpeg_decoder()(data, channels)
    except (KeyError, OSError, RuntimeError, ValueError) as exc:
        raise ChunkFormatError(f"a JPEG of {len(data)} bytes cannot be decoded: {exc}") from exc


def jpeg_shape(data: memoryview) -> tuple[int, int, int]:
    """Return height, width and number of channels from a JPEG file's frame header.

    Raises:
        ChunkFormatError: There is no frame header.
    """
    at = 2
    while data[:2] == _JPEG_START and at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these stand alone
            at += 2
        elif marker in (0xD9, 0xDA):  # pixels or the end before any frame header
            break
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 10 > len(data):
                break
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            return height, width, channels
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ChunkFormatError(f"a JPEG of {len(data)} bytes has no frame header")


def choose_jpeg_decoder(load: Callable[[str], Any]) -> JpegDecoder:
    """Return the first JPEG decoder whose library loads.

    Args:
        load: Imports a module by name, or returns None.

    Raises:
        MissingDependencyError: There is none.
    """
    if (torchvision := load("torchvision.io")) is not None:
        return _torchvision_decoder(torchvision)
    pillow = load("PIL.Image")
    with_pillow = None if pillow is None else partial(_decode_with_pillow, pillow)
    if (simplejpeg := load("simplejpeg")) is not None:
        return _simplejpeg_decoder(simplejpeg, with_pillow)
    if with_pillow is not None:
        return with_pillow
    raise MissingDependencyError(
        "decoding JPEG images needs torchvision, simplejpeg or Pillow: pip install 'aiolit[images]'"
    )


@cache
def _jpeg_decoder() -> JpegDecoder:
    return choose_jpeg_decoder(load_module)


def _torchvision_decoder(torchvision: Any) -> JpegDecoder:
    import torch  # lazily: only data sets with images need it

    def decode(data: memoryview, channels: int) -> torch.Tensor:
        # A copy, because torch warns of memory it may not write to.
        image: torch.Tensor = torchvision.decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8)
        )
        return image

    return decode


def _simplejpeg_decoder(simplejpeg: Any, fallback: JpegDecoder | None) -> JpegDecoder:
    spaces = {1: "GRAY", 3: "RGB", 4: "CMYK"}

    def decode(data: memoryview, channels: int) -> torch.Tensor:
        try:
            return _chw_tensor(simplejpeg.decode_jpeg(data, colorspace=spaces[channels]))
        except (KeyError, ValueError):
            # It refuses what others mend, such as stray bytes before the end of the file.
            if fallback is None:
                raise
            return fallback(data, channels)

    return decode


def _decode_with_pillow(pillow: Any, data: memoryview, channels: int = 0) -> torch.Tensor:
    try:
        with pillow.open(io.BytesIO(data)) as image:
            pixels = _uint8_pixels(image)
            if image.mode == "CMYK" and data[:2] == _JPEG_START:
                # Pillow turns it round, since Adobe stores it inverted; the others do not.
                pixels = 255 - pixels
            return _chw_tensor(pixels)
    except (pillow.DecompressionBombError, *_BAD_IMAGE) as exc:
        raise ChunkFormatError(f"an image of {len(data)} bytes cannot be decoded: {exc}") from exc


def _uint8_pixels(image: Any) -> npt.NDArray[np.uint8]:
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I;16") or image.mode == "I":
        return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
    with_alpha = image.mode == "P" and "transparency" in image.info
    return np.asarray(image.convert("RGBA" if with_alpha else "RGB"))


def _chw_tensor(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Turn (H, W) or (H, W, C) pixels, possibly read-only, into a tensor of its own memory."""
    import torch  # lazily: only data sets with images need it

    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))
