"""Leaves to bytes and back: the stored form, what comes back, and what is refused."""

import gzip
import io
import itertools
import math
import pickle
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import aiolit
from aiolit.errors import (
    ChunkFormatError,
    IndexFormatError,
    MissingDependencyError,
    SchemaError,
    UntrustedDataError,
)
from aiolit.format.dtypes import NUMPY_DTYPES
from aiolit.format.graph_leaf import Graph
from aiolit.format.optional import require
from aiolit.format.serializers import (
    BytesSerializer,
    LeafEncoder,
    Serializer,
    SerializerRegistry,
    fixed_nbytes,
)
from aiolit.format.serializers.base import LeafKind
from aiolit.format.serializers.media import (
    MediaKind,
    open_audio,
    open_mesh,
    open_nifti,
    open_pdf,
    open_video,
)
from aiolit.format.serializers.pickles import load_plain_pickle

REGISTRY = SerializerRegistry()
_numbers = itertools.count()


def new_path() -> str:
    """A path that no pickle has been warned of yet."""
    return f"leaf{next(_numbers)}"


def choose(value: Any, path: str = "x") -> LeafEncoder:
    return REGISTRY.choose(value, path)


def decode(format_name: str, data: bytes) -> Any:
    return REGISTRY.decoder(format_name)(memoryview(data))


def round_trip(value: Any) -> Any:
    encoder = choose(value)
    return decode(encoder.format_name, bytes(encoder.encode(value)))


def jpeg_bytes(mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "JPEG")
    return file.getvalue()


def jpeg(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(jpeg_bytes(mode)))


# Value, format name, stored bytes.
EXAMPLES: list[tuple[Any, str, str]] = [
    ("", "str", ""),
    ("aé", "str", "61c3a9"),
    (np.str_("a"), "str", "61"),
    (True, "bool", "01"),
    (False, "bool", "00"),
    (1, "int", "0100000000000000"),
    (-2, "int", "feffffffffffffff"),
    (2**63 - 1, "int", "ffffffffffffff7f"),
    (-(2**63), "int", "0000000000000080"),
    (1.5, "float", "000000000000f83f"),
    (np.float64(1.5), "float", "000000000000f83f"),
    (b"", "bytes", ""),
    (b"%PDF-1", "bytes", "255044462d31"),
    (np.arange(3, dtype=np.int16), "no_header_numpy:1", "000001000200"),
    (np.array([True, False]), "no_header_numpy:13", "0100"),
    (np.zeros(0, np.complex128), "no_header_numpy:12", ""),
    (
        np.arange(6, dtype=np.float16).reshape(2, 3),
        "numpy",
        "08000000 02000000 02000000 03000000 0000003c0040004200440045",
    ),
    (
        np.arange(6, dtype=np.uint8).reshape(2, 3).T,
        "numpy",
        "04000000 02000000 03000000 02000000 000301040205",
    ),
    (np.zeros((2, 0, 3), np.int8), "numpy", "00000000 03000000 02000000 00000000 03000000"),
    (torch.tensor([1, -1]), "no_header_tensor:18", "0100000000000000ffffffffffffffff"),
    (torch.tensor([1.5, -2.0]).bfloat16(), "no_header_tensor:10", "c03f00c0"),
    (torch.zeros(0), "no_header_tensor:1", ""),
    (torch.tensor([True]), "no_header_tensor:19", "01"),
    (torch.tensor(3, dtype=torch.uint8), "tensor", "0000000b 00000000 03"),
    (torch.zeros(2, 0), "tensor", "00000001 00000002 00000002 00000000"),
    (
        torch.arange(6, dtype=torch.float64).reshape(2, 3),
        "tensor",
        "00000003 00000002 00000002 00000003"
        + "".join(struct.pack("<d", i).hex() for i in range(6)),
    ),
    (torch.ones(1, 1).bfloat16(), "tensor", "0000000a 00000002 00000001 00000001 803f"),
    (
        Image.new("RGB", (2, 2), (1, 2, 3)),
        "pil",
        "02000000 02000000 03000000 524742 010203010203010203010203",
    ),
    (Image.new("1", (9, 2), 1), "pil", "09000000 02000000 01000000 31 ff80ff80"),
    (Image.new("I;16", (1, 1), 258), "pil", "01000000 01000000 04000000 493b3136 0201"),
]


def assert_same(value: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(value, torch.Tensor)
        assert value.dtype == expected.dtype
        assert value.shape == expected.shape
        assert torch.equal(value, expected)
    elif isinstance(expected, np.ndarray):
        assert isinstance(value, np.ndarray)
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected, strict=True)
    elif isinstance(expected, Image.Image):
        assert (value.mode, value.size) == (expected.mode, expected.size)
        assert value.tobytes() == expected.tobytes()
    else:
        assert value == expected
        assert type(value) in (bool, int, float, str, bytes)


@pytest.mark.parametrize(
    ("value", "format_name", "stored"),
    EXAMPLES,
    ids=[f"{e[1]}-{i}" for i, e in enumerate(EXAMPLES)],
)
def test_stored_form(value: Any, format_name: str, stored: str) -> None:
    encoder = choose(value)
    assert encoder.format_name == format_name
    assert encoder.path == "x"
    assert bytes(encoder.encode(value)) == bytes.fromhex(stored)
    assert_same(decode(format_name, bytes.fromhex(stored)), value)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, 3)[:, 1],
        torch.arange(12).reshape(3, 4).t(),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(2, 2, requires_grad=True),
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(2, 2, requires_grad=True, dtype=torch.bfloat16),
        torch.arange(4, dtype=torch.int16).bfloat16().reshape(2, 2).t(),
        torch.tensor(2.0).bfloat16(),
        torch.tensor([1, 2], dtype=torch.uint16),
    ],
)
def test_tensors_whatever_their_memory(value: torch.Tensor) -> None:
    assert_same(round_trip(value), value.detach())


@given(
    hnp.arrays(
        st.sampled_from([dtype for dtype in NUMPY_DTYPES if dtype.kind != "c"]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    )
)
def test_arrays_and_tensors_of_any_shape(array: np.ndarray[Any, np.dtype[Any]]) -> None:
    assert_same(round_trip(array), array)
    assert_same(round_trip(array[::2]), array[::2])
    if array.dtype not in (np.uint32, np.uint64):
        tensor = torch.from_numpy(array.copy())
        result = round_trip(tensor)
        assert result.dtype == tensor.dtype
        np.testing.assert_array_equal(result.numpy(), array, strict=True)


@given(st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary())
def test_scalars(value: Any) -> None:
    assert_same(round_trip(value), value)


@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
def test_numbers_of_numpy_keep_their_type_without_a_pickle(dtype: np.dtype[Any]) -> None:
    number, array = np.ones(1, dtype)[0], np.array(1, dtype)
    own = {"int64": int, "float64": float, "bool": bool}.get(dtype.name)
    assert_same(round_trip(number), array if own is None else own(1))
    assert_same(round_trip(array), array)


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        (1, np.int64(2), 2),
        (1, np.uint8(2), 2),
        (np.int64(1), 2, 2),
        (True, np.False_, False),
        (np.True_, False, False),
        (np.float32(1), 2, np.array(2)),
        (np.float32(1), 0.1, np.array(0.1)),
        (np.float32(1), True, np.array(True)),
        (np.float32(1), np.float64(0.1), np.array(0.1)),
        (np.array(1, np.int8), np.uint64(2), np.array(2, np.uint64)),
    ],
)
def test_numbers_of_numpy_and_of_python_go_together(first: Any, later: Any, expected: Any) -> None:
    encoder = choose(first)
    assert_same(decode(encoder.format_name, bytes(encoder.encode(later))), expected)


@given(st.floats())
def test_floats_bit_by_bit(value: float) -> None:
    assert struct.pack("<d", round_trip(value)) == struct.pack("<d", value)


MODES = ["1", "L", "P", "LA", "La", "PA", "I;16", "I;16L", "I;16B", "RGB", "YCbCr", "LAB", "HSV"]
MODES += ["RGBA", "RGBa", "RGBX", "CMYK", "I", "F"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(5, 3), (0, 0), (0, 2), (16, 1)])
def test_pil_modes(mode: str, size: tuple[int, int]) -> None:
    image = Image.new(mode, size)
    assert_same(round_trip(image), image)


@pytest.mark.parametrize(
    "value", [np.arange(3), np.ones((2, 2)), np.zeros(0), torch.arange(3), torch.ones(2, 2)]
)
def test_what_comes_back_is_writable_and_owns_its_memory(value: Any) -> None:
    encoder = choose(value)
    stored = bytearray(encoder.encode(value))
    result = REGISTRY.decoder(encoder.format_name)(memoryview(stored))
    stored[:] = bytes(len(stored))
    assert_same(result, value)
    result += 1
    assert_same(result, value + 1)


def test_encoded_bytes_do_not_follow_later_changes() -> None:
    for value in (np.arange(3), np.ones((2, 2)), torch.arange(3), torch.ones(2, 2)):
        encoder = choose(value)
        stored = encoder.encode(value)
        before = bytes(stored)
        value += 1
        assert bytes(stored) == before


# --- what a later sample may be ---


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (1.5, 3),
        (1.5, True is not None and 0),
        (np.zeros((2, 2)), np.zeros(3, np.int8)),
        (np.zeros((2, 2)), np.array(5)),
        (torch.zeros(2, 2), torch.zeros(3, dtype=torch.int8)),
        (np.zeros(2), np.zeros(9)),
        (1, -1),
        (np.float32(1.5), np.array(2, np.int8)),
        ("a", np.str_("b")),
        (Image.new("L", (1, 1)), Image.new("RGB", (3, 3))),
    ],
)
def test_later_values_of_the_same_kind(first: Any, later: Any) -> None:
    encoder = choose(first)
    result = decode(encoder.format_name, bytes(encoder.encode(later)))
    if isinstance(first, float):
        assert result == float(later)
        assert type(result) is float
    else:
        assert_same(result, later)


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        ("a", 1, "expected a str as in the first sample, got int"),
        ("a", b"a", "expected a str .* got bytes"),
        ("a", None, "got NoneType"),
        (True, 1, "expected a bool .* got int"),
        (np.True_, 1, "expected a bool .* got int"),
        (1, True, "expected an int .* got bool"),
        (1, 1.0, "expected an int .* got float"),
        (1, np.float32(1), "expected an int .* got numpy.float32"),
        (np.int64(1), np.True_, r"expected an int .* got numpy.bool"),
        (1, "1", "expected an int .* got str"),
        (1.0, True, "expected a float .* got bool"),
        (1.0, np.float32(1), "expected a float .* got numpy.float32"),
        (1.0, "1", "expected a float .* got str"),
        (b"", bytearray(), "expected bytes .* got bytearray"),
        (np.zeros(2), np.zeros((2, 2)), r"1-D numpy array of float64 .* shape \(2, 2\)"),
        (
            np.zeros(2),
            np.zeros(2, np.int8),
            "1-D numpy array of float64 .* got numpy.ndarray of int8",
        ),
        (np.zeros(2), [1.0], "got list"),
        (np.zeros((2, 2)), 5, "expected a numpy array"),
        (np.float32(1), "1", "expected a number or an array .* got str"),
        (np.zeros((2, 2)), torch.zeros(2, 2), "expected a numpy array .* got torch.Tensor"),
        (torch.zeros(2), torch.zeros(2, 2), r"1-D tensor of torch.float32 .* shape \(2, 2\)"),
        (torch.zeros(2), torch.zeros(2).double(), "got torch.Tensor of torch.float64"),
        (torch.zeros(2), np.zeros(2), "got numpy.ndarray"),
        (torch.zeros(2, 2), 1, "expected a tensor"),
        (Image.new("L", (1, 1)), "x", "expected a PIL image"),
    ],
)
def test_later_values_of_another_kind(first: Any, later: Any, message: str) -> None:
    encoder = REGISTRY.choose(first, "a.b[0]")
    encoder.encode(first)
    with pytest.raises(SchemaError, match=message) as caught:
        encoder.encode(later)
    assert str(caught.value).startswith("leaf 'a.b[0]': ")


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        (1, 2**63, "9223372036854775808 does not fit in 64 bits"),
        (1, -(2**63) - 1, "does not fit in 64 bits"),
        (1.0, 10**400, "does not fit in a float"),
        ("a", "\ud800", "no UTF-8 form"),
        (np.zeros((1, 1)), np.zeros((1, 1), object), "dtype object cannot be stored"),
        (np.zeros(1), np.ma.zeros(1), "masked array"),
        (torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.uint32), "torch.uint32 cannot be stored"),
        (torch.zeros(1), torch.zeros(1).to_sparse(), "sparse, nested or on the meta device"),
        (torch.zeros(1), torch.zeros(1, device="meta"), "sparse, nested or on the meta device"),
    ],
)
def test_later_values_that_have_no_stored_form(first: Any, later: Any, message: str) -> None:
    encoder = choose(first, "p")
    with pytest.raises(SchemaError, match=f"leaf 'p': .*{message}"):
        encoder.encode(later)


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, 1], object),
        np.array([["a"]]),
        np.array([b"abc"]),
        np.array(["2024-01-01"], "M8[D]"),
        np.zeros(2, [("a", "i4")]),
        np.arange(3, dtype=">i4"),
        np.zeros(2, np.longdouble),
        np.ma.masked_array([1, 2], [True, False]),
        np.ma.zeros((2, 2)),
        torch.zeros(2, dtype=torch.uint64),
        torch.zeros(2, 2, dtype=torch.float8_e5m2),
    ],
)
def test_first_values_that_have_no_stored_form(value: Any) -> None:
    with pytest.raises(SchemaError, match=r"leaf 'deep\.leaf': "):
        REGISTRY.choose(value, "deep.leaf")


# --- bytes that are not what the index says ---


@pytest.mark.parametrize(
    ("format_name", "stored"),
    [
        ("int", ""),
        ("int", "00000000000000"),
        ("int", "000000000000000000"),
        ("float", "00"),
        ("bool", ""),
        ("bool", "0101"),
        ("str", "ff"),
        ("text", "c3"),
        ("no_header_numpy:3", "00"),
        ("no_header_tensor:18", "00000000000000"),
        ("numpy", ""),
        ("numpy", "0300000001000000"),
        ("numpy", "03000000ffffffff"),
        ("numpy", "0300000041000000" + "01000000" * 65 + "00" * 8),
        ("numpy", "0e00000001000000010000000000000000000000"),
        ("numpy", "030000000100000002000000" + "00" * 8),
        ("numpy", "0300000002000000ffffffffffffffff" + "00" * 8),
        ("numpy", "03000000030000000000 0000ffffffffffffffff"),
        ("numpy", "0300000000000000"),
        ("tensor", "00000000"),
        ("tensor", "0000001500000001000000010000000000000000"),
        ("tensor", "0000000100000001000000020000"),
        ("tensor", "00000012 00000002 ffffffff ffffffff 0000000000000000"),
        ("tensor", "00000012 00000004 00000000 ffffffff ffffffff ffffffff"),
        ("tensor", "00000001 ffffffff"),
        ("pil", ""),
        ("pil", "010000000100000001000000"),
        ("pil", "01000000010000000300000058595a00"),
        ("pil", "01000000010000000100000051 00"),
        ("pil", "ffffffffffffffff 03000000 524742 00"),
        ("pil", "ffffffff00000000 03000000 524742"),
        ("pil", "0100000001000000ffffffff4c00"),
        ("jpeg_array", ""),
        ("jpeg_array", "ffffffff"),
        ("jpeg_array", "01000000ffffffff00"),
        ("jpeg_array", "0100000000000000"),
        ("jpeg", ""),
        ("jpeg", "ffd8"),
        ("tifffile", "00"),
        ("tiff", "ff"),
        ("pickle", ""),
        ("pickle", "8004"),
    ],
)
def test_garbled_leaves(format_name: str, stored: str) -> None:
    with pytest.raises(ChunkFormatError):
        decode(format_name, bytes.fromhex(stored))


FUZZED = ["int", "float", "bool", "str", "bytes", "numpy", "tensor", "pil", "jpeg", "jpeg_array"]
FUZZED += [
    "no_header_numpy:12",
    "no_header_tensor:5",
    "json",
    "graph",
    "text",
    "file:x",
    "image:png",
]


@given(st.sampled_from(FUZZED), st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_chunk_error(format_name: str, data: bytes) -> None:
    with suppress(ChunkFormatError, UntrustedDataError):
        SerializerRegistry(allow_pickle=False).decoder(format_name)(memoryview(data))


@given(st.sampled_from([e for e in EXAMPLES if e[2]]), st.data())
def test_bytes_cut_off_or_changed(example: tuple[Any, str, str], data: st.DataObject) -> None:
    stored = bytearray.fromhex(example[2])
    stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    del stored[data.draw(st.integers(0, len(stored))) :]
    with suppress(ChunkFormatError):
        REGISTRY.decoder(example[1])(memoryview(stored))


# --- names ---


@pytest.mark.parametrize(
    ("format_name", "stored", "value"),
    [
        ("text", b"ab", "ab"),
        ("file", b"ab", b"ab"),
        ("file:bin", b"ab", b"ab"),
        ("file:json", b"[1]", b"[1]"),
        ("file:pickle", b"\x80\x04N.", b"\x80\x04N."),
        ("file:str", b"ab", b"ab"),
        ("json", b"[1, 2]", [1, 2]),
        ("graph:pickle", b"\x80\x04N.", None),
        ("anything:str", b"ab", "ab"),
        ("str:anything", b"ab", "ab"),
    ],
)
def test_suffix_rule(format_name: str, stored: bytes, value: Any) -> None:
    assert decode(format_name, stored) == value


@pytest.mark.parametrize(
    "name", ["jpeg", "image:jpg", "image:jpeg", "image:png", "image", "video:jpeg"]
)
def test_names_of_images(name: str) -> None:
    assert decode(name, jpeg_bytes()).shape == (3, 6, 8)


def test_an_image_with_a_tiff_ending_is_an_image() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "TIFF")
    assert decode("image:tiff", file.getvalue()).shape == (3, 2, 4)
    assert decode("tiff", file.getvalue()).shape == (2, 4, 3)


def test_a_tiff_that_claims_too_many_pixels() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((3, 4), np.uint8))
    stored = bytearray(file.getvalue())
    for tag in (256, 257):  # width and height: a tag, a type, a count, a value
        at = stored.index(struct.pack("<HHI", tag, 4, 1))
        stored[at + 8 : at + 12] = struct.pack("<I", 10**6)
    with pytest.raises(ChunkFormatError, match="claims 1000000000000 bytes"):
        decode("tiff", bytes(stored))


@pytest.mark.parametrize(
    ("format_name", "message"),
    [
        ("mine", "pass serializers={'mine'"),
        ("mine:x", "pass serializers={'mine'"),
        ("", "no serializer"),
        ("no_header_numpy", "no dtype number"),
        ("no_header_numpy:x", "no dtype number"),
        ("no_header_numpy:-1", "no dtype number"),
        ("no_header_tensor:\u0661", "no dtype number"),
        ("no_header_tensor:" + "1" * 5000, "no dtype number"),
        ("no_header_numpy:14", "dtype 14 cannot be read"),
        ("no_header_tensor:21", "dtype 21 cannot be read"),
    ],
)
def test_names_that_nothing_reads(format_name: str, message: str) -> None:
    with pytest.raises(IndexFormatError, match=message):
        REGISTRY.decoder(format_name)


def test_fixed_sizes() -> None:
    assert [fixed_nbytes(name) for name in ("int", "float", "bool")] == [8, 8, 1]
    assert fixed_nbytes("str") is None
    assert REGISTRY.fixed_nbytes("int") == 8
    assert SerializerRegistry({"int": BytesSerializer()}).fixed_nbytes("int") is None


# --- files named by a text ---


def test_paths_of_files(tmp_path: Path) -> None:
    tif, video, image, other = (tmp_path / f"f.{end}" for end in ("tif", "mp4", "jpg", "json"))
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    tifffile.imwrite(tif, pixels)
    for path in (video, image, other):
        path.write_bytes(b"content")
    encoder = choose(str(tif))
    assert encoder.format_name == "tifffile"
    result = decode("tifffile", bytes(encoder.encode(str(tif))))
    assert_same(result, pixels)
    result += 1
    with pytest.raises(SchemaError, match="expected the path of a TIFF file"):
        encoder.encode(str(video))
    encoder = choose(str(video))
    assert encoder.format_name == "video:mp4"
    assert encoder.encode(str(video)) == b"content"
    with pytest.raises(SchemaError, match="expected the path of a video file"):
        encoder.encode(str(tmp_path / "missing.mp4"))
    for text in (str(image), str(other), str(tmp_path), str(tmp_path / "no.tif"), "no.mp4"):
        encoder = choose(text)
        assert encoder.format_name == "str"
        assert decode("str", bytes(encoder.encode(text))) == text
    # The place of a text stays one, also for a text that names a video.
    assert choose("a").encode(str(video)) == str(video).encode()


# --- JPEG images ---


def test_jpeg_from_a_file_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes())
    with Image.open(path) as image:
        encoder = choose(image)
        assert encoder.format_name == "jpeg"
        assert encoder.encode(image) == path.read_bytes()
        image.load()
        assert encoder.encode(image) == path.read_bytes()
        path.unlink()
        assert bytes(encoder.encode(image))[:2] == b"\xff\xd8"


def test_jpeg_from_memory_keeps_its_bytes_until_it_is_decoded() -> None:
    image = jpeg()
    encoder = choose(image)
    assert encoder.encode(image) == jpeg_bytes()
    image.load()
    assert decode("jpeg", bytes(encoder.encode(image))).shape == (3, 6, 8)


def test_jpeg_whose_memory_holds_something_else_by_now() -> None:
    file = io.BytesIO(jpeg_bytes())
    image = Image.open(file)
    encoder = choose(image)
    image.load()
    image.fp = io.BytesIO(b"no image")
    assert bytes(encoder.encode(image))[:2] == b"\xff\xd8"
    image.fp.close()
    assert bytes(encoder.encode(image))[:2] == b"\xff\xd8"


def test_other_images_in_the_place_of_a_jpeg() -> None:
    encoder = choose(jpeg(), "pictures.front")
    assert decode("jpeg", bytes(encoder.encode(Image.new("L", (8, 6))))).shape == (1, 6, 8)
    with pytest.raises(SchemaError, match=r"leaf 'pictures.front': the image cannot be a JPEG"):
        encoder.encode(Image.new("RGBA", (2, 2)))
    with pytest.raises(SchemaError, match="expected a PIL image"):
        encoder.encode(b"")


def test_jpeg_in_the_place_of_another_image() -> None:
    encoder = choose(Image.new("L", (1, 1)))
    assert decode("pil", bytes(encoder.encode(jpeg()))).size == (8, 6)


def test_jpeg_lists() -> None:
    encoder = choose((jpeg(), jpeg("L")))
    assert encoder.format_name == "jpeg_array"
    color, gray = jpeg_bytes(), jpeg_bytes("L")
    stored = bytes(encoder.encode([jpeg(), jpeg("L")]))
    assert stored == struct.pack("<3I", 2, len(color), len(gray)) + color + gray
    assert [image.shape for image in decode("jpeg_array", stored)] == [(3, 6, 8), (1, 6, 8)]
    assert decode("jpeg_array", bytes(encoder.encode([]))) == []
    for other in (jpeg(), [jpeg(), 1]):
        with pytest.raises(SchemaError, match="expected a list of PIL images"):
            encoder.encode(other)


# --- pickles ---


class Loud:
    """Leaves a trace when it is unpickled."""

    trace: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return Loud.trace.append, (1,)


@pytest.mark.parametrize(
    "value",
    [None, 1j, {1, 2}, bytearray(b"a"), np.longdouble(1), np.array(None), np.ma.array(5)],
)
def test_everything_else_is_pickled_with_one_warning(value: Any) -> None:
    path = new_path()
    with pytest.warns(UserWarning, match=f"leaf '{path}' is a .* pickled") as caught:
        encoder = choose(value, path)
    assert len(caught) == 1
    assert ("value.item()" in str(caught[0].message)) == isinstance(value, np.generic)
    assert encoder.format_name == "pickle"
    assert bytes(encoder.encode(value)) == pickle.dumps(value)
    assert decode("pickle", pickle.dumps(value)) == value
    choose(value, path)  # silent: it has been said


def test_a_pickled_leaf_may_change_its_kind() -> None:
    path = new_path()
    with pytest.warns(UserWarning, match="pickled"):
        encoder = choose(None, path)
    assert decode("pickle", bytes(encoder.encode("a"))) == "a"
    with pytest.raises(SchemaError, match=f"leaf '{path}': function cannot be pickled"):
        encoder.encode(lambda: None)


def test_untrusted_pickles_are_not_loaded() -> None:
    registry = SerializerRegistry(allow_pickle=False)
    for format_name in ("pickle", "graph:pickle", "graph", "x:pickle"):
        with pytest.raises(UntrustedDataError, match="allow_pickle=True"):
            registry.decoder(format_name)(memoryview(pickle.dumps(Loud())))
    assert Loud.trace == []


def test_wrappers_of_litdata_are_undone_without_importing_it() -> None:
    # What pickle writes for an instance of a class with __slots__ = ("value",).
    wrapped = (
        b"\x80\x04\x8c\x1dlitdata.streaming.serializers\x94\x8c\x08JsonLeaf\x94\x93)\x81N}"
        b"\x8c\x05value]K\x01as\x86b."
    )
    assert decode("pickle", wrapped) == [1]
    identity = b"\x80\x04\x8c\x1clitdata.utilities.hf_dataset\x8c\x09_identity\x93K\x07\x85R."
    assert decode("pickle", identity) == 7
    for data, fields in ((b"}\x8c\x01nK\x02s", {"n": 2}), (b"K\x02", {"data": 2}), (b"N", {})):
        graph = decode(
            "graph:pickle",
            b"\x80\x04\x8c\x0dlitdata.types\x8c\x05Graph\x93)\x81}"
            b"(\x8c\x01x]\x8c\x01yN\x8c\x04data" + data + b"ub.",
        )
        assert graph == Graph("data", {**fields, "x": []})
        assert graph.to_mapping() == graph.fields
    assert decode("pickle", pickle.dumps(("litdata", {1}))) == ("litdata", {1})
    other = b"\x80\x04\x8c\x08builtins\x8c\x03set\x93)R\x8c\x07litdata\x86."
    assert decode("pickle", other) == (set(), "litdata")
    assert "litdata" not in sys.modules


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=10,
)


@given(plain, st.integers(3, 5))
def test_plain_pickles_need_no_trust(value: Any, protocol: int) -> None:
    if protocol < 4 and "frozenset" in repr(value):
        return  # only later protocols have a form for it that looks up no name
    data = memoryview(pickle.dumps(value, protocol))
    if protocol >= 4 or not isinstance(value, bytes):
        try:
            assert load_plain_pickle(data) == value
        except UntrustedDataError:
            assert protocol == 3


@given(st.binary(max_size=40))
def test_garbled_plain_pickles(data: bytes) -> None:
    with suppress(ChunkFormatError, UntrustedDataError):
        load_plain_pickle(memoryview(data))


def test_plain_pickles_reserve_no_memory_for_labels() -> None:
    with pytest.raises(ChunkFormatError, match="has label"):
        load_plain_pickle(memoryview(b"\x80\x04Nr\xff\xff\xff\x7f."))


# --- serializers of the user ---


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


class OldStyle:
    """Written for LitData's protocol, and inherits nothing."""

    def can_serialize(self, item: Any) -> bool:
        return isinstance(item, Celsius)

    def serialize(self, item: Any) -> tuple[bytes, str | None]:
        return repr(item.degrees).encode(), None

    def deserialize(self, data: bytes) -> Celsius:
        return Celsius(float(data.decode()))  # memoryview has no decode


class WithSuffix(Serializer):
    """Keeps the suffix that setup gives it; wants the stored bytes without a copy."""

    zero_copy = True
    suffix = ""

    def can_serialize(self, item: Any) -> bool:
        return isinstance(item, complex)

    def serialize(self, item: Any) -> tuple[bytes, str | None]:
        return str(item).encode(), f"c:{'neg' if item.real < 0 else 'pos'}"

    def deserialize(self, data: Any) -> tuple[str, type]:
        return self.suffix, type(data)

    def setup(self, metadata: str) -> None:
        self.suffix = metadata.partition(":")[2]


def user(serializers: dict[str, Any]) -> SerializerRegistry:
    return SerializerRegistry(serializers)


def test_a_serializer_written_for_litdata() -> None:
    registry = user({"celsius": OldStyle()})
    encoder = registry.choose(Celsius(1.5), "t")
    assert encoder.format_name == "celsius"
    data = memoryview(bytes(encoder.encode(Celsius(-3.0))))
    assert registry.decoder("celsius")(data).degrees == -3.0
    with pytest.raises(
        SchemaError, match="leaf 't': expected a value for the serializer 'celsius'"
    ):
        encoder.encode(5)


def test_users_serializers_come_first_and_in_order() -> None:
    registry = user({"a": BytesSerializer(), "b": BytesSerializer(), "str": BytesSerializer()})
    encoder = registry.choose(b"x", "p")
    assert encoder.format_name == "a"
    assert encoder.encode(b"y") == b"y"
    assert registry.decoder("str")(memoryview(b"y")) == b"y"
    assert registry.choose("x", "p").format_name == "str"


def test_setup_is_called_on_a_copy_for_each_leaf() -> None:
    serializer = WithSuffix()
    registry = user({"c": serializer})
    first, second = registry.decoder("c:pos"), registry.decoder("c:neg")
    assert first(memoryview(b"")) == ("pos", memoryview)
    assert second(memoryview(b"")) == ("neg", memoryview)
    assert serializer.suffix == ""


def test_a_format_name_may_not_change() -> None:
    encoder = user({"c": WithSuffix()}).choose(1j, "p")
    assert encoder.format_name == "c:pos"
    with pytest.raises(SchemaError, match="gave the format 'c:neg', but 'c:pos'"):
        encoder.encode(complex(-1, 0))


def test_a_serializer_must_give_bytes() -> None:
    class Wrong(OldStyle):
        def serialize(self, item: Any) -> Any:
            return "text", None

    encoder = user({"w": Wrong()}).choose(Celsius(1), "p")
    with pytest.raises(SchemaError, match="leaf 'p': the serializer 'w' gave a str, not bytes"):
        encoder.encode(Celsius(1))


def test_serializers_of_the_user_also_read_suffixed_and_file_names() -> None:
    registry = user({"video": BytesSerializer(), "file": OldStyle(), "a:b": OldStyle()})
    assert registry.decoder("video:mp4")(memoryview(b"v")) == b"v"
    assert registry.decoder("file:x")(memoryview(b"2")).degrees == 2
    assert registry.decoder("a:b")(memoryview(b"2")).degrees == 2
    assert registry.decoder("x:file")(memoryview(b"2")).degrees == 2


def test_abstract_parts() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Serializer()  # type: ignore[abstract]

    class ReadOnly(LeafKind):
        name = "r"

        def decoder(self, format_name: str, *, allow_pickle: bool) -> Callable[[memoryview], Any]:
            return bytes

    assert not ReadOnly().claims(b"")
    with pytest.raises(NotImplementedError, match="'r' is only read"):
        ReadOnly().encoder(b"", "p")
    BytesSerializer().setup("bytes")  # does nothing


# --- optional libraries ---


def test_a_missing_library_is_named_with_its_pip_command() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"decoding a shape .* pip install 'shape\[x\]'"
    ):
        require("no_such_module_at_all", "shape[x]", "decoding a shape")
    kind = MediaKind("hologram", "no_such_module_at_all", "holo", open_pdf)
    with pytest.raises(
        MissingDependencyError, match=r"pip install 'holo'; or pass serializers=\{'holo"
    ):
        kind.decoder("hologram:x", allow_pickle=True)(memoryview(b""))


@pytest.mark.parametrize(
    ("format_name", "library"),
    [
        ("video:mp4", "torchcodec"),
        ("audio:wav", "torchcodec"),
        ("nifti:nii.gz", "nibabel"),
        ("mesh:glb", "trimesh"),
        ("pdf", "pdfplumber"),
    ],
)
def test_media_without_their_library(format_name: str, library: str) -> None:
    decoder = REGISTRY.decoder(format_name)
    if find_spec(library) is None:
        with pytest.raises(MissingDependencyError, match=f"pip install '{library}'"):
            decoder(memoryview(b"x"))


class Library:
    """Stands for each of the optional libraries, and keeps what it was given."""

    class Nifti1Image:
        from_bytes = staticmethod(bytes)

    VideoDecoder = AudioDecoder = staticmethod(bytes)

    @staticmethod
    def load(file: io.BytesIO, file_type: str) -> tuple[bytes, str]:
        return file.read(), file_type

    @staticmethod
    def open(file: io.BytesIO) -> bytes:
        return file.read()


def test_media_with_their_library() -> None:
    data = memoryview(b"data")
    packed = memoryview(gzip.compress(b"data"))
    assert open_video(Library, data, "mp4") == b"data"
    assert open_audio(Library, data, "wav") == b"data"
    assert open_nifti(Library, data, "nii") == b"data"
    assert open_nifti(Library, packed, "nii.gz") == b"data"
    assert open_mesh(Library, data, "ply") == (b"data", "ply")
    assert open_mesh(Library, data, "") == (b"data", "glb")
    assert open_pdf(Library, data, "") == b"data"
    kind = MediaKind("sum", "math", "math", lambda library, data, end: (library is math, end))
    assert kind.decoder("sum:x", allow_pickle=True)(data) == (True, "x")
    kind = MediaKind(
        "sum", "math", "math", lambda library, data, end: open_nifti(Library, data, end)
    )
    with pytest.raises(ChunkFormatError, match="a sum leaf of 6 bytes cannot be decoded with math"):
        kind.decoder("sum:x", allow_pickle=True)(packed[:6])


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, aiolit.format.tree\n"
        "from aiolit.format.serializers import SerializerRegistry\n"
        "r = SerializerRegistry()\n"
        "for value in ('a', 1, [1]):\n"
        "    aiolit.format.tree.flatten(value)\n"
        "for value in ('a', 1, 1.5, True, b'x'):\n"
        "    r.choose(value, 'p')\n"
        "for name in ('no_header_tensor:1', 'tensor', 'jpeg', 'pil', 'graph', 'video:mp4'):\n"
        "    r.decoder(name)\n"
        "print(sorted({'torch', 'PIL', 'pyarrow', 'tifffile', 'asyncio'} & set(sys.modules)))\n"
    )
    root = str(Path(aiolit.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_no_warning_for_what_has_a_form() -> None:
    with warnings.catch_warnings(record=True) as caught:
        for value, _, _ in EXAMPLES:
            choose(value, new_path())
    assert caught == []
