"""Framed chunks (``LDFZ01``): items in zstd frames of K items each."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from aiolit.errors import ChecksumError, ChunkFormatError, SchemaError
from aiolit.format.checksum import (
    ITEM_MAGIC,
    TRAILER,
    Buffer,
    crc32,
    open_footer,
    read_trailer,
    verify_records,
)
from aiolit.format.compression import inflate_zstd
from aiolit.format.dataset_info import ChunkInfo
from aiolit.format.views import ChunkView

FRAMED_MAGIC = b"LDFZ01\0\0"
DEFAULT_BATCH = 256

_HEAD = struct.Struct("<8sHHIII")
_GROWTH = 32768  # a zstd block of 128 KiB takes at least 4 bytes
# What a chunk's inflated frames may take together: of data as it is, all of them.
_KEPT_BYTES, _KEPT_GROWTH = 64 << 20, 16
_FRAME = np.dtype(
    [("first", "<u4"), ("count", "<u4"), ("at", "<u8"), ("packed", "<u4"), ("size", "<u4")]
)


class FramedView(ChunkView):
    """A framed chunk; a frame is inflated when it is touched, and kept.

    Where the frames take much more than the file, those inflated first make room for others.

    Behind the last frame of a chunk that aiolit wrote lie checksums: a CRC-32 for each frame as
    stored, then the trailer that classic chunks have.

    Args:
        data: The whole file.
        chunk: What the index says of it.
        verify: Check each frame against its checksum.
        source: What to call the chunk in messages.

    Raises:
        ChunkFormatError: A number in the header cannot be true.
        ChecksumError: The header is damaged.
    """

    def __init__(self, data: memoryview, chunk: ChunkInfo, *, verify: bool, source: str) -> None:
        super().__init__(0, chunk.num_items, source)
        self.data = data
        self.per_frame, self._offsets, self._table = _parse(data, chunk, source)
        self._frames: dict[int, memoryview] = {}
        self._most = _KEPT_BYTES + _KEPT_GROWTH * len(data)
        self._crcs = self._open_checks(chunk) if verify else None

    def item(self, index: int) -> memoryview:
        """Return the bytes of one item."""
        place = self._place(index)
        number = place // self.per_frame
        frame = self._frames.get(number)
        if frame is None:
            frame = self._inflate(number)
            self._keep(number, frame)
        start = self._offsets[number * self.per_frame]
        return frame[self._offsets[place] - start : self._offsets[place + 1] - start]

    def _keep(self, number: int, frame: memoryview) -> None:
        # Threads share it without a lock: each step on the dict is one operation of Python's.
        self._frames[number] = frame
        kept = list(self._frames.items())
        held = sum(len(one) for _, one in kept)
        for first, one in kept[:-1]:
            if held <= self._most:
                break
            self._frames.pop(first, None)
            held -= len(one)

    def _inflate(self, number: int) -> memoryview:
        row = self._table[number]
        at, packed, size = int(row["at"]), int(row["packed"]), int(row["size"])
        stored = self.data[at : at + packed]
        source = f"{self.source}: frame {number}"
        if self._crcs is not None:
            crc = int.from_bytes(self._crcs[4 * number : 4 * number + 4], "little")
            if crc32(stored) != crc:
                raise ChecksumError(f"{source}: damaged: differs from its CRC-32")
        return memoryview(inflate_zstd(stored, size, source))

    def _open_checks(self, chunk: ChunkInfo) -> memoryview | None:
        trailer = read_trailer(self.data)
        if trailer is None or trailer.magic != ITEM_MAGIC:
            if chunk.checksum_items is not None:
                raise ChecksumError(f"{self.source}: damaged: its checksums are missing")
            return None
        if (trailer.num_items, trailer.k) != (self.count, self.per_frame):
            raise ChecksumError(f"{self.source}: damaged: the checksum footer is of another chunk")
        frames = len(self._table)
        head = self.data[: _header_nbytes(self.count, frames)]
        end = len(head)
        if frames:
            end = int(self._table[-1]["at"]) + int(self._table[-1]["packed"])
        return open_footer(self.data, head, end, trailer, frames, 4, self.source)


def verify_framed(data: memoryview, chunk: ChunkInfo, source: str) -> bool:
    """Check every byte of a framed chunk; False where it has no checksums.

    Raises:
        ChunkFormatError: A number in the header cannot be true.
        ChecksumError: Bytes differ from what was written.
    """
    view = FramedView(data, chunk, verify=True, source=source)
    trailer = read_trailer(data)
    if view._crcs is None or trailer is None:
        return False
    verify_records(view._crcs, trailer, source)
    for first in range(0, chunk.num_items, view.per_frame):
        view.item(first)
    return True


def frame_chunk(
    offsets: NDArray[np.uint32], payload: Sequence[Buffer], *, level: int, per_frame: int
) -> list[Buffer]:
    """Write items as a framed chunk with checksums.

    Args:
        offsets: The offset table of the classic chunk.
        payload: The bytes of all items, in order, in pieces of any length.
        level: The zstd level.
        per_frame: Items per frame.

    Returns:
        The file's bytes, in pieces.

    Raises:
        SchemaError: A frame is larger than 4 GiB.
    """
    count = len(offsets) - 1
    joined = memoryview(b"".join(payload))
    starts = offsets - offsets[0]
    first = np.arange(0, count, per_frame, dtype=np.int64)
    last = np.minimum(first + per_frame, count)
    compressor = zstandard.ZstdCompressor(level=level)
    frames: list[Buffer] = [
        compressor.compress(joined[starts[a] : starts[b]]) for a, b in zip(first, last, strict=True)
    ]
    sizes = np.array([len(frame) for frame in frames], dtype=np.int64)
    header = _header_nbytes(count, len(frames))
    table: NDArray[Any] = np.empty(len(frames), dtype=_FRAME)
    table["first"], table["count"] = first, last - first
    table["at"] = header + np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(frames) else 0
    table["packed"], table["size"] = sizes, starts[last] - starts[first]
    if header + int(sizes.sum()) >= 2**32:
        raise SchemaError("a framed chunk cannot be larger than 4 GiB; use a smaller chunk_bytes")
    head = b"".join(
        (
            _HEAD.pack(FRAMED_MAGIC, 1, 0, count, per_frame, len(frames)),
            starts.astype("<u4").tobytes(),
            table.tobytes(),
        )
    )
    crcs = np.array([crc32(frame) for frame in frames], dtype="<u4").tobytes()
    trailer = TRAILER.pack(count, per_frame, crc32(head), crc32(crcs), ITEM_MAGIC)
    return [head, *frames, crcs + trailer]


def _header_nbytes(count: int, frames: int) -> int:
    return _HEAD.size + 4 * (count + 1) + _FRAME.itemsize * frames


def _parse(data: memoryview, chunk: ChunkInfo, source: str) -> tuple[int, memoryview, NDArray[Any]]:
    """Check the header; return items per frame, offsets and the table of frames."""
    if len(data) < _HEAD.size:
        raise ChunkFormatError(f"{source}: truncated: {len(data)} bytes are less than a header")
    _, version, flags, count, per_frame, frames = _HEAD.unpack_from(data)
    if (version, flags) != (1, 0):
        raise ChunkFormatError(f"{source}: framed layout {version} with flags {flags} is unknown")
    if count != chunk.num_items:
        raise ChunkFormatError(
            f"{source}: the header counts {count} items, and chunk_size in the index is "
            f"{chunk.num_items}"
        )
    if per_frame < 1 or frames != -(-count // per_frame):
        raise ChunkFormatError(f"{source}: {frames} frames of {per_frame} for {count} items")
    header = _header_nbytes(count, frames)
    if header > len(data):
        raise ChunkFormatError(
            f"{source}: truncated: a header of {header} bytes, the file has {len(data)}"
        )
    offsets = np.frombuffer(data, dtype="<u4", count=count + 1, offset=_HEAD.size)
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
        raise ChunkFormatError(f"{source}: the offsets of items are out of order")
    table_at = _HEAD.size + 4 * (count + 1)
    table = np.frombuffer(data, dtype=_FRAME, count=frames, offset=table_at)
    _check_frames(table, offsets, per_frame, header, len(data), source)
    if sys.byteorder == "little":
        return per_frame, data[_HEAD.size : table_at].cast("I"), table
    return per_frame, offsets.astype(np.int64).data, table


def _check_frames(
    table: NDArray[Any],
    offsets: NDArray[np.uint32],
    per_frame: int,
    header: int,
    nbytes: int,
    source: str,
) -> None:
    count = len(offsets) - 1
    first = np.arange(len(table), dtype=np.int64) * per_frame
    last = np.minimum(first + per_frame, count)
    packed = table["packed"].astype(np.int64)
    size = table["size"].astype(np.int64)
    problems = {
        "first_item": table["first"] != first,
        "n_items": table["count"] != last - first,
        "compressed_off": (table["at"] < header) | (table["at"] > nbytes),
        "uncompressed_len": (size != offsets[last].astype(np.int64) - offsets[first])
        | (size > _GROWTH * packed),
    }
    problems["compressed_len"] = packed > nbytes - np.minimum(table["at"], nbytes).astype(np.int64)
    for field, bad in problems.items():
        if bad.any():
            raise ChunkFormatError(f"{source}: frame {int(np.argmax(bad))}: {field} cannot be true")
