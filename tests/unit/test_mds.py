"""MosaicML MDS shards: the index adapted, every encoding read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import zstandard
from PIL import Image

from aiolit.errors import ChunkFormatError, ConfigError, IndexFormatError, UntrustedDataError
from aiolit.format.chunk import open_range, parse_offsets, range_readable
from aiolit.format.compression import decompress_whole
from aiolit.format.index import (
    Index,
    is_mds,
    is_whole_compressed,
    loader_name,
    parse_index,
    plain_name,
    stored_name,
    whole_file_codec,
)
from aiolit.format.loader import BoundLoader, PyTreeLoader
from aiolit.format.serializers import Serializer, SerializerRegistry

Column = tuple[str, str, int | None]  # name, encoding, size


def shard_bytes(columns: list[Column], samples: list[list[bytes]]) -> bytes:
    """Write a shard as MDS does: count, offsets, the columns as JSON, samples."""
    settings = json.dumps({"columns": [name for name, _, _ in columns]}).encode()
    items = []
    for sample in samples:
        free = [len(v) for v, (_, _, size) in zip(sample, columns, strict=True) if not size]
        items.append(struct.pack(f"<{len(free)}I", *free) + b"".join(sample))
    ends = np.cumsum([4 * (len(items) + 2) + len(settings), *map(len, items)]).astype("<u4")
    return struct.pack("<I", len(items)) + ends.tobytes() + settings + b"".join(items)


def shard_entry(columns: list[Column], count: int, nbytes: int, **changes: Any) -> dict[str, Any]:
    entry = {
        "column_encodings": [encoding for _, encoding, _ in columns],
        "column_names": [name for name, _, _ in columns],
        "column_sizes": [size for _, _, size in columns],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "raw_data": {"basename": "shard.00000.mds", "bytes": nbytes, "hashes": {}},
        "samples": count,
        "size_limit": 67108864,
        "version": 2,
        "zip_data": None,
    }
    return {**entry, **changes}


def parse(shards: list[dict[str, Any]]) -> Index:
    data = json.dumps({"shards": shards, "version": 2}).encode()
    return parse_index(data, source="index.json")


def bind(index: Index, *, allow_pickle: bool = True) -> BoundLoader:
    registry = SerializerRegistry(allow_pickle=allow_pickle)
    return PyTreeLoader().bind(index, registry=registry, source="index.json")


def read(columns: list[Column], samples: list[list[bytes]], **options: Any) -> list[Any]:
    data = shard_bytes(columns, samples)
    index = parse([shard_entry(columns, len(samples), len(data))])
    reader = bind(index, **options).open(memoryview(data), index.chunks[0], "shard")
    return reader.samples(range(len(samples)))


COLUMNS: list[Column] = [("id", "int", 8), ("text", "str", None), ("raw", "bytes", None)]
SAMPLES = [[struct.pack("<q", n), b"t" * n, b"\0" * (3 - n)] for n in range(4)]
EXPECTED = [{"id": n, "text": "t" * n, "raw": b"\0" * (3 - n)} for n in range(4)]


def test_an_uncompressed_shard() -> None:
    data = shard_bytes(COLUMNS, SAMPLES)
    index = parse([shard_entry(COLUMNS, 4, len(data))])
    (chunk,) = index.chunks
    assert is_mds(index.config)
    assert loader_name(index.config) == "PyTreeLoader"
    assert index.config.data_format == ("int", "str", "bytes")
    assert stored_name(chunk, index.config) == "shard.00000.mds"
    assert not is_whole_compressed(chunk, index.config)
    assert range_readable(chunk, index.config) is True
    reader = bind(index).open(memoryview(data), chunk, "shard")
    assert reader.samples(range(4)) == EXPECTED


def test_one_sample_by_range() -> None:
    data = shard_bytes(COLUMNS, SAMPLES)
    index = parse([shard_entry(COLUMNS, 4, len(data))])
    (chunk,) = index.chunks
    offsets = parse_offsets(data[12:20], 2, chunk, source="shard")
    low, high = int(offsets[0]), int(offsets[1])
    span = memoryview(data)[low:high]
    view = open_range(span, low, 2, offsets, chunk, index.config, source="shard")
    assert view.count == 1
    reader = bind(index).open_range(span, low, 2, offsets, chunk, "shard")
    assert reader.sample(2) == EXPECTED[2]


@pytest.mark.parametrize(
    ("compression", "pack"),
    [
        ("zstd", zstandard.compress),
        ("zstd:7", zstandard.compress),
        ("gz", gzip.compress),
        ("gz:9", gzip.compress),
        ("bz2", bz2.compress),
    ],
)
def test_compressed_shards(compression: str, pack: Any) -> None:
    data = shard_bytes(COLUMNS, SAMPLES)
    packed = pack(data)
    codec = compression.split(":")[0]
    name = f"shard.00000.mds.{codec}"
    zipped = {"basename": name, "bytes": len(packed), "hashes": {}}
    index = parse([shard_entry(COLUMNS, 4, len(data), compression=compression, zip_data=zipped)])
    (chunk,) = index.chunks
    assert is_whole_compressed(chunk, index.config)
    assert range_readable(chunk, index.config) is False
    assert stored_name(chunk, index.config) == name
    assert plain_name(chunk, index.config) == "shard.00000.mds"
    assert whole_file_codec(chunk, index.config) == codec
    plain = decompress_whole(packed, expected_nbytes=chunk.nbytes, source=name)
    assert bind(index).open(memoryview(plain), chunk, name).samples(range(4)) == EXPECTED


ARRAY = np.arange(6, dtype=np.int16).reshape(2, 3)


@pytest.mark.parametrize(
    ("encoding", "size", "stored", "value"),
    [
        ("uint8", 1, b"\xff", np.uint8(255)),
        ("int16", 2, b"\xfe\xff", np.int16(-2)),
        ("uint32", 4, b"\1\0\0\0", np.uint32(1)),
        ("int64", 8, struct.pack("<q", -5), np.int64(-5)),
        ("float16", 2, np.float16(1.5).tobytes(), np.float16(1.5)),
        ("float32", 4, struct.pack("<f", 0.5), np.float32(0.5)),
        ("float64", 8, struct.pack("<d", 0.1), np.float64(0.1)),
        ("str_int", None, b"123456789012345678901234567890", 123456789012345678901234567890),
        ("str_float", None, b"-1e-3", -0.001),
        ("str_decimal", None, b"3.10", Decimal("3.10")),
        ("json", None, b'{"a": [1, null]}', {"a": [1, None]}),
        ("pkl", None, b"\x80\x04K\x07.", 7),
        ("ndarray:int16:2,3", 12, ARRAY.tobytes(), ARRAY),
        ("ndarray:int16", None, b"\x08\2\3" + ARRAY.tobytes(), ARRAY),
        ("ndarray", None, b"\x11\x08\2\3" + ARRAY.tobytes(), ARRAY),
        ("ndarray", None, b"\x11\x09\2\0\3\0" + ARRAY.tobytes(), ARRAY),
    ],
)
def test_encodings(encoding: str, size: int | None, stored: bytes, value: Any) -> None:
    (sample,) = read([("x", encoding, size)], [[stored]])
    assert type(sample["x"]) is type(value)
    if isinstance(value, np.ndarray):
        assert sample["x"].dtype == value.dtype
        assert sample["x"].flags.writeable
        assert np.array_equal(sample["x"], value)
    else:
        assert sample["x"] == value


def test_images() -> None:
    image = Image.new("RGB", (5, 4), (10, 200, 30))
    jpeg, png = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", quality=95)
    image.save(png, "PNG")
    pil = struct.pack("<III", 5, 4, 3) + b"RGB" + image.tobytes()
    columns: list[Column] = [
        ("a", "jpeg", None),
        ("b", "jpeg:95", None),
        ("c", "png", None),
        ("d", "pil", None),
    ]
    (sample,) = read(columns, [[jpeg.getvalue(), jpeg.getvalue(), png.getvalue(), pil]])
    for name in "abc":
        assert tuple(sample[name].shape) == (3, 4, 5)
    assert sample["c"][:, 0, 0].tolist() == [10, 200, 30]
    assert sample["d"].getpixel((0, 0)) == (10, 200, 30)


def test_pickles_need_permission() -> None:
    with pytest.raises(UntrustedDataError):
        read([("x", "pkl", None)], [[b"\x80\x04K\x07."]], allow_pickle=False)


@pytest.mark.parametrize(
    ("encoding", "size", "stored"),
    [
        ("int", None, b"123"),
        ("uint8", None, b"12"),
        ("str_int", None, b"12x"),
        ("str_int", None, b"\xff"),
        ("str_float", None, b""),
        ("str_decimal", None, b"x"),
        ("json", None, b"{"),
        ("json", None, b"[" * 100_000),
        ("ndarray", None, b""),
        ("ndarray", None, b"\xff"),
        ("ndarray", None, b"\x08"),
        ("ndarray", None, b"\x08\x08\2"),
        ("ndarray", None, b"\x08\xfc" + b"\1" * 70),
        ("ndarray:uint8", None, b"\x0b" + b"\xff" * 16),
        ("ndarray:int16:2,3", 4, b"1234"),
    ],
)
def test_values_that_disagree_with_themselves(
    encoding: str, size: int | None, stored: bytes
) -> None:
    with pytest.raises(ChunkFormatError, match=r"shard: item 0"):
        read([("x", encoding, size)], [[stored]])


@pytest.mark.parametrize("item", [b"", b"\1\0", b"\5\0\0\0abc", b"\1\0\0\0abc"])
def test_samples_that_disagree_with_themselves(item: bytes) -> None:
    columns: list[Column] = [("x", "str", None)]
    ends = np.cumsum([12, len(item)]).astype("<u4")
    data = b"\1\0\0\0" + ends.tobytes() + item
    index = parse([shard_entry(columns, 1, len(data))])
    reader = bind(index).open(memoryview(data), index.chunks[0], "shard")
    with pytest.raises(ChunkFormatError, match="shard: item 0: "):
        reader.sample(0)


@pytest.mark.parametrize(
    "encoding",
    ["float8", "ndarray:complex64", "ndarray:int8:0", "ndarray:int8:x", "jpeg_array", "png:3", ""],
)
def test_unknown_encodings(encoding: str) -> None:
    index = parse([shard_entry([("x", encoding, None)], 0, 8)])
    with pytest.raises(IndexFormatError, match="'column_encodings'"):
        bind(index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw_data": None}, r"'shards\[0\]\.raw_data' must be an object"),
        ({"raw_data": {"basename": "../x", "bytes": 99}}, "cannot leave the data set's folder"),
        ({"raw_data": {"basename": "x", "bytes": -9}}, "raw_data.bytes' must be between"),
        ({"samples": "4"}, r"samples' must be an integer"),
        ({"samples": 10**6}, "too many for"),
        ({"format": "csv"}, "format' must be 'mds'"),
        ({"column_names": ["a"]}, "column_names' must be unique"),
        ({"column_sizes": [8, "x", None]}, r"column_sizes\[1\]' must be a size"),
        ({"column_sizes": [8, -1, None]}, r"column_sizes\[1\]' must be a size"),
        ({"compression": "zstd"}, "'compression' must both"),
        (
            {"compression": "zstd", "zip_data": {"basename": "/x", "bytes": 1}},
            "must be relative",
        ),
    ],
)
def test_indexes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IndexFormatError, match=message):
        parse([shard_entry(COLUMNS, 4, 200, **changes)])


def test_shards_must_have_the_same_columns() -> None:
    other: list[Column] = [("id", "int", 8), ("text", "str", None), ("more", "bytes", None)]
    with pytest.raises(IndexFormatError, match=r"'shards\[1\]\.column_names' differs"):
        parse([shard_entry(COLUMNS, 4, 200), shard_entry(other, 4, 200)])


def test_no_shards() -> None:
    index = parse([])
    assert index.chunks == ()
    assert isinstance(bind(index), BoundLoader)


def test_truncated_shards() -> None:
    data = shard_bytes(COLUMNS, SAMPLES)
    for length in range(len(data)):
        for declared in {length, len(data)}:
            if declared < 24:
                continue  # the index itself is refused
            index = parse([shard_entry(COLUMNS, 4, declared)])
            with pytest.raises(ChunkFormatError, match="shard: "):
                bind(index).open(memoryview(data)[:length], index.chunks[0], "shard")


def test_ranges_need_offsets() -> None:
    index = parse([shard_entry(COLUMNS, 0, 8)])
    with pytest.raises(ConfigError):
        bind(index).open_range(memoryview(b""), 0, 0, None, index.chunks[0], "shard")


class Shout(Serializer):
    """An encoding of the user's own."""

    def can_serialize(self, item: Any) -> bool:
        return False

    def serialize(self, item: Any) -> tuple[bytes, None]:
        return b"", None

    def deserialize(self, data: bytes) -> str:
        return data.decode().upper()


def test_encodings_of_the_users_own() -> None:
    data = shard_bytes([("x", "shout", None)], [[b"hey"]])
    index = parse([shard_entry([("x", "shout", None)], 1, len(data))])
    registry = SerializerRegistry({"shout": Shout()})
    bound = PyTreeLoader().bind(index, registry=registry, source="index.json")
    assert bound.open(memoryview(data), index.chunks[0], "c").sample(0) == {"x": "HEY"}
