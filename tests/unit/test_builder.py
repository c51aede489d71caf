"""Cutting items into chunks: the rule of the format, whatever the batches in which items come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aiolit.errors import ConfigError, SchemaError
from aiolit.format.builder import (
    LARGEST_CHUNK,
    ChunkBuilder,
    SealedChunk,
    chunk_filename,
    pack,
    pack_chunk,
)
from aiolit.format.chunk import open_chunk, verify_chunk
from aiolit.format.compression import decompress_whole
from aiolit.format.index import DatasetConfig


def ints(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def build(
    sizes: list[int],
    batches: list[int],
    *,
    chunk_bytes: int | None = None,
    chunk_size: int | None = None,
    dims: list[int] | None = None,
) -> tuple[list[SealedChunk], list[bytes]]:
    """Build chunks from items given in batches that end at the places ``batches``."""
    items = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    builder = ChunkBuilder(chunk_bytes, chunk_size, dims is not None)
    sealed: list[SealedChunk] = []
    start = 0
    for stop in [*sorted(batches), len(items)]:
        part = items[start:stop]
        part_dims = None if dims is None else ints(dims[start:stop])
        sealed += builder.extend(
            ints([len(item) for item in part]), memoryview(b"".join(part)), part_dims
        )
        start = stop
    if (last := builder.flush()) is not None:
        sealed.append(last)
    return sealed, items


def one_by_one(
    weights: list[int], nbytes: list[int], limit: int | None, most: int | None
) -> list[int]:
    """Cut as the format says, item by item: how many items each chunk has."""
    counts = [0]
    total = weight = 0
    for size, heavy in zip(nbytes, weights, strict=True):
        too_large = limit is not None and total + size > limit
        too_many = most is not None and weight + heavy > most
        if counts[-1] and (too_large or too_many):
            counts.append(0)
            total = weight = 0
        counts[-1] += 1
        total += size
        weight += heavy
    return counts if counts[-1] else []


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.lists(st.integers(0, 60), max_size=6),
    st.one_of(st.none(), st.integers(1, 90)),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_cuts_are_those_of_the_rule(
    sizes: list[int], batches: list[int], chunk_bytes: int | None, chunk_size: int | None
) -> None:
    if chunk_bytes is None and chunk_size is None:
        chunk_bytes = 50
    batches = [min(place, len(sizes)) for place in batches]
    sealed, items = build(sizes, batches, chunk_bytes=chunk_bytes, chunk_size=chunk_size)
    counts = one_by_one([1] * len(sizes), sizes, chunk_bytes, chunk_size)
    assert [chunk.num_items for chunk in sealed] == counts
    read: list[bytes] = []
    for chunk in sealed:
        packed = pack_chunk(chunk, filename="c")
        data = memoryview(b"".join(packed.parts))
        assert packed.info.nbytes == chunk.nbytes == len(data)
        assert verify_chunk(data, packed.info, "c") is True
        view = open_chunk(data, packed.info, DatasetConfig(), source="c")
        read += map(bytes, view.items(range(view.count)))
    assert read == items


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=50),
    st.lists(st.integers(0, 50), max_size=5),
    st.integers(1, 60),
)
def test_chunk_size_counts_tokens(dims: list[int], batches: list[int], chunk_size: int) -> None:
    sizes = [2 * dim for dim in dims]
    batches = [min(place, len(sizes)) for place in batches]
    sealed, _ = build(sizes, batches, chunk_size=chunk_size, dims=dims)
    counts = one_by_one(dims, sizes, None, chunk_size)
    assert [chunk.num_items for chunk in sealed] == counts
    assert sum(chunk.dim or 0 for chunk in sealed) == sum(dims)
    for chunk in sealed:
        packed = pack_chunk(chunk, filename="c")
        assert verify_chunk(memoryview(b"".join(packed.parts)), packed.info, "c") is True


@pytest.mark.parametrize(
    ("sizes", "limit", "counts"),
    [
        ([14] * 6, 30, [2, 2, 2]),  # the worked example: 44 bytes with their header
        ([10, 100, 10, 10], 30, [1, 1, 2]),  # too large by itself: a chunk of its own
        ([30, 0, 0, 1], 30, [3, 1]),  # a full chunk still takes items of no bytes
        ([100], 30, [1]),
        ([0, 0, 0], 30, [3]),
        ([], 30, []),
    ],
)
def test_cuts(sizes: list[int], limit: int, counts: list[int]) -> None:
    sealed, _ = build(sizes, [], chunk_bytes=limit)
    assert [chunk.num_items for chunk in sealed] == counts


def test_the_bytes_before_the_footer_are_those_of_litdata() -> None:
    builder = ChunkBuilder(30, None)
    items = bytes.fromhex("08000000 0100000000000000 08000000 FEFFFFFFFFFFFFFF")
    assert list(builder.extend(ints([12, 12]), memoryview(items))) == []
    assert builder.pending_nbytes == 24
    chunk = builder.flush()
    assert chunk is not None
    data = b"".join(pack(chunk))
    assert data[:40] == bytes.fromhex("02000000 10000000 1C000000 28000000") + items
    assert builder.flush() is None


def test_payload_is_not_copied() -> None:
    payload = memoryview(bytes(3000))
    chunks = list(ChunkBuilder(1000, None).extend(ints([1000, 1000, 1000]), payload))
    assert [part.obj is payload.obj for chunk in chunks for part in chunk.payload] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), "pass chunk_bytes or chunk_size"),
        ((0, None), "between 1 and 4 GiB"),
        ((-5, None), "between 1 and 4 GiB"),
        ((2**32, None), "between 1 and 4 GiB"),
        ((None, 0), "at least 1"),
    ],
)
def test_limits_that_cannot_be(arguments: tuple[int | None, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChunkBuilder(*arguments)


def test_arguments_that_disagree() -> None:
    builder = ChunkBuilder(100, None)
    with pytest.raises(ConfigError, match="do not make up"):
        list(builder.extend(ints([5]), memoryview(b"1234")))
    with pytest.raises(ConfigError, match="do not make up"):
        list(builder.extend(ints([-1, 5]), memoryview(b"1234")))
    with pytest.raises(ConfigError, match="number of tokens"):
        list(ChunkBuilder(None, 5, counts_dim=True).extend(ints([4]), memoryview(b"1234")))
    with pytest.raises(ConfigError, match="number of tokens"):
        list(
            ChunkBuilder(None, 5, counts_dim=True).extend(
                ints([4]), memoryview(b"1234"), ints([1, 1])
            )
        )


class Planner(ChunkBuilder):
    """Cuts without holding the bytes, so that 4 GiB can be tested."""

    def plan(self, sizes: NDArray[np.int64], held: tuple[int, int] = (0, 0)) -> int:
        self._count, self._nbytes = held
        return self._cut(np.cumsum(sizes), None, 0)


def test_offsets_keep_to_32_bits() -> None:
    million = 2**20
    stop = Planner(None, 10**9).plan(np.full(5000, million, dtype=np.int64))
    assert stop == 4095
    assert 4 * (stop + 2) + stop * million <= LARGEST_CHUNK < 4 * (stop + 3) + (stop + 1) * million
    empty = np.zeros(10, dtype=np.int64)
    held = ((LARGEST_CHUNK - 8) // 4 - 3, 0)
    assert Planner(None, 10**10).plan(empty, held) == 3


def test_an_item_that_no_chunk_can_hold() -> None:
    builder = ChunkBuilder(None, 10)
    with pytest.raises(SchemaError, match="4 GiB"):
        list(builder.extend(ints([LARGEST_CHUNK]), _Sized(LARGEST_CHUNK)))  # type: ignore[arg-type]


class _Sized:
    """Claims a length, as a view of that many bytes would."""

    def __init__(self, length: int) -> None:
        self.length = length

    def cast(self, kind: str) -> _Sized:
        return self

    def __len__(self) -> int:
        return self.length


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 0, None), "chunk-0-0.bin"),
        ((3, 12, "zstd"), "chunk-3-12.zstd.bin"),
        ((0, 0, "zstd:7"), "chunk-0-0.zstd:7.bin"),
        ((0, 1, "zstd", "batch"), "chunk-0-1.bin"),
    ],
)
def test_names(arguments: Any, name: str) -> None:
    assert chunk_filename(*arguments) == name


@pytest.fixture
def sealed() -> SealedChunk:
    (chunk,), _ = build([10, 20, 30], [], chunk_bytes=100)
    return chunk


@pytest.mark.parametrize("compression", ["zstd", "zstd:1", "zstd:19"])
def test_whole_file_compression(sealed: SealedChunk, compression: str) -> None:
    packed = pack_chunk(sealed, filename="c", compression=compression)
    plain = b"".join(sealed.parts)
    assert packed.info.nbytes == len(plain)
    data = b"".join(packed.parts)
    assert decompress_whole(data, expected_nbytes=len(plain), source="c") == plain


def make_options(**options: Any) -> Callable[[SealedChunk], Any]:
    return lambda chunk: pack(chunk, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (make_options(compression="lz4"), "zstd:N"),
        (make_options(compression="zstd", compression_level="sample"), "compression_level"),
        (make_options(compression="zstd", compression_level=3), "compression_level"),
    ],
)
def test_options_that_cannot_be(
    sealed: SealedChunk, call: Callable[[SealedChunk], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(sealed)
