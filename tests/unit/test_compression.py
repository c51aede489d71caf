"""Compression of whole files: what is inflated is exactly what was declared."""

from __future__ import annotations

import bz2
import gzip
import importlib.util

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChunkFormatError, ConfigError, MissingDependencyError
from aiolit.format.compression import (
    compress_whole,
    decompress_whole,
    parse_compression,
    zstd_content_size,
)

TEXT = b"The same again. " * 5000


@pytest.mark.parametrize(("name", "level"), [("zstd", 4), ("zstd:1", 1), ("zstd:22", 22)])
def test_levels(name: str, level: int) -> None:
    assert parse_compression(name) == level


@pytest.mark.parametrize("name", ["", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:04", "zstd:x"])
def test_unknown_compression(name: str) -> None:
    with pytest.raises(ConfigError, match="zstd:N"):
        parse_compression(name)


@given(st.lists(st.binary(max_size=500), max_size=10), st.integers(1, 9))
def test_round_trip(parts: list[bytes], level: int) -> None:
    packed = b"".join(compress_whole(parts, level))
    plain = b"".join(parts)
    # LitData's zstd library refuses frames that do not say how long their content is.
    assert zstandard.frame_content_size(packed) == len(plain)
    assert decompress_whole(packed, expected_nbytes=len(plain), source="c") == plain


def unsized(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


@pytest.mark.parametrize(
    "packed",
    [
        zstandard.compress(TEXT),
        unsized(TEXT),
        zstandard.compress(TEXT[:100]) + unsized(TEXT[100:200]) + zstandard.compress(TEXT[200:]),
        gzip.compress(TEXT),
        gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:]),
        bz2.compress(TEXT),
        bz2.compress(TEXT[:5]) + bz2.compress(TEXT[5:]),
    ],
)
class TestForms:
    def test_is_read(self, packed: bytes) -> None:
        got = decompress_whole(memoryview(packed), expected_nbytes=len(TEXT), source="c")
        assert got == TEXT

    @pytest.mark.parametrize("declared", [0, 10, len(TEXT) - 1, len(TEXT) + 1, 10**6])
    def test_another_length_is_refused(self, packed: bytes, declared: int) -> None:
        with pytest.raises(ChunkFormatError, match=r"^c: "):
            decompress_whole(packed, expected_nbytes=declared, source="c")

    def test_every_truncation_is_refused(self, packed: bytes) -> None:
        for length in range(len(packed)):
            with pytest.raises(ChunkFormatError, match=r"^c: "):
                decompress_whole(packed[:length], expected_nbytes=len(TEXT), source="c")


def test_declared_sizes_are_weighed_before_memory_is_reserved() -> None:
    bomb = zstandard.compress(bytes(1 << 20))
    with pytest.raises(ChunkFormatError, match="cannot hold"):
        decompress_whole(bomb, expected_nbytes=1 << 40, source="c")
    with pytest.raises(ChunkFormatError, match="more than the 1000 bytes"):
        decompress_whole(bomb, expected_nbytes=1000, source="c")
    for packed in (gzip.compress(bytes(1 << 24)), bz2.compress(bytes(1 << 24))):
        with pytest.raises(ChunkFormatError, match="more than the 1000 bytes"):
            decompress_whole(packed, expected_nbytes=1000, source="c")


def test_bytes_behind_a_frame_are_refused() -> None:
    with pytest.raises(ChunkFormatError, match="damaged"):
        decompress_whole(zstandard.compress(TEXT) + b"x", expected_nbytes=len(TEXT), source="c")


def test_content_size() -> None:
    assert zstd_content_size(memoryview(zstandard.compress(TEXT)), "c") == len(TEXT)
    with pytest.raises(ChunkFormatError, match="without its content size"):
        zstd_content_size(memoryview(unsized(TEXT)), "c")
    with pytest.raises(ChunkFormatError, match="damaged"):
        zstd_content_size(memoryview(b"no zstd at all"), "c")


def test_unknown_codecs() -> None:
    with pytest.raises(ChunkFormatError, match="'lzma'"):
        decompress_whole(b"x", expected_nbytes=1, source="c", codec="lzma")


@pytest.mark.parametrize(("codec", "module"), [("br", "brotli"), ("snappy", "snappy")])
def test_codecs_of_optional_packages(codec: str, module: str) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(MissingDependencyError, match="pip install"):
        decompress_whole(b"x", expected_nbytes=1, source="c", codec=codec)


def test_damaged_gzip_and_bz2() -> None:
    for packed in (gzip.compress(TEXT), bz2.compress(TEXT)):
        damaged = bytearray(packed)
        damaged[len(packed) // 2] ^= 0xFF
        with pytest.raises(ChunkFormatError, match=r"^c: "):
            decompress_whole(damaged, expected_nbytes=len(TEXT), source="c")
        with pytest.raises(ChunkFormatError, match=r"^c: damaged"):
            decompress_whole(packed + b"rest", expected_nbytes=len(TEXT), source="c")


def pack_foreign(codec: str) -> bytes:
    if codec == "br":
        packed: bytes = pytest.importorskip("brotli").compress(TEXT)
    else:
        packed = pytest.importorskip("snappy").compress(TEXT)
    return packed


@pytest.mark.parametrize("codec", ["br", "snappy"])
def test_codecs_of_optional_packages_where_installed(codec: str) -> None:
    packed = pack_foreign(codec)
    got = decompress_whole(packed, expected_nbytes=len(TEXT), source="c", codec=codec)
    assert got == TEXT
    for wrong in (packed[: len(packed) // 2], b"\xff" * 50, packed + packed):
        with pytest.raises(ChunkFormatError, match=r"^c: "):
            decompress_whole(wrong, expected_nbytes=len(TEXT), source="c", codec=codec)
    for declared in (0, 10, len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(ChunkFormatError, match=r"^c: "):
            decompress_whole(packed, expected_nbytes=declared, source="c", codec=codec)
