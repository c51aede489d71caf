"""The checksum footer: every flipped bit is found, in whole chunks and in two range requests."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChecksumError, ChunkFormatError, DatasetError
from aiolit.format.assemble import assemble
from aiolit.format.checksum import (
    BlockRecord,
    choose_block,
    join_offsets,
    parse_record,
    parse_records,
    record_range,
    verify_block,
    verify_blocks,
)
from aiolit.format.checksum_stream import (
    covering_range,
    stream_crc_range,
    stream_nbytes,
    verify_stream,
)
from aiolit.format.chunk import open_chunk, open_range, verify_chunk
from aiolit.format.index import ChunkInfo, DatasetConfig, Index
from aiolit.format.loader import BoundLoader, PyTreeLoader, TokensLoader
from aiolit.format.serializers import SerializerRegistry

SOURCE = "s3://bucket/chunk-0-0.bin"


def one_chunk(samples: list[Any]) -> tuple[Index, ChunkInfo, bytes]:
    index, files = assemble(samples, chunk_size=len(samples))
    return index, index.chunks[0], files["chunk-0-0.bin"]


def bind(index: Index, **options: Any) -> BoundLoader:
    loader = TokensLoader(**options) if options else PyTreeLoader()
    return loader.bind(index, registry=SerializerRegistry(), source="index.json")


def flips(data: bytes) -> list[bytes]:
    damaged = []
    for bit in range(8 * len(data)):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(copy))
    return damaged


SMALL = [{"n": n, "t": "x" * n} for n in range(5)]
LARGE = [b"a" * 1500, b"b" * 1100]


@pytest.mark.parametrize(
    ("num_items", "nbytes", "k"),
    [
        (1, 0, 1),
        (10, 10240, 1),
        (1000, 1023 * 1000, 4),
        (1000, 24_000, 512),
        (1000, 64_000, 64),
        (3, 30, 4),
    ],
)
def test_block_size(num_items: int, nbytes: int, k: int) -> None:
    assert choose_block(num_items, nbytes) == k


def test_the_layout_by_hand() -> None:
    _, chunk, data = one_chunk([b"one", b"three"])
    items = b"\3\0\0\0one\5\0\0\0three"
    head = b"\2\0\0\0" + np.array([16, 23, 32], dtype="<u4").tobytes()
    borders = np.array([16, 23, 32], dtype="<u4").tobytes()
    record = zlib.crc32(borders + items).to_bytes(4, "little") + borders
    trailer = np.array([2, 2, zlib.crc32(head), zlib.crc32(record)], dtype="<u4").tobytes()
    assert chunk.checksum_items == 2
    assert data == head + items + record + trailer + b"AIOLCRC1"
    assert verify_chunk(memoryview(data), chunk, SOURCE) is True


@pytest.mark.parametrize("samples", [SMALL, LARGE[:1], [{}], [{}, {}]])
def test_every_flipped_bit_is_found_in_a_whole_chunk(samples: list[Any]) -> None:
    _, chunk, data = one_chunk(samples)
    for damaged in flips(data[:400]):
        with pytest.raises(DatasetError, match=SOURCE):
            verify_chunk(memoryview(damaged + data[400:]), chunk, SOURCE)


def test_a_flipped_bit_never_reaches_a_sample() -> None:
    index, chunk, data = one_chunk(SMALL)
    bound = bind(index)
    for damaged in flips(data):
        try:
            samples = bound.open(memoryview(damaged), chunk, SOURCE).samples(range(5))
        except DatasetError as error:
            assert SOURCE in str(error)  # noqa: PT017  # raising is one of two right outcomes
        else:
            assert samples == SMALL


def test_the_damaged_items_are_named_and_the_others_readable() -> None:
    samples = [b"a" * 2000, b"b" * 2000, b"c" * 2000]
    index, chunk, data = one_chunk(samples)
    damaged = data.replace(b"bbbb", b"bbBb", 1)
    reader = bind(index).open(memoryview(damaged), chunk, SOURCE)
    assert reader.samples([0, 2]) == [samples[0], samples[2]]
    with pytest.raises(ChecksumError, match=f"{SOURCE}: damaged: item 1 differ"):
        reader.sample(1)
    trusting = bind(index).open(memoryview(damaged), chunk, SOURCE, verify=False)
    assert trusting.sample(1) != samples[1]


def test_a_block_is_checked_once() -> None:
    index, chunk, data = one_chunk(SMALL)
    live = bytearray(data)
    reader = bind(index).open(memoryview(live), chunk, SOURCE)
    assert reader.sample(0) == SMALL[0]
    live[live.index(b"xxx")] = ord("y")  # in the same block, of four items
    assert reader.sample(3) == {"n": 3, "t": "yxx"}


def read_in_two(data: bytes, chunk: ChunkInfo, index: Index, item: int) -> Any:
    """Read one sample as a client does that may only ask for two ranges."""
    start, end = record_range(chunk, item)
    record = parse_record(data[start:end], chunk, item, source=SOURCE)
    block = memoryview(data)[record.start : record.end]
    verify_block(record, block, SOURCE)
    reader = bind(index).open_range(
        block, record.start, record.first_item, record.offsets, chunk, SOURCE
    )
    return reader.sample(item)


@pytest.mark.parametrize("samples", [SMALL, LARGE])
def test_one_sample_with_two_ranges(samples: list[Any]) -> None:
    index, chunk, data = one_chunk(samples)
    assert [read_in_two(data, chunk, index, n) for n in range(len(samples))] == samples


def test_a_flipped_bit_is_found_by_range_reads() -> None:
    index, chunk, data = one_chunk(SMALL)
    for damaged in flips(data):
        for item in range(5):
            try:
                sample = read_in_two(damaged, chunk, index, item)
            except DatasetError as error:
                assert SOURCE in str(error)  # noqa: PT017  # raising is one of two right outcomes
            else:
                assert sample == SMALL[item]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=60), st.data())
def test_runs_of_blocks(items: list[bytes], data: st.DataObject) -> None:
    index, chunk, stored = one_chunk(items)
    first = data.draw(st.integers(0, len(items) - 1))
    last = data.draw(st.integers(first + 1, len(items)))
    start, end = record_range(chunk, first, last)
    records = parse_records(stored[start:end], chunk, first, last, source=SOURCE)
    base, limit = records[0].start, records[-1].end
    span = memoryview(stored)[base:limit]
    verify_blocks(records, span, base, SOURCE)
    offsets = join_offsets(records)
    view = open_range(
        span, base, records[0].first_item, offsets, chunk, index.config, source=SOURCE
    )
    assert [bytes(view.item(n))[4:] for n in range(first, last)] == items[first:last]


def test_records_that_disagree() -> None:
    _, chunk, data = one_chunk([b"a" * 1500, b"b" * 1500, b"c" * 1500])
    start, end = record_range(chunk, 0, 3)
    table = np.frombuffer(data[start:end], dtype="<u4").copy()
    table[4] += 1  # where the second block begins
    with pytest.raises(ChecksumError, match="do not meet"):
        parse_records(table.tobytes(), chunk, 0, 3, source=SOURCE)
    with pytest.raises(ChunkFormatError, match="take 36 bytes"):
        parse_records(data[start : end - 1], chunk, 0, 3, source=SOURCE)


def test_record_range_needs_room_and_checksums() -> None:
    chunk = ChunkInfo(filename="c", num_items=4, nbytes=40, checksum_items=1)
    with pytest.raises(ChunkFormatError, match="no room"):
        record_range(chunk, 0)
    with pytest.raises(ChunkFormatError, match="no checksums"):
        record_range(replace(chunk, checksum_items=None), 0)
    with pytest.raises(IndexError):
        record_range(replace(chunk, nbytes=400), 4)


def test_a_short_block_is_refused() -> None:
    _, chunk, data = one_chunk(LARGE)
    start, end = record_range(chunk, 1)
    record = parse_record(data[start:end], chunk, 1, source=SOURCE)
    assert isinstance(record, BlockRecord)
    with pytest.raises(ChecksumError, match="item 1 differ"):
        verify_block(record, data[record.start : record.end - 1], SOURCE)


def test_promised_checksums_must_be_there() -> None:
    index, chunk, data = one_chunk(SMALL)
    start, _ = record_range(chunk, 0)
    for length in range(start, len(data)):
        short = replace(chunk, nbytes=length)
        with pytest.raises(ChecksumError, match=r"missing|not where"):
            bind(index).open(memoryview(data[:length]), short, SOURCE)


def test_checksums_are_found_without_the_index() -> None:
    _, chunk, data = one_chunk(SMALL)
    merged = replace(chunk, checksum_items=None)
    assert verify_chunk(memoryview(data), merged, SOURCE) is True
    damaged = data.replace(b"xxxx", b"xxxy")
    view = open_chunk(memoryview(damaged), merged, DatasetConfig(), source=SOURCE)
    with pytest.raises(ChecksumError):
        view.items(range(5))


def test_a_magic_by_accident_is_no_footer() -> None:
    _, _, data = one_chunk([b"0123456789abcdef" + b"AIOLCRC1"])
    bare = data[: data.index(b"AIOLCRC1") + 8]
    chunk = ChunkInfo(filename="c", num_items=1, nbytes=len(bare))
    assert verify_chunk(memoryview(bare), chunk, SOURCE) is False
    view = open_chunk(memoryview(bare), chunk, DatasetConfig(), source=SOURCE)
    assert bytes(view.item(0)).endswith(b"AIOLCRC1")


def test_every_flipped_bit_is_found_in_a_framed_chunk() -> None:
    index, files = assemble(
        SMALL,
        chunk_size=5,
        compression="zstd",
        compression_level="batch",
        compression_batch_size=2,
    )
    data, chunk = files["chunk-0-0.bin"], index.chunks[0]
    bound = bind(index)
    for damaged in flips(data):
        with pytest.raises(DatasetError, match=SOURCE):
            verify_chunk(memoryview(damaged), chunk, SOURCE)
        try:
            samples = bound.open(memoryview(damaged), chunk, SOURCE).samples(range(5))
        except DatasetError:
            continue
        assert samples == SMALL


def tokens_chunk(count: int) -> tuple[Index, ChunkInfo, bytes]:
    samples = [np.arange(count, dtype=np.uint16), np.arange(7, dtype=np.uint16)]
    index, files = assemble(samples, chunk_size=count + 7, item_loader=TokensLoader())
    return index, index.chunks[0], files["chunk-0-0.bin"]


def test_every_flipped_bit_is_found_in_tokens() -> None:
    index, chunk, data = tokens_chunk(20)
    assert stream_nbytes(chunk) == 54
    assert verify_chunk(memoryview(data), chunk, SOURCE) is True
    bound = bind(index, block_size=9)
    for damaged in flips(data):
        with pytest.raises(DatasetError, match=SOURCE):
            verify_chunk(memoryview(damaged), chunk, SOURCE)
        with pytest.raises(DatasetError, match=SOURCE):
            bound.open(memoryview(damaged), chunk, SOURCE).samples(range(3))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (30, 60), (0, 100), (99, 100)])
def test_ranges_of_tokens(start: int, stop: int) -> None:
    index, chunk, data = tokens_chunk(100_000)
    bound = bind(index, block_size=1000)
    wanted = bound.byte_range(chunk, start, stop)
    assert wanted is not None
    low, high = covering_range(chunk, *wanted)
    crc_low, crc_high = stream_crc_range(chunk, *wanted)
    assert low <= wanted[0] < wanted[1] <= high
    assert crc_high - crc_low < 20
    span = memoryview(data)[low:high]
    verify_stream(span, low, data[crc_low:crc_high], chunk, source=SOURCE)
    reader = bound.open_range(span, low, start, None, chunk, SOURCE)
    expected = np.arange(100_000, dtype=np.uint16).reshape(100, 1000)
    assert np.array_equal(reader.samples(range(start, stop)), expected[start:stop])
    damaged = bytearray(span)
    damaged[wanted[0] - low] ^= 1
    with pytest.raises(ChecksumError, match="tokens"):
        verify_stream(memoryview(damaged), low, data[crc_low:crc_high], chunk, source=SOURCE)
    with pytest.raises(ChunkFormatError):
        verify_stream(span, low, data[crc_low : crc_high - 4], chunk, source=SOURCE)


def test_token_ranges_stay_in_the_stream() -> None:
    _, chunk, _ = tokens_chunk(20)
    with pytest.raises(ChunkFormatError, match="hold no tokens"):
        covering_range(chunk, 0, 4)
    with pytest.raises(ChunkFormatError, match="no room"):
        stream_nbytes(replace(chunk, nbytes=30))
    with pytest.raises(ChunkFormatError, match="no checksums"):
        stream_nbytes(replace(chunk, checksum_bytes=None))
