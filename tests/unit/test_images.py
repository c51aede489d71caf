"""Encoded images to tensors."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aiolit.errors import ChunkFormatError, MissingDependencyError
from aiolit.format.images import (
    choose_jpeg_decoder,
    decode_image,
    jpeg_shape,
    load_module,
)


def picture(mode: str, size: tuple[int, int] = (17, 11)) -> Image.Image:
    """An image whose every pixel is different, smooth enough for JPEG."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 9, y * 13, 200 - x * 5, 250 - y * 7][: len(Image.new(mode, (1, 1)).getbands())]
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    return (
        Image.fromarray(pixels[..., 0] if len(planes) == 1 else pixels, mode=None).copy()
        if (mode in ("L", "RGB", "RGBA"))
        else Image.frombytes(mode, size, pixels.tobytes())
    )


def encoded(image: Image.Image, format_name: str, **options: Any) -> memoryview:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return memoryview(file.getvalue())


def only(*names: str) -> Any:
    return lambda name: load_module(name) if name in names else None


class TorchvisionIo:
    """Stands for ``torchvision.io``: takes and gives tensors."""

    @staticmethod
    def decode_jpeg(data: torch.Tensor) -> torch.Tensor:
        with Image.open(io.BytesIO(data.numpy().tobytes())) as image:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_keeps_the_channels_of_the_file(mode: str, channels: int, progressive: bool) -> None:
    data = encoded(picture(mode), "JPEG", progressive=progressive)
    assert jpeg_shape(data) == (11, 17, channels)
    image = decode_image(data)
    assert image.dtype == torch.uint8
    assert image.shape == (channels, 11, 17)
    assert image.is_contiguous()
    image += 1  # writable
    assert not torch.equal(image, decode_image(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_all_libraries_give_the_same_pixels(mode: str) -> None:
    data = encoded(picture(mode), "JPEG", quality=95, subsampling=0)
    channels = jpeg_shape(data)[2]
    with_simplejpeg = choose_jpeg_decoder(only("simplejpeg", "PIL.Image"))(data, channels)
    with_pillow = choose_jpeg_decoder(only("PIL.Image"))(data, channels)
    assert torch.equal(with_simplejpeg, with_pillow)


def test_stray_bytes_before_the_end_are_mended() -> None:
    data = memoryview(JPEG[:-2] + b"\x12\x34" * 40 + JPEG[-2:])
    assert torch.equal(decode_image(data), decode_image(memoryview(JPEG)))
    with pytest.raises(ValueError):
        choose_jpeg_decoder(only("simplejpeg"))(data, 3)


def test_torchvision_comes_first() -> None:
    data = encoded(picture("RGB"), "JPEG")
    decode = choose_jpeg_decoder(lambda name: TorchvisionIo if "torchvision" in name else None)
    assert torch.equal(decode(data, 3), decode_image(data))


def test_no_library() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'aiolit\[images\]'"):
        choose_jpeg_decoder(only())
    with pytest.raises(MissingDependencyError, match=r"pip install 'aiolit\[images\]'"):
        decode_image(encoded(picture("L"), "PNG"), load=only())


def test_a_library_that_does_not_load() -> None:
    assert load_module("no_such_module_at_all") is None
    assert load_module("PIL.Image") is Image


@pytest.mark.parametrize(
    ("mode", "format_name", "channels"),
    [
        ("L", "PNG", 1),
        ("LA", "PNG", 2),
        ("RGB", "PNG", 3),
        ("RGBA", "PNG", 4),
        ("RGB", "BMP", 3),
        ("CMYK", "TIFF", 4),
    ],
)
def test_other_formats_keep_their_channels(mode: str, format_name: str, channels: int) -> None:
    image = picture(mode)
    result = decode_image(encoded(image, format_name))
    assert result.shape == (channels, 11, 17)
    assert result.permute(1, 2, 0).numpy().tobytes() == image.tobytes()
    result += 1


def test_other_modes_become_uint8() -> None:
    bits = Image.new("1", (3, 2), 1)
    assert decode_image(encoded(bits, "PNG")).tolist() == [[[255] * 3] * 2]
    deep = Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16))
    assert decode_image(encoded(deep, "PNG")).tolist() == [[[0x12, 0xFF]]]
    palette = picture("RGB").quantize(8)
    assert decode_image(encoded(palette, "PNG")).shape == (3, 11, 17)
    assert decode_image(encoded(palette, "PNG", transparency=0)).shape == (4, 11, 17)
    assert decode_image(encoded(palette, "GIF")).shape[1:] == (11, 17)


JPEG = bytes(encoded(picture("RGB"), "JPEG"))


def sof(height: int, width: int, channels: int = 3) -> bytes:
    frame = b"\xff\xc0\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + frame + bytes([channels]) + b"\x01\x11\x00" * 3 + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8", "no frame header"),
        (b"\xff\xd8\xff\xd9\x00\x00", "no frame header"),
        (b"\xff\xd8\xff\xda\x00\x00", "no frame header"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08", "no frame header"),
        (b"\xff\xd8\x00\xc0" + bytes(20), "no frame header"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x00" * 3 + b"\xff\xd0\xff\x01\xff\xff", "no frame header"),
        (sof(65535, 65535), "claims to have 65535 x 65535 pixels"),
        (sof(8, 8), "cannot be decoded"),
        (sof(8, 8, 2), "cannot be decoded"),
        (JPEG[:200], "cannot be decoded"),
        (b"", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(ChunkFormatError, match=message):
        decode_image(memoryview(data))


def test_fill_bytes_and_lone_markers_before_the_frame() -> None:
    data = b"\xff\xd8\xff\x01\xff\xff" + JPEG[2:]
    assert jpeg_shape(memoryview(data)) == (11, 17, 3)


def test_an_image_that_claims_too_many_pixels() -> None:
    data = bytearray(encoded(picture("L"), "PNG"))
    data[16:24] = bytes.fromhex("0000ffff0000ffff")
    with pytest.raises(ChunkFormatError, match="cannot be decoded"):
        decode_image(memoryview(data))


def test_decoder_errors_of_pillow_are_ours() -> None:
    pillow = SimpleNamespace(open=Image.open, DecompressionBombError=Image.DecompressionBombError)
    decode = choose_jpeg_decoder(lambda name: pillow if name == "PIL.Image" else None)
    with pytest.raises(ChunkFormatError, match="cannot be decoded"):
        decode(memoryview(b"none"), 3)


@given(st.sampled_from([JPEG, bytes(encoded(picture("RGBA"), "PNG"))]), st.data())
def test_bytes_cut_off_or_changed(original: bytes, data: st.DataObject) -> None:
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    del changed[data.draw(st.integers(0, len(changed))) :]
    try:
        image = decode_image(memoryview(changed))
    except ChunkFormatError:
        return
    assert image.dtype == torch.uint8
