"""Chunk layouts: the worked examples of the format, and every layout read back."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChunkFormatError, EncryptionError
from aiolit.format.assemble import assemble
from aiolit.format.chunk import (
    FramedView,
    RowsView,
    SampleZstdView,
    offsets_range,
    open_chunk,
    open_range,
    parse_offsets,
    probe,
    range_readable,
    verify_chunk,
)
from aiolit.format.encryption import Encryption
from aiolit.format.framed import frame_chunk
from aiolit.format.index import ChunkInfo, DatasetConfig, EncryptionInfo

TWO_INTS = bytes.fromhex(
    "02000000 10000000 1C000000 28000000 08000000 0100000000000000 08000000 FEFFFFFFFFFFFFFF"
)


def info(data: bytes, count: int, **changes: Any) -> ChunkInfo:
    return ChunkInfo(filename="chunk-0-0.bin", num_items=count, nbytes=len(data), **changes)


def classic(items: list[bytes], tail: bytes = b"") -> bytes:
    ends = np.cumsum([4 * (len(items) + 2), *map(len, items)])
    return struct.pack("<I", len(items)) + ends.astype("<u4").tobytes() + b"".join(items) + tail


class Xor(Encryption):
    """A cipher anybody could write: nothing but the two methods."""

    def encrypt(self, data: bytes) -> bytes:
        return b"!" + bytes(byte ^ 0x55 for byte in data)

    def decrypt(self, data: bytes) -> bytes:
        if data[:1] != b"!":
            raise EncryptionError("wrong key")
        return bytes(byte ^ 0x55 for byte in data[1:])


def test_the_worked_example() -> None:
    view = open_chunk(memoryview(TWO_INTS), info(TWO_INTS, 2), DatasetConfig(), source="c")
    assert (view.first, view.count) == (0, 2)
    assert [bytes(item) for item in view.items([1, 0])] == [TWO_INTS[28:40], TWO_INTS[16:28]]
    assert view.items([]) == []


def test_items_are_slices_of_the_file() -> None:
    data = bytearray(TWO_INTS)
    view = open_chunk(memoryview(data), info(TWO_INTS, 2), DatasetConfig(), source="c")
    item = view.item(0)
    data[20] = 7
    assert item[4] == 7


@pytest.mark.parametrize("index", [-1, 2, 100])
def test_items_that_are_not_there(index: int) -> None:
    view = open_chunk(memoryview(TWO_INTS), info(TWO_INTS, 2), DatasetConfig(), source="c")
    with pytest.raises(IndexError):
        view.item(index)
    with pytest.raises(IndexError):
        view.items([0, index])


@given(st.lists(st.binary(max_size=40), max_size=20), st.binary(max_size=30))
def test_classic_items_and_bytes_behind_them(items: list[bytes], tail: bytes) -> None:
    data = classic(items, tail)
    view = open_chunk(memoryview(data), info(data, len(items)), DatasetConfig(), source="c")
    assert [bytes(view.item(n)) for n in range(len(items))] == items
    assert verify_chunk(memoryview(data), info(data, len(items)), "c") is False


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.data())
def test_ranges(items: list[bytes], data: st.DataObject) -> None:
    stored = classic(items)
    chunk = info(stored, len(items))
    first = data.draw(st.integers(0, len(items) - 1))
    last = data.draw(st.integers(first + 1, len(items)))
    start, end = offsets_range(first, last)
    offsets = parse_offsets(stored[start:end], first, chunk, source="c")
    low, high = int(offsets[0]), int(offsets[-1])
    view = open_range(
        memoryview(stored)[low:high], low, first, offsets, chunk, DatasetConfig(), source="c"
    )
    assert (view.first, view.count) == (first, last - first)
    wanted = list(range(first, last))
    assert [bytes(item) for item in view.items(wanted)] == items[first:last]
    assert [bytes(view.item(n)) for n in wanted] == items[first:last]
    for outside in (first - 1, last):
        with pytest.raises(IndexError):
            view.item(outside)


def test_framed_worked_by_hand() -> None:
    items = [b"aaaa", b"", b"bb", b"c" * 50, b"d"]
    frames = [zstandard.compress(b"".join(items[n : n + 2])) for n in (0, 2, 4)]
    offsets = np.cumsum([0, *map(len, items)])
    header = 24 + 4 * 6 + 3 * 24
    rows, at = b"", header
    for number, frame in enumerate(frames):
        first, last = 2 * number, min(2 * number + 2, 5)
        size = int(offsets[last] - offsets[first])
        rows += struct.pack("<IIQII", first, last - first, at, len(frame), size)
        at += len(frame)
    head = struct.pack("<8sHHIII", b"LDFZ01\0\0", 1, 0, 5, 2, 3) + offsets.astype("<u4").tobytes()
    data = head + rows + b"".join(frames)
    view = open_chunk(memoryview(data), info(data, 5), DatasetConfig(), source="c")
    assert isinstance(view, FramedView)
    assert [bytes(view.item(n)) for n in (4, 0, 1, 3, 2)] == [items[n] for n in (4, 0, 1, 3, 2)]
    assert verify_chunk(memoryview(data), info(data, 5), "c") is False


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=30), st.integers(1, 40))
def test_framed_round_trip(items: list[bytes], per_frame: int) -> None:
    offsets = np.cumsum([4 * (len(items) + 2), *map(len, items)]).astype(np.uint32)
    parts = frame_chunk(offsets, list(items), level=3, per_frame=per_frame)
    data = b"".join(parts)
    chunk = info(data, len(items), checksum_items=per_frame)
    view = open_chunk(memoryview(data), chunk, DatasetConfig(), source="c")
    assert [bytes(view.item(n)) for n in range(len(items))] == items
    assert verify_chunk(memoryview(data), chunk, "c") is True


def test_a_frame_is_inflated_once() -> None:
    _, files = assemble(
        ["x" * n for n in range(10)],
        chunk_size=10,
        compression="zstd",
        compression_level="batch",
        compression_batch_size=5,
    )
    data = files["chunk-0-0.bin"]
    view = open_chunk(memoryview(data), info(data, 10), DatasetConfig(), source="c")
    assert view.item(1).obj is view.item(2).obj
    assert view.item(1).obj is not view.item(7).obj


def test_items_compressed_one_by_one() -> None:
    items = [b"a" * 100, b"plain item that was never compressed", b""]
    data = classic([zstandard.compress(items[0]), items[1], items[2]])
    config = DatasetConfig(compression="zstd", compression_level="sample")
    view = open_chunk(memoryview(data), info(data, 3), config, source="c")
    assert isinstance(view, SampleZstdView)
    assert [bytes(view.item(n)) for n in range(3)] == items


def arrow_chunk(rows: list[dict[str, Any]], items: list[bytes] | None = None) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=256)
    blob = sink.getvalue().to_pybytes()
    footer = blob + struct.pack("<I", len(blob)) + b"LDARW01\0"
    return classic(items or [b""] * len(rows), footer)


def test_arrow_rows() -> None:
    rows = [{"a": n, "t": None if n % 3 else f"x{n}", "l": [1.5] * (n % 4)} for n in range(600)]
    data = arrow_chunk(rows)
    view = open_chunk(memoryview(data), info(data, 600), DatasetConfig(), source="c")
    assert isinstance(view, RowsView)
    assert view.row(300) == rows[300]
    assert view.rows([599, 0, 256, 255]) == [rows[n] for n in (599, 0, 256, 255)]
    with pytest.raises(IndexError):
        view.row(600)
    with pytest.raises(ChunkFormatError, match="Arrow table"):
        view.item(0)


def test_arrow_stream() -> None:
    table = pa.Table.from_pylist([{"a": 1}, {"a": 2}])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    blob = sink.getvalue().to_pybytes()
    data = classic([b"", b""], blob + struct.pack("<I", len(blob)) + b"LDARW01\0")
    view = open_chunk(memoryview(data), info(data, 2), DatasetConfig(), source="c")
    assert isinstance(view, RowsView)
    assert view.rows([1, 0]) == [{"a": 2}, {"a": 1}]


def test_a_hybrid_chunk_is_read_by_its_items() -> None:
    items = [b"one", b"two"]
    data = arrow_chunk([{"a": 1}, {"a": 2}], items)
    view = open_chunk(memoryview(data), info(data, 2), DatasetConfig(), source="c")
    assert [bytes(view.item(n)) for n in (0, 1)] == items


def test_rows_in_plain_text_in_an_encrypted_data_set_are_read_with_a_warning() -> None:
    data = arrow_chunk([{"a": 1}])
    config = DatasetConfig(encryption=EncryptionInfo(algorithm="Xor", level="sample"))
    with pytest.warns(UserWarning, match="plain text"):
        view = open_chunk(memoryview(data), info(data, 1), config, source="c", encryption=Xor())
    assert isinstance(view, RowsView)


def test_encrypted_items() -> None:
    key = Xor()
    items = [b"one", b"", b"three"]
    data = classic([key.encrypt(item) for item in items])
    config = DatasetConfig(encryption=EncryptionInfo(algorithm="Xor", level="sample"))
    view = open_chunk(memoryview(data), info(data, 3), config, source="c", encryption=key)
    assert [bytes(item) for item in view.items([2, 0, 1])] == [b"three", b"one", b""]


def test_an_encrypted_chunk() -> None:
    key = Xor()
    key.level = "chunk"
    data = key.encrypt(TWO_INTS)
    config = DatasetConfig(encryption=EncryptionInfo(algorithm="Xor", level="chunk"))
    view = open_chunk(memoryview(data), info(data, 2), config, source="c", encryption=key)
    assert bytes(view.item(0)) == TWO_INTS[16:28]


G3 = {"types": None, "ipc_compression": None}
ARRAYS = ("int", "no_header_numpy:3")


@pytest.mark.parametrize(
    ("config", "chunk_fields", "expected"),
    [
        (DatasetConfig(data_format=("int",)), {}, True),
        (DatasetConfig(data_format=("int",), extra=G3), {}, None),
        (DatasetConfig(data_format=("int",), extra=G3), {"checksum_items": 1}, True),
        (DatasetConfig(data_format=ARRAYS, extra=G3), {}, True),
        (DatasetConfig(data_format=ARRAYS, extra=G3, compression="zstd"), {}, None),
        (DatasetConfig(compression="zstd", compression_level="batch"), {}, None),
        (
            DatasetConfig(compression="zstd", compression_level="batch"),
            {"checksum_items": 1},
            False,
        ),
        (DatasetConfig(compression="zstd"), {"filename": "chunk-0-0.zstd.bin"}, False),
        (
            DatasetConfig(encryption=EncryptionInfo(algorithm="fernet", level="chunk")),
            {},
            False,
        ),
        (
            DatasetConfig(encryption=EncryptionInfo(algorithm="fernet", level="sample")),
            {},
            True,
        ),
        (DatasetConfig(item_loader="TokensLoader", extra=G3), {}, True),
        (DatasetConfig(item_loader="ParquetLoader"), {}, False),
        (DatasetConfig(item_loader="TemporalArrayLoader", extra=G3), {}, True),
        (
            DatasetConfig(extra={"format": "mds"}),
            {"extra": {"compression": None}},
            True,
        ),
        (
            DatasetConfig(extra={"format": "mds"}),
            {"extra": {"compression": "zstd:3"}},
            False,
        ),
    ],
)
def test_which_chunks_are_read_by_range(
    config: DatasetConfig, chunk_fields: dict[str, Any], expected: bool | None
) -> None:
    fields = {"filename": "chunk-0-0.bin", "num_items": 1, "nbytes": 40, **chunk_fields}
    assert range_readable(ChunkInfo(**fields), config) is expected


def test_probe() -> None:
    assert probe(TWO_INTS[:8], TWO_INTS[-12:])
    assert not probe(b"LDFZ01\0\0", b"x" * 12)
    assert not probe(TWO_INTS[:8], arrow_chunk([{"a": 1}])[-12:])
