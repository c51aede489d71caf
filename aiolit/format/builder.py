"""Cutting a run of items into chunks, and writing chunks as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError, SchemaError
from aiolit.format.checksum import Buffer, build_footer, choose_block
from aiolit.format.checksum_stream import STREAM_BLOCK, build_stream_footer
from aiolit.format.compression import compress_whole, parse_compression
from aiolit.format.dataset_info import ChunkInfo
from aiolit.format.encryption_base import Encryption, check_level, encrypt
from aiolit.format.framed import DEFAULT_BATCH, frame_chunk

LARGEST_CHUNK = 2**32 - 1  # item offsets are 32 bits wide


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedChunk:
    """A finished chunk, not yet compressed or encrypted as a whole.

    Attributes:
        offsets: The offset table.
        payload: The bytes of all items, in order, as views of what ``extend`` was given.
        footer: The checksums.
        num_items: How many items it holds.
        nbytes: Its length as a classic chunk, checksums included.
        dim: Tokens in it, for token data sets.
        checksum_items: Items per CRC block; None for token data sets.
        checksum_bytes: Bytes per CRC block, for token data sets.
    """

    offsets: NDArray[np.uint32]
    payload: list[memoryview]
    footer: bytes
    num_items: int
    nbytes: int
    dim: int | None
    checksum_items: int | None
    checksum_bytes: int | None

    @property
    def parts(self) -> list[Buffer]:
        """The classic chunk's bytes, in pieces."""
        head = self.num_items.to_bytes(4, "little") + self.offsets.astype("<u4").tobytes()
        return [head, *self.payload, self.footer]


class ChunkBuilder:
    """Gathers encoded items and cuts them into chunks.

    A chunk is closed when the next item would take it over a limit; an item over the limit by
    itself gets a chunk of its own. Cutting needs no Python per item.

    Args:
        chunk_bytes: The most bytes of items in a chunk, headers not counted; or None.
        chunk_size: The most items in a chunk; or None.
        counts_dim: ``chunk_size`` counts tokens, and chunks get checksums for token streams.

    Raises:
        ConfigError: There is no limit, or it is not positive or above 4 GiB.
    """

    def __init__(
        self, chunk_bytes: int | None, chunk_size: int | None, counts_dim: bool = False
    ) -> None:
        if chunk_bytes is None and chunk_size is None:
            raise ConfigError("a chunk needs a limit: pass chunk_bytes or chunk_size")
        if chunk_bytes is not None and not 0 < chunk_bytes <= LARGEST_CHUNK:
            raise ConfigError(f"chunk_bytes must be between 1 and 4 GiB, not {chunk_bytes}")
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, not {chunk_size}")
        self._chunk_bytes = chunk_bytes
        self._chunk_size = chunk_size
        self._counts_dim = counts_dim
        self._reset()

    def _reset(self) -> None:
        self._sizes: list[NDArray[np.int64]] = []
        self._payload: list[memoryview] = []
        self._count = 0
        self._nbytes = 0
        self._dim = 0

    @property
    def pending_nbytes(self) -> int:
        """Bytes of items that are waiting for their chunk to be closed."""
        return self._nbytes

    def extend(
        self,
        sizes: NDArray[np.int64],
        payload: memoryview,
        dims: NDArray[np.int64] | None = None,
    ) -> Iterator[SealedChunk]:
        """Add items; yield each chunk that they close, in order.

        Args:
            sizes: The length of each item in bytes.
            payload: The items' bytes, joined. It is kept, not copied: it must not change before
                the chunks with these items are written.
            dims: Tokens in each item, for token data sets.

        Raises:
            ConfigError: The arguments disagree with each other.
            SchemaError: An item is too large for any chunk.
        """
        payload = payload.cast("B")
        sizes = np.asarray(sizes, dtype=np.int64)
        if int(sizes.sum()) != len(payload) or (len(sizes) and int(sizes.min()) < 0):
            raise ConfigError(f"{len(sizes)} items do not make up the {len(payload)} bytes given")
        if len(sizes) != (len(sizes) if dims is None else len(dims)) or (
            dims is None and self._counts_dim
        ):
            raise ConfigError("each item of tokens needs its number of tokens in dims")
        if len(sizes) and int(sizes.max()) > LARGEST_CHUNK - 12:
            raise SchemaError(f"an item of {int(sizes.max())} bytes: no item can exceed 4 GiB")
        ends = np.cumsum(sizes)
        dim_ends = np.cumsum(np.asarray(dims, dtype=np.int64)) if dims is not None else None
        start = 0
        while start < len(sizes):
            stop = self._cut(ends, dim_ends, start)
            if stop > start:
                self._take(sizes, ends, dim_ends, payload, start, stop)
                start = stop
            if start < len(sizes):
                yield self._seal()

    def flush(self) -> SealedChunk | None:
        """Close the last chunk, or return None where nothing is waiting."""
        return self._seal() if self._count else None

    def _cut(self, ends: NDArray[np.int64], dim_ends: NDArray[np.int64] | None, start: int) -> int:
        """Return where the open chunk must end; ``start`` where it cannot take one more item."""
        before = int(ends[start - 1]) if start else 0
        limit = LARGEST_CHUNK if self._chunk_bytes is None else self._chunk_bytes
        stop = int(np.searchsorted(ends, before + limit - self._nbytes, side="right"))
        if self._nbytes + (int(ends[-1]) - before) + 4 * (self._count + len(ends) + 2) > (
            LARGEST_CHUNK
        ):
            # Only now can the file, its offset table included, outgrow 32 bits.
            filled = ends + 4 * np.arange(1, len(ends) + 1, dtype=np.int64)
            room = LARGEST_CHUNK - self._nbytes - 4 * (self._count + 2) + before + 4 * start
            stop = min(stop, int(np.searchsorted(filled, room, side="right")))
        if self._chunk_size is not None:
            if self._counts_dim and dim_ends is not None:
                dims_before = int(dim_ends[start - 1]) if start else 0
                wanted = dims_before + self._chunk_size - self._dim
                stop = min(stop, int(np.searchsorted(dim_ends, wanted, side="right")))
            else:
                stop = min(stop, start + self._chunk_size - self._count)
        if stop <= start:
            return start if self._count else start + 1
        return stop

    def _take(
        self,
        sizes: NDArray[np.int64],
        ends: NDArray[np.int64],
        dim_ends: NDArray[np.int64] | None,
        payload: memoryview,
        start: int,
        stop: int,
    ) -> None:
        low, high = int(ends[start] - sizes[start]), int(ends[stop - 1])
        self._sizes.append(sizes[start:stop])
        if high > low:
            self._payload.append(payload[low:high])
        self._count += stop - start
        self._nbytes += high - low
        if dim_ends is not None:
            self._dim += int(dim_ends[stop - 1]) - (int(dim_ends[start - 1]) if start else 0)

    def _seal(self) -> SealedChunk:
        sizes = np.concatenate(self._sizes)
        offsets = np.empty(len(sizes) + 1, dtype=np.int64)
        offsets[0] = 4 * (len(sizes) + 2)
        np.cumsum(sizes, out=offsets[1:])
        offsets[1:] += offsets[0]
        table = offsets.astype(np.uint32)
        block = None if self._counts_dim else choose_block(self._count, self._nbytes)
        if block is None:
            footer = build_stream_footer(table, self._payload, STREAM_BLOCK)
        else:
            footer = build_footer(table, self._payload, block)
        sealed = SealedChunk(
            offsets=table,
            payload=self._payload,
            footer=footer,
            num_items=self._count,
            nbytes=int(offsets[-1]) + len(footer),
            dim=self._dim if self._counts_dim else None,
            checksum_items=block,
            checksum_bytes=STREAM_BLOCK if block is None else None,
        )
        self._reset()
        return sealed


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """A chunk file, ready to be stored.

    Attributes:
        parts: The file's bytes, in pieces.
        info: Its entry in the index.
    """

    parts: list[Buffer]
    info: ChunkInfo


def pack_chunk(
    sealed: SealedChunk,
    *,
    filename: str,
    compression: str | None = None,
    compression_level: str | None = None,
    compression_batch_size: int = DEFAULT_BATCH,
    encryption: Encryption | None = None,
) -> PackedChunk:
    """Encrypt and compress a chunk as a whole, where asked to.

    Args:
        sealed: The chunk.
        filename: Its name, from ``chunk_filename``.
        compression: ``"zstd"`` (level 4), ``"zstd:N"`` or None.
        compression_level: None compresses the file as one, which every LitData reads; ``"batch"``
            makes frames of items that are inflated one at a time (LitData 0.2.74 and later).
        compression_batch_size: Items per frame.
        encryption: Encrypts the file where its level is ``"chunk"``.

    Raises:
        ConfigError: The options do not go together.
        SchemaError: The chunk, as it would be stored, is larger than 4 GiB.
    """
    if compression_level not in (None, "batch"):
        raise ConfigError(
            f"compression_level={compression_level!r}: chunks are compressed as one (None) or in "
            "frames ('batch')"
        )
    info = ChunkInfo(
        filename=filename,
        num_items=sealed.num_items,
        nbytes=sealed.nbytes,
        dim=sealed.dim,
        checksum_items=sealed.checksum_items,
        checksum_bytes=sealed.checksum_bytes,
    )
    if compression is not None and compression_level == "batch":
        if encryption is not None or sealed.checksum_items is None:
            raise ConfigError("compression_level='batch' goes with neither encryption nor tokens")
        parts = frame_chunk(
            sealed.offsets,
            sealed.payload,
            level=parse_compression(compression),
            per_frame=compression_batch_size,
        )
        nbytes = sum(len(part) for part in parts)
        return PackedChunk(
            parts, replace(info, nbytes=nbytes, checksum_items=compression_batch_size)
        )
    parts = sealed.parts
    if encryption is not None and check_level(encryption.level) == "chunk":
        parts = [encrypt(encryption, b"".join(parts))]
        info = replace(info, nbytes=len(parts[0]))
    if compression is not None:
        parts = list(compress_whole(parts, parse_compression(compression)))
    return PackedChunk(parts, info)


def pack(
    sealed: SealedChunk,
    *,
    compression: str | None = None,
    compression_level: str | None = None,
    encryption: Encryption | None = None,
) -> list[Buffer]:
    """Return the file bytes of a chunk, in pieces; ``pack_chunk`` gives its index entry too."""
    return pack_chunk(
        sealed,
        filename=chunk_filename(0, 0, compression, compression_level),
        compression=compression,
        compression_level=compression_level,
        encryption=encryption,
    ).parts


def chunk_filename(
    rank: int, number: int, compression: str | None, compression_level: str | None = None
) -> str:
    """Name a chunk file: ``chunk-0-0.bin``, or ``chunk-0-0.zstd.bin`` if compressed as a whole."""
    if compression is None or compression_level is not None:
        return f"chunk-{rank}-{number}.bin"
    return f"chunk-{rank}-{number}.{compression}.bin"
