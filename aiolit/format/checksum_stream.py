"""Checksums of token chunks: one CRC-32 for each run of K bytes of the token stream.

    u32 crc[blocks]
    trailer (24 bytes): u32 N | u32 K | u32 crc of header and offset table | u32 crc of the CRCs
                        | "AIOLCRB1"

Blocks of tokens are read without regard to items, so a reader of a range widens it to whole runs.
Where the CRCs lie follows from the index alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChecksumError, ChunkFormatError
from aiolit.format.checksum import (
    STREAM_MAGIC,
    TRAILER,
    Buffer,
    crc32,
    crc_runs,
    open_footer,
    read_trailer,
    verify_records,
)
from aiolit.format.dataset_info import ChunkInfo

STREAM_BLOCK = 64 * 1024


def build_stream_footer(offsets: NDArray[np.uint32], payload: Sequence[Buffer], k: int) -> bytes:
    """Make the footer of a token chunk.

    Args:
        offsets: The chunk's offset table.
        payload: The bytes of all items, in order, in pieces of any length.
        k: Bytes per run.
    """
    num_items = len(offsets) - 1
    total = int(offsets[-1]) - int(offsets[0])
    sizes = [min(k, total - at) for at in range(0, total, k)]
    records = np.array(crc_runs(payload, sizes, [0] * len(sizes)), dtype="<u4").tobytes()
    head = num_items.to_bytes(4, "little") + offsets.astype("<u4").tobytes()
    return records + TRAILER.pack(num_items, k, crc32(head), crc32(records), STREAM_MAGIC)


def stream_nbytes(chunk: ChunkInfo) -> int:
    """Return how many bytes of tokens a chunk with ``checksum_bytes`` holds.

    Raises:
        ChunkFormatError: The index declares fewer bytes than such a footer takes.
    """
    k = chunk.checksum_bytes
    if k is None:
        raise ChunkFormatError(f"{chunk.filename}: has no checksums of its token stream")
    rest = chunk.nbytes - 4 * (chunk.num_items + 2) - TRAILER.size
    if rest < 0:
        raise ChunkFormatError(
            f"{chunk.filename}: chunk_bytes {chunk.nbytes} leaves no room for the checksums that "
            f"checksum_bytes {k} promises"
        )
    return rest - 4 * -(-rest // (k + 4))


def covering_range(chunk: ChunkInfo, start: int, end: int) -> tuple[int, int]:
    """Widen a byte range of the file (inside the token stream) to whole runs."""
    k = chunk.checksum_bytes or 1
    base = 4 * (chunk.num_items + 2)
    limit = base + stream_nbytes(chunk)
    if not base <= start <= end <= limit:
        raise ChunkFormatError(f"{chunk.filename}: bytes {start} to {end} hold no tokens")
    widened = base + -(-(end - base) // k) * k
    return base + (start - base) // k * k, min(widened, limit)


def stream_crc_range(chunk: ChunkInfo, start: int, end: int) -> tuple[int, int]:
    """Return where the CRCs of ``covering_range(chunk, start, end)`` lie in the file."""
    k = chunk.checksum_bytes or 1
    base = 4 * (chunk.num_items + 2)
    low, high = covering_range(chunk, start, end)
    table = base + stream_nbytes(chunk)
    return table + 4 * ((low - base) // k), table + 4 * -(-(high - base) // k)


def verify_stream(
    data: memoryview, base: int, crcs: Buffer, chunk: ChunkInfo, *, source: str
) -> None:
    """Check bytes of a token stream.

    Args:
        data: The bytes of a ``covering_range``.
        base: Where they begin in the file.
        crcs: The bytes of ``stream_crc_range`` for the same range.
        chunk: What the index says of the chunk.
        source: What to call the chunk in messages.

    Raises:
        ChecksumError: Bytes differ from what was written. The message names them.
    """
    k = chunk.checksum_bytes or 1
    expected = np.frombuffer(crcs, dtype="<u4").tolist()
    if len(expected) != -(-len(data) // k):
        raise ChunkFormatError(f"{source}: {len(expected)} CRCs for {len(data)} bytes of tokens")
    for number, crc in enumerate(expected):
        run = data[number * k : (number + 1) * k]
        if crc32(run) != crc:
            raise _damaged(source, base + number * k, len(run))


class StreamChecks:
    """The checksums of one open token chunk: each run is checked once, when first touched."""

    def __init__(self, data: memoryview, base: int, end: int, crcs: memoryview, k: int) -> None:
        self._data = data
        self._base = base
        self._end = end
        self._crcs = crcs
        self._k = k
        self._done = bytearray(len(crcs) // 4)
        self.source = ""

    def verify(self, start: int, end: int) -> None:
        """Check the runs that hold bytes ``start`` to ``end`` of the file, unless that was done.

        Raises:
            ChecksumError: They differ from what was written.
        """
        k, base = self._k, self._base
        for number in range((start - base) // k, -(-(end - base) // k)):
            if self._done[number]:
                continue
            at = base + number * k
            run = self._data[at : min(at + k, self._end)]
            if crc32(run) != int.from_bytes(self._crcs[4 * number : 4 * number + 4], "little"):
                raise _damaged(self.source, at, len(run))
            self._done[number] = 1

    def verify_all(self) -> None:
        """Check every run.

        Raises:
            ChecksumError: Bytes differ from what was written.
        """
        self.verify(self._base, self._end)


def open_stream_footer(
    data: memoryview, borders: memoryview, chunk: ChunkInfo, source: str
) -> StreamChecks:
    """Find the checksums of a whole token chunk whose index has ``checksum_bytes``.

    Raises:
        ChecksumError: They are missing, or header, trailer or the CRCs themselves are damaged.
    """
    k = chunk.checksum_bytes or 1
    trailer = read_trailer(data)
    told = None if trailer is None else (trailer.magic, trailer.num_items, trailer.k)
    if trailer is None or told != (STREAM_MAGIC, chunk.num_items, k):
        raise ChecksumError(
            f"{source}: damaged: its checksums (checksum_bytes {k} in the index) are missing"
        )
    base, end = 4 * (chunk.num_items + 2), int(borders[len(borders) - 1])
    blocks = -(-(end - base) // k)
    crcs = open_footer(data, data[:base], end, trailer, blocks, 4, source)
    verify_records(crcs, trailer, source)
    checks = StreamChecks(data, base, end, crcs, k)
    checks.source = source
    return checks


def _damaged(source: str, start: int, count: int) -> ChecksumError:
    return ChecksumError(
        f"{source}: damaged: bytes {start} to {start + count - 1} (tokens) differ from their CRC-32"
    )
