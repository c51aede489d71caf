"""What the viewer makes of values: trees of small figures, and media beside them."""

from __future__ import annotations

import io
import json
import struct
import wave
from collections import namedtuple
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aiolit.errors import ChunkFormatError, UntrustedDataError
from aiolit.format.serializers.registry import SerializerRegistry
from aiolit.viewer.leaves import File, Unread, one_sentence, reading_serializers
from aiolit.viewer.media import array_as_png, brightness, looks_like_picture, readable_text, sniff
from aiolit.viewer.nodes import Node, show
from aiolit.viewer.pages import is_own_name, shown_host


def picture(kind: str, mode: str = "RGB", side: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind)
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(1600))
    return file.getvalue()


def mp3_frames(count: int) -> bytes:
    """Give frames of 128 kbit/s at 44.1 kHz: 417 bytes each."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * count


def opened(png: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def node(value: Any) -> Node:
    tree = show(value).tree
    json.dumps(tree)
    return tree


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (picture("JPEG"), "image/jpeg"),
        (picture("PNG"), "image/png"),
        (picture("GIF"), "image/gif"),
        (picture("WEBP"), "image/webp"),
        (picture("BMP"), "image/bmp"),
        (sound(), "audio/wav"),
        (b"fLaC" + bytes(20), "audio/flac"),
        (b"OggS" + bytes(20), "audio/ogg"),
        (b"ID3\x04" + bytes(20), "audio/mpeg"),
        (mp3_frames(3), "audio/mpeg"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "video/mp4"),
        (b"\0\0\0\x18ftypM4A " + bytes(20), "audio/mp4"),
        (b"\x1aE\xdf\xa3" + bytes(20), "video/webm"),
        (mp3_frames(1) + bytes(500), None),
        (b"BMW is a car", None),
        (b"RIFF of a guitar", None),
        (b"<svg onload='alert(1)'>", None),
        (b"\xff" * 100, None),
        (b"", None),
    ],
)
def test_media_are_known_by_how_they_begin(data: bytes, mime: str | None) -> None:
    assert sniff(data) == mime


def test_text_is_what_has_no_control_characters() -> None:
    assert readable_text("Grüße,\n\twelt".encode()) == "Grüße,\n\twelt"
    assert readable_text(b"") is None
    assert readable_text(b"a\0b") is None
    assert readable_text(b"\xff\xfe") is None


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        ((8, 8), True),
        ((3, 32, 40), True),
        ((32, 40, 4), True),
        ((1, 8, 8), True),
        ((7, 8), False),
        ((2, 32, 32), False),
        ((5, 3, 32, 32), False),
        ((9000, 10), False),
        ((64,), False),
    ],
)
def test_arrays_that_look_like_pictures(shape: tuple[int, ...], is_one: bool) -> None:
    assert looks_like_picture(np.zeros(shape, np.uint8)) is is_one
    assert not looks_like_picture(np.zeros(shape, np.complex64))


def test_pixels_are_shown_as_they_are_and_others_are_stretched() -> None:
    photo = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)
    assert brightness(photo) is None
    assert (opened(array_as_png(photo)) == photo).all()
    assert (opened(array_as_png(photo.transpose(2, 0, 1))) == photo).all()
    digit = np.arange(64).reshape(8, 8) / 4.0
    assert brightness(digit) == (0.0, 15.75)
    drawn = opened(array_as_png(digit))
    assert (drawn.min(), drawn.max(), drawn.shape) == (0, 255, (8, 8))
    assert brightness(np.full((8, 8), 0.5)) == (0.0, 1.0)
    assert brightness(np.full((8, 8), np.nan)) == (0.0, 1.0)
    assert opened(array_as_png(np.full((1, 8, 8), 7.0))).max() == 0
    assert opened(array_as_png(np.eye(8) > 0)).max() == 255
    holes = np.where(np.eye(8) > 0, np.nan, digit)
    assert opened(array_as_png(holes))[0, 0] == 0


def test_a_sample_is_a_tree() -> None:
    Point = namedtuple("Point", "x y")  # noqa: PYI024 - the kind that samples hold
    sample = {
        "image": File("jpeg", picture("JPEG")),
        "sound": sound(),
        "text": "<script>alert(1)</script>",
        "label": 3,
        "none": None,
        "price": Decimal("1.50"),
        "half": np.float16(0.5),
        "box": [1, 2.5, True],
        "at": Point(1, "a"),
        "raw": bytes(range(256)),
    }
    shown = show(sample)
    tree = shown.tree
    kinds = {child["name"]: child["kind"] for child in tree["children"]}
    assert kinds == {
        "image": "image",
        "sound": "audio",
        "text": "text",
        "label": "value",
        "none": "value",
        "price": "value",
        "half": "value",
        "box": "array",
        "at": "branch",
        "raw": "bytes",
    }
    by_name = {child["name"]: child for child in tree["children"]}
    assert by_name["text"]["text"] == "<script>alert(1)</script>"
    assert (by_name["half"]["type"], by_name["half"]["text"]) == ("float16", "0.5")
    assert by_name["box"]["rows"] == [["1", "2.5", "True"]]
    assert [child["name"] for child in by_name["at"]["children"]] == ["x", "y"]
    image = shown.media[by_name["image"]["media"]]
    assert (image.mime, image.content()) == ("image/jpeg", picture("JPEG"))
    assert shown.media[by_name["raw"]["media"]].mime == "application/octet-stream"
    assert shown.nbytes > sum(map(len, (picture("JPEG"), sound())))


def test_arrays_and_tensors() -> None:
    found = node(np.arange(1000).reshape(2, 20, 25))
    assert (found["type"], found["dtype"], found["shape"]) == ("array", "int64", [2, 20, 25])
    assert (len(found["rows"]), len(found["rows"][0]), found["more"]) == (12, 12, True)
    assert found["stats"] == {"min": "0", "max": "999", "mean": "499.5", "std": "288.675"}
    tokens = node(torch.arange(300))
    assert (tokens["rows"][0][:3], len(tokens["rows"][0]), tokens["more"]) == (
        ["0", "1", "2"],
        256,
        True,
    )
    brain = node(torch.tensor([1.0, float("nan")], dtype=torch.bfloat16))
    assert (brain["dtype"], brain["rows"], brain["more"]) == ("bfloat16", [["1", "nan"]], False)
    assert brain["stats"] == {"min": "1", "max": "1", "mean": "1", "std": "0", "not finite": "1"}
    assert node(torch.tensor(5))["text"] == "5"
    assert node(torch.eye(3).to_sparse())["kind"] == "value"
    assert node(np.zeros((0, 4)))["rows"] == []
    assert node(np.array(["a", "b"]))["rows"] == [["a", "b"]]
    digit = node(np.arange(64.0).reshape(8, 8))
    assert (digit["shades"], digit["media"]) == (["0", "63"], 0)
    assert "shades" not in node(np.full((8, 8), 200, np.uint8))


def test_what_is_long_or_deep_is_cut() -> None:
    shown = show("x" * 5000)
    assert (len(shown.tree["text"]), shown.tree["length"], shown.tree["more"]) == (2000, 5000, True)
    assert (shown.media[0].mime, len(shown.media[0].content())) == (
        "text/plain; charset=utf-8",
        5000,
    )
    many = node({str(number): {} for number in range(500)})
    assert (len(many["children"]), many["more"]) == (200, 300)
    wide: Any = {str(one): {str(two): {"a": {}} for two in range(200)} for one in range(200)}
    assert len(json.dumps(node(wide))) < 300_000
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    assert "nested too deeply" in json.dumps(node(deep))


def test_pictures_of_other_kinds_become_png() -> None:
    pil = show(Image.new("CMYK", (5, 6)))
    assert (pil.tree["kind"], pil.tree["type"]) == (
        "image",
        "image CMYK 5 \N{MULTIPLICATION SIGN} 6",
    )
    assert opened(pil.media[0].content()).shape == (6, 5, 3)
    tiff = show(File("image:tiff", picture("TIFF", "L")))
    assert tiff.tree["type"] == "TIFF image"
    assert opened(tiff.media[0].content()).shape == (20, 20)


def decoder(name: str, *, allow_pickle: bool = False) -> Any:
    registry = SerializerRegistry(reading_serializers(allow_pickle=allow_pickle))
    return registry.decoder(name)


def test_files_stay_files_and_what_cannot_be_read_says_why() -> None:
    jpeg = picture("JPEG")
    assert decoder("jpeg")(memoryview(jpeg)) == File("jpeg", jpeg)
    assert decoder("image:png")(memoryview(b"x")) == File("image:png", b"x")
    assert decoder("audio:mp3")(memoryview(b"x")) == File("audio:mp3", b"x")
    several = struct.pack("<3I", 2, 1, 2) + b"abb"
    found = decoder("jpeg_array")(memoryview(several))
    assert [file.data for file in found] == [b"a", b"bb"]
    assert isinstance(decoder("jpeg_array")(memoryview(several[:-1])), Unread)
    assert decoder("int")(memoryview(struct.pack("<q", 7))) == 7
    assert decoder("file:json")(memoryview(b"{}")) == b"{}"


def test_pickles_are_loaded_where_that_is_allowed_only() -> None:
    pickled = memoryview(b"I42\n.")
    refused = decoder("pickle")(pickled)
    assert isinstance(refused, Unread)
    assert "run code" in refused.reason
    assert decoder("pickle", allow_pickle=True)(pickled) == 42
    missing = memoryview(b"cno_such_module_here\nThing\n.")
    found = decoder("pickle", allow_pickle=True)(missing)
    assert isinstance(found, Unread)
    assert found.reason.startswith("ModuleNotFoundError: ")


def test_errors_are_one_sentence() -> None:
    group = ExceptionGroup("several", [ChunkFormatError("broken\n  here"), ValueError("x")])
    assert one_sentence(group) == "broken here"
    assert one_sentence(UntrustedDataError("no")) == "no"
    assert one_sentence(KeyError("x")) == "KeyError: 'x'"
    assert one_sentence(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:80", True),
        ("10.0.0.7:1", True),
        ("gpu-7:1", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_only_names_that_nobody_can_point_elsewhere(host: str, is_own: bool) -> None:
    assert is_own_name(host, {"localhost", "127.0.0.1", "GPU-7"}) is is_own


def test_addresses_are_shown_as_a_browser_takes_them() -> None:
    assert shown_host("127.0.0.1") == "127.0.0.1"
    assert shown_host("::1") == "[::1]"
    assert shown_host("0.0.0.0") not in ("", "0.0.0.0")
