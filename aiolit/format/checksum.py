"""The checksum footer that aiolit writes behind the last item of a chunk. LitData ignores it.

    for each block of K items:   u32 crc | u32 border[K + 1]
    trailer (24 bytes):          u32 N | u32 K | u32 crc of header and offset table
                                 | u32 crc of all records | "AIOLCRC1"

Borders are absolute file offsets (border[j], border[j + 1] enclose item j of the block); the last
block is padded by repeating its end. The crc of a record covers its borders and then the block's
bytes: a flipped border would otherwise cut a sample elsewhere without being noticed.

So one sample is read with two requests, of its block's record and of the block's bytes, and is
checked. Token chunks are read without regard to items: see ``checksum_stream``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChecksumError, ChunkFormatError
from aiolit.format.dataset_info import ChunkInfo

try:
    from isal.isal_zlib import crc32 as _crc32
except ImportError:
    _crc32 = zlib.crc32  # platforms without wheels of isal

crc32: Callable[..., int] = _crc32

ITEM_MAGIC = b"AIOLCRC1"
STREAM_MAGIC = b"AIOLCRB1"
TRAILER = struct.Struct("<IIII8s")

_BLOCK_GOAL = 4096
_SMALL_ITEM = 1024
_TINY_GOAL = 16384
_TINY_ITEM = 64

Buffer = bytes | bytearray | memoryview


def choose_block(num_items: int, nbytes: int) -> int:
    """Choose K: one item per block from 1 KiB a piece on, else a power of two worth about 4 KiB, or
    16 KiB of tiny ones: those are read by the thousand, and each block takes a call to check."""
    mean = nbytes / max(num_items, 1)
    if mean >= _SMALL_ITEM:
        return 1
    goal = _BLOCK_GOAL if mean >= _TINY_ITEM else _TINY_GOAL
    # A record costs 4 bytes an item, so that counts towards what one sample makes us fetch.
    wanted = min(goal / (mean + 4), float(max(num_items, 1)))
    return 1 << max(0, round(float(np.log2(wanted))))


def record_nbytes(k: int) -> int:
    """Return the length of one record in bytes."""
    return 4 * (k + 2)


def record_range(chunk: ChunkInfo, item: int, stop: int | None = None) -> tuple[int, int]:
    """Return the byte range of the record of an item's block, from the index alone.

    Args:
        chunk: A plain chunk with ``checksum_items``.
        item: The item, counted in the chunk.
        stop: With it, the range covers the records of the items from ``item`` to ``stop - 1``.

    Raises:
        ChunkFormatError: The index declares fewer bytes than such a footer takes.
    """
    k = chunk.checksum_items
    if k is None:
        raise ChunkFormatError(f"{chunk.filename}: has no checksums of items")
    last = item if stop is None else stop - 1
    if not 0 <= item <= last < chunk.num_items:
        raise IndexError(f"items {item} to {last} of a chunk of {chunk.num_items}")
    blocks = -(-chunk.num_items // k)
    first = chunk.nbytes - TRAILER.size - blocks * record_nbytes(k)
    if first < 4 * (chunk.num_items + 2):
        raise ChunkFormatError(
            f"{chunk.filename}: chunk_bytes {chunk.nbytes} leaves no room for the checksums that "
            f"checksum_items {k} promises"
        )
    return first + item // k * record_nbytes(k), first + (last // k + 1) * record_nbytes(k)


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """The record of one block.

    Attributes:
        first_item: The block's first item, counted in the chunk.
        offsets: Borders of its items as absolute file offsets; one more than there are items.
        crc: CRC-32 of the borders as stored, then of the block's bytes.
        seed: CRC-32 of the borders alone, from which the block's is continued.
    """

    first_item: int
    offsets: NDArray[np.int64]
    crc: int
    seed: int

    @property
    def start(self) -> int:
        """Where the block begins in the file."""
        return int(self.offsets[0])

    @property
    def end(self) -> int:
        """Where the block ends in the file."""
        return int(self.offsets[-1])


def parse_record(data: Buffer, chunk: ChunkInfo, item: int, *, source: str) -> BlockRecord:
    """Parse the bytes of ``record_range(chunk, item)``.

    Raises:
        ChecksumError: The borders are out of order or outside the items' part of the file, so the
            record itself is damaged.
        ChunkFormatError: The bytes are too few.
    """
    return parse_records(data, chunk, item, item + 1, source=source)[0]


def parse_records(
    data: Buffer, chunk: ChunkInfo, item: int, stop: int, *, source: str
) -> list[BlockRecord]:
    """Parse the bytes of ``record_range(chunk, item, stop)``, one record for each block.

    Raises:
        ChecksumError: Borders are out of order or outside the items' part of the file.
        ChunkFormatError: The bytes are too few.
    """
    start, end = record_range(chunk, item, stop)
    if len(data) != end - start:
        raise ChunkFormatError(
            f"{source}: checksum records of items {item} to {stop - 1} take {end - start} bytes, "
            f"not {len(data)}"
        )
    k = chunk.checksum_items or 1
    limit = record_range(chunk, 0)[0]
    table = np.frombuffer(data, dtype="<u4").reshape(-1, k + 2)
    records: list[BlockRecord] = []
    for number, row in enumerate(table, item // k):
        count = min(k, chunk.num_items - number * k)
        borders = row[1:].astype(np.int64)
        offsets = borders[: count + 1]
        low = 4 * (chunk.num_items + 2)
        if offsets[0] < low or borders[-1] > limit or (borders[1:] < borders[:-1]).any():
            raise ChecksumError(
                f"{source}: damaged: the checksum record of {_items(number * k, count)} holds "
                "borders that cannot be"
            )
        if records and records[-1].end != offsets[0]:
            raise ChecksumError(
                f"{source}: damaged: the checksum records of items {records[-1].first_item} and "
                f"{number * k} do not meet"
            )
        records.append(BlockRecord(number * k, offsets, int(row[0]), crc32(row[1:].tobytes())))
    return records


def join_offsets(records: Sequence[BlockRecord]) -> NDArray[np.int64]:
    """Join the borders of consecutive blocks: what ``open_range`` takes for all their items."""
    return np.concatenate([records[0].offsets[:1], *(record.offsets[1:] for record in records)])


def verify_blocks(records: Sequence[BlockRecord], data: memoryview, base: int, source: str) -> None:
    """Check consecutive blocks; ``data`` begins at byte ``base`` of the file and holds them all.

    Raises:
        ChecksumError: Bytes differ from what was written. The message names the chunk and items.
    """
    for record in records:
        verify_block(record, data[record.start - base : record.end - base], source)


def verify_block(record: BlockRecord, data: Buffer, source: str) -> None:
    """Check the bytes of one block, those from ``record.start`` to ``record.end``.

    Raises:
        ChecksumError: They differ from what was written. The message names the chunk and items.
    """
    if len(data) != record.end - record.start or crc32(data, record.seed) != record.crc:
        raise _mismatch(source, record.first_item, len(record.offsets) - 1)


def build_footer(offsets: NDArray[np.uint32], payload: Sequence[Buffer], k: int) -> bytes:
    """Make the footer of a classic chunk.

    Args:
        offsets: The chunk's offset table.
        payload: The bytes of all items, in order, in pieces of any length.
        k: Items per block.
    """
    num_items = len(offsets) - 1
    blocks = -(-num_items // k)
    table = np.empty((blocks, k + 2), dtype="<u4")
    at = np.arange(blocks, dtype=np.int64)[:, None] * k + np.arange(k + 1, dtype=np.int64)
    table[:, 1:] = offsets[np.minimum(at, num_items)]
    sizes = table[:, -1].astype(np.int64) - table[:, 1]
    rows = table.data.cast("B")
    stride = record_nbytes(k)
    seeds = [crc32(rows[n * stride + 4 : (n + 1) * stride]) for n in range(blocks)]
    table[:, 0] = crc_runs(payload, sizes.tolist(), seeds)
    records = table.tobytes()
    head = num_items.to_bytes(4, "little") + offsets.astype("<u4").tobytes()
    return records + TRAILER.pack(num_items, k, crc32(head), crc32(records), ITEM_MAGIC)


def crc_runs(pieces: Sequence[Buffer], sizes: list[int], seeds: list[int]) -> list[int]:
    """Continue ``seeds[n]`` over the n-th run of ``sizes[n]`` bytes of the joined pieces."""
    crcs: list[int] = []
    rest = iter(pieces)
    piece, at, left = memoryview(b""), 0, 0
    for size, seed in zip(sizes, seeds, strict=True):
        crc = seed
        while size > left:
            crc = crc32(piece[at : at + left], crc)
            size -= left
            piece = memoryview(next(rest)).cast("B")
            at, left = 0, len(piece)
        crcs.append(crc32(piece[at : at + size], crc))
        at += size
        left -= size
    return crcs


class Checks:
    """The checksums of one open chunk: each block is checked once, when first touched.

    Args:
        records: The bytes of all records.
        k: Items per block.
        borders: The chunk's offset table.
        data: The whole file.
        source: What to call the chunk in messages.
    """

    __slots__ = ("_borders", "_data", "_done", "_source", "k", "records")

    def __init__(
        self, records: memoryview, k: int, borders: memoryview, data: memoryview, source: str
    ) -> None:
        self.k = k
        self.records = records
        self._borders = borders
        self._data = data
        self._source = source
        self._done = bytearray(len(records) // record_nbytes(k))

    def verify(self, item: int) -> None:
        """Check the block of an item, unless that was done.

        Raises:
            ChecksumError: The bytes differ from what was written.
        """
        number = item // self.k
        if self._done[number]:
            return
        first = number * self.k
        stop = min(first + self.k, len(self._borders) - 1)
        stride = record_nbytes(self.k)
        record = self.records[number * stride : (number + 1) * stride]
        block = self._data[self._borders[first] : self._borders[stop]]
        if crc32(block, crc32(record[4:])) != int.from_bytes(record[:4], "little"):
            raise _mismatch(self._source, first, stop - first)
        self._done[number] = 1

    def verify_items(self, items: Sequence[int]) -> None:
        """Check the blocks of several items, each once.

        Raises:
            ChecksumError: Bytes differ from what was written.
        """
        k, done = self.k, self._done
        for item in items:
            if not done[item // k]:
                self.verify(item)

    def verify_all(self) -> None:
        """Check every block and that the records' borders are those of the offset table.

        Raises:
            ChecksumError: Bytes differ from what was written.
        """
        stride, records, data = record_nbytes(self.k), self.records, self._data
        edges = [*self._borders[:: self.k].tolist(), self._borders[-1]]
        for number, (start, stop) in enumerate(pairwise(edges[: len(self._done) + 1])):
            at = number * stride
            crc = crc32(data[start:stop], crc32(records[at + 4 : at + stride]))
            if crc != int.from_bytes(records[at : at + 4], "little"):
                self.verify(number * self.k)  # says which
            self._done[number] = 1


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last 24 bytes of a chunk with checksums."""

    num_items: int
    k: int
    head_crc: int
    records_crc: int
    magic: bytes


def read_trailer(data: memoryview) -> Trailer | None:
    """Read the trailer of a whole chunk file, or None where its magic is missing."""
    if len(data) < TRAILER.size:
        return None
    trailer = Trailer(*TRAILER.unpack_from(data, len(data) - TRAILER.size))
    return trailer if trailer.magic in (ITEM_MAGIC, STREAM_MAGIC) else None


def open_footer(
    data: memoryview,
    head: memoryview,
    end: int,
    trailer: Trailer,
    nrecords: int,
    stride: int,
    source: str,
) -> memoryview:
    """Check that header and trailer are whole, and return the records.

    Args:
        data: The whole file.
        head: The bytes before the first item.
        end: Where the last item ends; the footer begins there.
        trailer: The parsed trailer.
        nrecords: How many records there must be.
        stride: Bytes per record.
        source: What to call the chunk in messages.

    Raises:
        ChecksumError: The header or the trailer is damaged.
    """
    if end + nrecords * stride + TRAILER.size != len(data):
        raise ChecksumError(f"{source}: damaged: the checksum footer is not where the items end")
    if crc32(head) != trailer.head_crc:
        raise ChecksumError(f"{source}: damaged: header or offset table differ from their CRC-32")
    return data[end : end + nrecords * stride]


def verify_records(records: memoryview, trailer: Trailer, source: str) -> None:
    """Check the records themselves.

    Raises:
        ChecksumError: They differ from what was written.
    """
    if crc32(records) != trailer.records_crc:
        raise ChecksumError(f"{source}: damaged: the checksum records differ from their CRC-32")


def _mismatch(source: str, first: int, count: int) -> ChecksumError:
    verb = "differs from its" if count == 1 else "differ from their"
    return ChecksumError(f"{source}: damaged: {_items(first, count)} {verb} CRC-32")


def _items(first: int, count: int) -> str:
    return f"item {first}" if count == 1 else f"items {first} to {first + count - 1}"
