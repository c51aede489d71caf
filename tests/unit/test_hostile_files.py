"""Files that lie: whatever is wrong with them, the error is one of ours and says where."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChunkFormatError, DatasetError
from aiolit.format.assemble import assemble
from aiolit.format.chunk import open_chunk, open_range, parse_offsets, verify_chunk
from aiolit.format.compression import decompress_whole
from aiolit.format.encryption import Encryption, FernetEncryption
from aiolit.format.index import ChunkInfo, DatasetConfig, Index, is_whole_compressed
from aiolit.format.loader import PyTreeLoader, SampleReader, TokensLoader
from aiolit.format.serializers import SerializerRegistry

SOURCE = "s3://bucket/data/chunk-0-0.bin"
SAMPLES = [{"n": n, "t": "x" * n, "b": n % 2 == 0} for n in range(6)]
KEY = FernetEncryption("pw", level="chunk")
ITEM_KEY = FernetEncryption("pw")


def bare(index: Index, data: bytes) -> tuple[Index, bytes]:
    """Take the checksums off, as in a chunk of LitData."""
    offsets = np.frombuffer(data, "<u4", count=index.chunks[0].num_items + 1, offset=4)
    data = data[: int(offsets[-1])]
    chunk = replace(index.chunks[0], nbytes=len(data), checksum_items=None, checksum_bytes=None)
    return replace(index, chunks=(chunk,)), data


def single(**options: Any) -> tuple[Index, bytes]:
    index, files = assemble(SAMPLES, chunk_size=10, **options)
    return index, files[index.chunks[0].filename]


def arrow() -> tuple[Index, bytes]:
    index, _ = single()
    table = pa.Table.from_pylist(SAMPLES)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=256)
    blob = sink.getvalue().to_pybytes()
    head = struct.pack("<8I", 6, *[32] * 7)
    data = head + blob + struct.pack("<I", len(blob)) + b"LDARW01\0"
    chunk = ChunkInfo(filename="chunk-0-0.bin", num_items=6, nbytes=len(data))
    return replace(index, chunks=(chunk,)), data


def item_zstd() -> tuple[Index, bytes]:
    index, data = bare(*single())
    offsets = np.frombuffer(data, "<u4", count=7, offset=4)
    items = [zstandard.compress(data[a:b]) for a, b in pairwise(offsets)]
    ends = np.cumsum([32, *map(len, items)]).astype("<u4")
    data = struct.pack("<I", 6) + ends.tobytes() + b"".join(items)
    config = replace(index.config, compression="zstd", compression_level="sample")
    chunk = replace(index.chunks[0], nbytes=len(data))
    return replace(index, chunks=(chunk,), config=config), data


LAYOUTS: dict[str, Callable[[], tuple[Index, bytes]]] = {
    "classic": lambda: bare(*single()),
    "checksums": single,
    "whole-zstd": lambda: single(compression="zstd"),
    "framed": lambda: single(
        compression="zstd", compression_level="batch", compression_batch_size=4
    ),
    "item-zstd": item_zstd,
    "arrow": arrow,
    "encrypted": lambda: single(encryption=KEY),
    "encrypted-items": lambda: single(encryption=ITEM_KEY),
}


def key_of(index: Index) -> Encryption | None:
    if index.config.encryption is None:
        return None
    return KEY if index.config.encryption.level == "chunk" else ITEM_KEY


def open_file(index: Index, data: bytes, nbytes: int | None = None) -> SampleReader:
    """Open a chunk as stored, undoing its compression; ``nbytes`` is what the index declares."""
    chunk = index.chunks[0] if nbytes is None else replace(index.chunks[0], nbytes=nbytes)
    bound = PyTreeLoader().bind(
        index, registry=SerializerRegistry(), source="index.json", encryption=key_of(index)
    )
    if is_whole_compressed(chunk, index.config):
        data = decompress_whole(data, expected_nbytes=chunk.nbytes, source=SOURCE)
    return bound.open(memoryview(data), chunk, SOURCE)


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> tuple[Index, bytes]:
    return LAYOUTS[request.param]()


def test_layouts_are_read(layout: tuple[Index, bytes]) -> None:
    index, data = layout
    assert open_file(index, data).samples(range(6)) == SAMPLES


def test_truncated_at_every_byte(layout: tuple[Index, bytes]) -> None:
    index, data = layout
    for length in range(len(data)):
        with pytest.raises(DatasetError, match=SOURCE):
            open_file(index, data[:length])


# Of a file compressed as a whole the index declares the length of the content.
@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"whole-zstd"}), indirect=True)
def test_truncated_at_every_byte_with_an_index_that_agrees(layout: tuple[Index, bytes]) -> None:
    index, data = layout
    for length in range(len(data)):
        with pytest.raises(DatasetError, match=SOURCE):
            open_file(index, data[:length], nbytes=length).samples(range(6))


@given(st.data())
def test_damaged_anywhere(data: st.DataObject) -> None:
    index, stored = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]()
    damaged = bytearray(stored)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stored) - 1))
        value = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
        damaged[place] = value
    try:
        samples = open_file(index, bytes(damaged)).samples(range(6))
    except DatasetError as error:
        assert SOURCE in str(error)  # noqa: PT017  # reading what is intact is right, too
    else:
        assert len(samples) == 6


@given(st.binary(max_size=400), st.integers(0, 20))
def test_random_bytes(data: bytes, num_items: int) -> None:
    chunk = ChunkInfo(filename="c", num_items=num_items, nbytes=len(data))
    try:
        view = open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)
        assert all(len(item) <= len(data) for item in view.items(range(num_items)))
    except DatasetError as error:
        assert SOURCE in str(error)  # noqa: PT017  # some of them are chunks


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"", 0, "less than a header"),
        (u32(1, 12, 12), 2, "counts 1 items, and chunk_size in the index is 2"),
        (u32(2**32 - 1, 0), 2**32 - 1, "truncated: the offsets of 4294967295 items"),
        (u32(1, 13, 13) + b"x", 1, "offset 0 is 13"),
        (u32(1, 8, 12), 1, "offset 0 is 8"),
        (u32(1, 12, 11), 1, "the offsets of item 0 are out of order"),
        (u32(2, 16, 20, 18) + b"1234", 2, "the offsets of item 1 are out of order"),
        (u32(1, 12, 13), 1, "items at 12 to 13 lie outside"),
        (u32(1, 12, 2**32 - 1), 1, "items at 12 to 4294967295 lie outside"),
        (u32(1, 12, 12) + u32(99) + b"LDARW01\0", 1, "Arrow data of 99 bytes does not fit"),
        (u32(1, 12, 12) + b"junk" + u32(4) + b"LDARW01\0", 1, "damaged Arrow data"),
        (u32(1, 12, 12) + u32(0) + b"LDARW01\0", 1, "damaged Arrow data"),
    ],
)
def test_classic_lies(data: bytes, count: int, message: str) -> None:
    chunk = ChunkInfo(filename="c", num_items=count, nbytes=0)
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: .*{message}"):
        open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)


def framed_header(
    version: int = 1,
    flags: int = 0,
    count: int = 2,
    per_frame: int = 2,
    frames: int = 1,
    offsets: tuple[int, ...] = (0, 5, 10),
    row: tuple[int, ...] = (0, 2, 60, 19, 10),
) -> bytes:
    head = struct.pack("<8sHHIII", b"LDFZ01\0\0", version, flags, count, per_frame, frames)
    return head + u32(*offsets) + struct.pack("<IIQII", *row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "framed layout 2"),
        ({"flags": 1}, "flags 1"),
        ({"count": 3}, "counts 3 items"),
        ({"per_frame": 0}, "1 frames of 0"),
        ({"per_frame": 1}, "1 frames of 1"),
        ({"frames": 2**32 - 1}, "4294967295 frames"),
        ({"offsets": (1, 5, 10)}, "out of order"),
        ({"offsets": (0, 11, 10)}, "out of order"),
        ({"row": (1, 2, 60, 19, 10)}, "frame 0: first_item"),
        ({"row": (0, 1, 60, 19, 10)}, "frame 0: n_items"),
        ({"row": (0, 2, 59, 19, 10)}, "frame 0: compressed_off"),
        ({"row": (0, 2, 2**64 - 1, 19, 10)}, "frame 0: compressed_off"),
        ({"row": (0, 2, 60, 2**32 - 1, 10)}, "frame 0: compressed_len"),
        ({"row": (0, 2, 60, 19, 11)}, "frame 0: uncompressed_len"),
        (
            {"offsets": (0, 5, 2**32 - 1), "row": (0, 2, 60, 19, 2**32 - 1)},
            "frame 0: uncompressed_len",
        ),
    ],
)
def test_framed_lies(changes: dict[str, Any], message: str) -> None:
    packed = zstandard.compress(b"x" * 10)
    assert len(packed) == 19
    good = framed_header() + packed
    chunk = ChunkInfo(filename="c", num_items=2, nbytes=0)
    view = open_chunk(memoryview(good), chunk, DatasetConfig(), source=SOURCE)
    assert bytes(view.item(1)) == b"xxxxx"
    data = framed_header(**changes) + packed
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: .*{message}"):
        open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)


def test_a_frame_that_inflates_to_more_than_it_says() -> None:
    packed = zstandard.compress(bytes(1 << 20))
    data = framed_header(row=(0, 2, 60, len(packed), 10)) + packed
    chunk = ChunkInfo(filename="c", num_items=2, nbytes=0)
    view = open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: frame 0: inflates to more"):
        view.item(0)


def test_lies_reserve_no_memory() -> None:
    """Declared sizes of gigabytes in files of a few bytes."""
    packed = zstandard.compress(b"x" * 10)
    framed = framed_header(offsets=(0, 5, 2**32 - 1), row=(0, 2, 60, len(packed), 2**32 - 1))
    classic = u32(2**31, 12)
    sized = b"\x28\xb5\x2f\xfd\xc0\x08" + struct.pack("<Q", 2**40) + b"\1\0\0"
    item_zstd_data = u32(1, 12, 12 + len(sized)) + sized
    per_item = DatasetConfig(compression="zstd", compression_level="sample")
    tracemalloc.start()
    try:
        for data, count, config in (
            (framed + packed, 2, DatasetConfig()),
            (classic, 2**31, DatasetConfig()),
            (item_zstd_data, 1, per_item),
        ):
            chunk = ChunkInfo(filename="c", num_items=count, nbytes=0)
            with pytest.raises(ChunkFormatError):
                open_chunk(memoryview(data), chunk, config, source=SOURCE).item(0)
        with pytest.raises(ChunkFormatError):
            decompress_whole(sized, expected_nbytes=2**40, source=SOURCE)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([20, 19], "item 2 are out of order"),
        ([10, 20], "lie outside bytes 32 to 90"),
        ([40, 91], "lie outside bytes 32 to 90"),
    ],
)
def test_offsets_that_lie(offsets: list[int], message: str) -> None:
    chunk = ChunkInfo(filename="c", num_items=6, nbytes=90)
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: .*{message}"):
        parse_offsets(u32(*offsets), 2, chunk, source=SOURCE)
    for short in (b"", b"1234", b"123456789"):
        with pytest.raises(ChunkFormatError, match="no run of offsets"):
            parse_offsets(short, 2, chunk, source=SOURCE)


@pytest.mark.parametrize(
    ("first", "offsets", "message"),
    [
        (0, [40, 60], "lie outside bytes 40 to 50"),
        (0, [30, 50], "lie outside bytes 40 to 50"),
        (1, [45, 44, 46], "item 1 are out of order"),
        (5, [40, 41, 42], "items 5 to 6 of a chunk of 6"),
        (-1, [40, 41], "items -1 to -1"),
        (0, [], "items 0 to -2"),
    ],
)
def test_ranges_that_lie(first: int, offsets: list[int], message: str) -> None:
    chunk = ChunkInfo(filename="c", num_items=6, nbytes=90)
    table = np.array(offsets, dtype=np.int64)
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: .*{message}"):
        open_range(memoryview(bytes(10)), 40, first, table, chunk, DatasetConfig(), source=SOURCE)


def test_arrow_rows_that_disagree_with_the_index() -> None:
    index, data = arrow()
    blob = data[32:-12]
    table = struct.pack("<7I", 5, *[28] * 6)
    fewer = table + blob + struct.pack("<I", len(blob)) + b"LDARW01\0"
    chunk = replace(index.chunks[0], num_items=5, nbytes=len(fewer))
    with pytest.raises(ChunkFormatError, match="has 6 rows, and chunk_size in the index is 5"):
        open_chunk(memoryview(fewer), chunk, index.config, source=SOURCE)


def test_arrow_types_that_no_writer_makes() -> None:
    table = pa.table({"a": pa.array([[{"when": 1}]], pa.list_(pa.struct([("when", pa.date32())])))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    blob = sink.getvalue().to_pybytes()
    data = u32(1, 12, 12) + blob + u32(len(blob)) + b"LDARW01\0"
    chunk = ChunkInfo(filename="c", num_items=1, nbytes=len(data))
    with pytest.raises(ChunkFormatError, match=r"column 'a\..*when' has the type date32"):
        open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)


@pytest.mark.parametrize(
    "column",
    [
        pa.ListArray.from_arrays([0, *[10**8] * 6], pa.nulls(10**8)),
        pa.ListArray.from_arrays(
            [0, *[10**8] * 6], pa.StructArray.from_buffers(pa.struct([]), 10**8, [None])
        ),
        pa.ListArray.from_arrays(
            [0, *[10**8] * 6], pa.StructArray.from_arrays([pa.nulls(10**8)], ["a"])
        ),
    ],
)
def test_arrow_values_that_take_no_bytes(column: pa.Array) -> None:
    """A few hundred bytes, and a list of a hundred million."""
    sink = pa.BufferOutputStream()
    schema = pa.schema([("a", column.type)])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    blob = sink.getvalue().to_pybytes()
    count = len(column)
    table = struct.pack(f"<{count + 2}I", count, *[4 * (count + 2)] * (count + 1))
    data = table + blob + u32(len(blob)) + b"LDARW01\0"
    assert len(data) < 100_000
    chunk = ChunkInfo(filename="c", num_items=count, nbytes=len(data))
    with pytest.raises(ChunkFormatError, match=f"^{SOURCE}: .*say that they hold more than"):
        open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)


def test_frames_that_grow_much_make_room_for_others() -> None:
    """Twelve frames of 16 MiB in some kilobytes: each is read, and not all are kept."""
    size, frames = 16 << 20, 12
    packed = zstandard.compress(bytes(size))
    header = 24 + 4 * (frames + 1) + 24 * frames
    rows = [(n, 1, header + n * len(packed), len(packed), size) for n in range(frames)]
    data = (
        struct.pack("<8sHHIII", b"LDFZ01\0\0", 1, 0, frames, 1, frames)
        + u32(*(size * n for n in range(frames + 1)))
        + b"".join(struct.pack("<IIQII", *row) for row in rows)
        + packed * frames
    )
    chunk = ChunkInfo(filename="c", num_items=frames, nbytes=len(data))
    view = open_chunk(memoryview(data), chunk, DatasetConfig(), source=SOURCE)
    tracemalloc.start()
    try:
        for item in (*range(frames), 0):
            assert len(view.item(item)) == size
        assert tracemalloc.get_traced_memory()[1] < 110 << 20
    finally:
        tracemalloc.stop()


def test_token_chunks_truncated_at_every_byte() -> None:
    index, files = assemble([np.arange(9)], chunk_size=9, item_loader=TokensLoader())
    data = files["chunk-0-0.bin"]
    bound = TokensLoader(3).bind(index, registry=SerializerRegistry(), source="index.json")
    for length in range(len(data)):
        with pytest.raises(DatasetError, match=SOURCE):
            bound.open(memoryview(data)[:length], index.chunks[0], SOURCE)
        shorter = replace(index.chunks[0], nbytes=length)
        with pytest.raises(DatasetError):
            bound.open(memoryview(data)[:length], shorter, SOURCE)
        with pytest.raises(DatasetError):
            verify_chunk(memoryview(data)[:length], shorter, SOURCE)
