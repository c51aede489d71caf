"""Opening a chunk: telling its layout from its bytes, and distrusting every number in it."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChecksumError, ChunkFormatError
from aiolit.format.arrow_rows import ARROW_MAGIC, RowsView, find_rows, warn_if_plain
from aiolit.format.checksum import (
    ITEM_MAGIC,
    Checks,
    Trailer,
    open_footer,
    read_trailer,
    record_nbytes,
    verify_records,
)
from aiolit.format.checksum_stream import open_stream_footer
from aiolit.format.dataset_info import (
    ChunkInfo,
    DatasetConfig,
    is_mds,
    is_whole_compressed,
    loader_name,
)
from aiolit.format.encryption_base import Encryption, check_encryption, decrypt
from aiolit.format.framed import FRAMED_MAGIC, FramedView, verify_framed
from aiolit.format.views import ChunkView, ClassicView, EncryptedView, SampleZstdView

__all__ = [
    "ChunkView",
    "ClassicView",
    "EncryptedView",
    "FramedView",
    "RowsView",
    "SampleZstdView",
    "offsets_range",
    "open_chunk",
    "open_range",
    "parse_offsets",
    "probe",
    "range_readable",
    "verify_chunk",
]

HEAD_PROBE = 8  # bytes at the start of a file that `probe` looks at
TAIL_PROBE = 12  # and at its end

# Leaf formats that rows of plain JSON data can have; with any other leaf LitData writes no Arrow.
_ARROW_FORMATS = frozenset({"str", "int", "float", "bool", "bytes", "pickle", "json"})


def open_chunk(
    data: memoryview,
    chunk: ChunkInfo,
    config: DatasetConfig,
    *,
    source: str,
    encryption: Encryption | None = None,
    verify: bool = True,
) -> ChunkView:
    """Open the bytes of a chunk file, whole-file compression already undone.

    Items are slices of ``data``; it must not change while the view is used.

    Args:
        data: The whole file, for instance over an mmap.
        chunk: What the index says of it.
        config: What the index says of the data set.
        source: What to call the chunk in messages.
        encryption: The key, where the data is encrypted.
        verify: Check items against the chunk's checksums, each when first touched.

    Raises:
        ChunkFormatError: The file is truncated, or a number in it cannot be true.
        ChecksumError: The header is damaged, or the checksums that the index promises are missing.
        EncryptionError: The key is missing, of another kind, or wrong.
    """
    key = check_encryption(config, encryption, source=source)
    check_length(data, chunk, source)
    if key is not None and key.level == "chunk":
        data = memoryview(decrypt(key, bytes(data), source))
    if data[:8] == FRAMED_MAGIC:
        return FramedView(data, chunk, verify=verify, source=source)
    borders = _parse_header(data, chunk, source, loose=is_mds(config))
    end = borders[len(borders) - 1]
    if chunk.num_items > 0 and end == borders[0]:
        blob = find_rows(data, end, source)
        if blob is not None:
            warn_if_plain(key)
            return RowsView(blob, chunk.num_items, source=source)
    checks = _find_checks(data, chunk, borders, source) if verify else None
    view: ChunkView = ClassicView(borders, data, checks=checks, source=source)
    return _unwrap_items(view, config, key)


def open_range(
    data: memoryview,
    base: int,
    first: int,
    offsets: NDArray[np.int64],
    chunk: ChunkInfo,
    config: DatasetConfig,
    *,
    source: str,
    encryption: Encryption | None = None,
) -> ChunkView:
    """Open a byte range of a classic chunk.

    Args:
        data: The bytes of the range.
        base: Where they begin in the file.
        first: The number of the first item that they hold.
        offsets: Absolute offsets of the items; one more than there are items in the range.
        chunk: What the index says of the chunk.
        config: What the index says of the data set.
        source: What to call the chunk in messages.
        encryption: The key, where items are encrypted.

    Raises:
        ChunkFormatError: The offsets are out of order or outside the range.
        EncryptionError: The key is missing or of another kind.
    """
    key = check_encryption(config, encryption, source=source)
    count = len(offsets) - 1
    if count < 0 or first < 0 or first + count > chunk.num_items:
        raise ChunkFormatError(
            f"{source}: items {first} to {first + count - 1} of a chunk of {chunk.num_items}"
        )
    _check_order(offsets, base, base + len(data), first, source)
    borders = np.ascontiguousarray(offsets, dtype=np.int64).data
    view = ClassicView(borders, data, base=base, first=first, source=source)
    return _unwrap_items(view, config, key)


def range_readable(chunk: ChunkInfo, config: DatasetConfig) -> bool | None:
    """Tell whether items of a chunk can be read by byte range.

    Returns:
        True for a classic chunk; False for one that must be read whole; None where only the file
        can tell: give its first 8 and last 12 bytes to ``probe``.
    """
    encrypted = config.encryption is not None and config.encryption.level == "chunk"
    if encrypted or is_whole_compressed(chunk, config):
        return False
    loader = loader_name(config)
    if loader == "ParquetLoader":
        return False
    if loader == "TokensLoader":
        return config.encryption is None
    if loader == "TemporalArrayLoader" or is_mds(config):
        return True
    own = chunk.checksum_items is not None
    if config.compression_level == "batch":
        return False if own else None
    if own or not ({"types", "ipc_compression"} & config.extra.keys()):
        return True  # aiolit's, or of a LitData that wrote nothing but classic chunks
    if config.compression is None and not _ARROW_FORMATS.issuperset(config.data_format):
        return True
    return None


def probe(head: bytes, tail: bytes) -> bool:
    """Tell from the first 8 and last 12 bytes of a file whether it can be read by byte range."""
    return head[:8] != FRAMED_MAGIC and tail[-8:] != ARROW_MAGIC


def offsets_range(first: int, last: int) -> tuple[int, int]:
    """Return the byte range of the header's offsets for the items ``first`` to ``last - 1``."""
    return 4 + 4 * first, 4 + 4 * (last + 1)


def parse_offsets(
    data: bytes | bytearray | memoryview, first: int, chunk: ChunkInfo, *, source: str
) -> NDArray[np.int64]:
    """Parse the bytes of ``offsets_range(first, last)``.

    Returns:
        Absolute file offsets; one more than there are items.

    Raises:
        ChunkFormatError: They are out of order or outside the file.
    """
    if len(data) % 4 or len(data) < 8:
        raise ChunkFormatError(f"{source}: {len(data)} bytes are no run of offsets")
    offsets = np.frombuffer(data, dtype="<u4").astype(np.int64)
    _check_order(offsets, 4 * (chunk.num_items + 2), chunk.nbytes, first, source)
    return offsets


def verify_chunk(data: memoryview, chunk: ChunkInfo, source: str) -> bool:
    """Check every byte of a whole chunk, compression and encryption of the file already undone.

    Returns:
        Whether there were checksums to check: False for a chunk that aiolit did not write.

    Raises:
        ChunkFormatError: The file is truncated, or a number in it cannot be true.
        ChecksumError: Bytes differ from what was written. The message names the items.
    """
    if data[:8] == FRAMED_MAGIC:
        return verify_framed(data, chunk, source)
    borders = _parse_header(data, chunk, source, loose=True)
    trailer = read_trailer(data)
    if chunk.checksum_bytes is not None:
        stream = open_stream_footer(data, borders, chunk, source)
        stream.verify_all()
        return True
    checks = _find_checks(data, chunk, borders, source)
    if checks is None or trailer is None:
        return False
    checks.verify_all()
    verify_records(checks.records, trailer, source)
    return True


def parse_header(data: memoryview, chunk: ChunkInfo, source: str) -> memoryview:
    """Check the header of a classic chunk and return its offsets, as a view of Python ints.

    Raises:
        ChunkFormatError: The file is truncated, or a number in the header cannot be true.
    """
    return _parse_header(data, chunk, source, loose=False)


def check_length(data: memoryview, chunk: ChunkInfo, source: str) -> None:
    """Refuse a file shorter than the index says.

    Raises:
        ChunkFormatError: It is truncated.
    """
    if len(data) < chunk.nbytes:
        raise ChunkFormatError(
            f"{source}: truncated: {len(data)} of the {chunk.nbytes} bytes that the index declares"
        )


def _parse_header(data: memoryview, chunk: ChunkInfo, source: str, *, loose: bool) -> memoryview:
    if len(data) < 8:
        raise ChunkFormatError(f"{source}: truncated: {len(data)} bytes are less than a header")
    count = int.from_bytes(data[:4], "little")
    if count != chunk.num_items:
        raise ChunkFormatError(
            f"{source}: the header counts {count} items, and chunk_size in the index is "
            f"{chunk.num_items}"
        )
    table_end = 4 * (count + 2)
    if table_end > len(data):
        raise ChunkFormatError(
            f"{source}: truncated: the offsets of {count} items take {table_end} bytes, the file "
            f"has {len(data)}"
        )
    offsets = np.frombuffer(data, dtype="<u4", count=count + 1, offset=4)
    first = int(offsets[0])
    if first != table_end and not (loose and first > table_end):
        raise ChunkFormatError(f"{source}: offset 0 is {first}, not the table's end, {table_end}")
    _check_order(offsets, table_end, len(data), 0, source)
    if sys.byteorder == "little":
        return data[4:table_end].cast("I")
    return offsets.astype(np.int64).data


def _check_order(
    offsets: NDArray[np.integer], low: int, high: int, first: int, source: str
) -> None:
    bad = offsets[1:] < offsets[:-1]
    if bad.any():
        item = first + int(np.argmax(bad))
        raise ChunkFormatError(f"{source}: the offsets of item {item} are out of order")
    if offsets[0] < low or offsets[-1] > high:
        raise ChunkFormatError(
            f"{source}: items at {offsets[0]} to {offsets[-1]} lie outside bytes {low} to {high}"
        )


def _find_checks(
    data: memoryview, chunk: ChunkInfo, borders: memoryview, source: str
) -> Checks | None:
    """Find the checksums behind the items. Their magic alone counts where the index is silent."""
    trailer = read_trailer(data)
    promised = chunk.checksum_items
    end = int(borders[len(borders) - 1])
    if promised is None:
        if trailer is None or trailer.magic != ITEM_MAGIC or not _fits(data, chunk, end, trailer):
            return None
    elif trailer is None or trailer.magic != ITEM_MAGIC or trailer.k != promised:
        raise ChecksumError(
            f"{source}: damaged: its checksums (checksum_items {promised} in the index) are missing"
        )
    elif trailer.num_items != chunk.num_items:
        raise ChecksumError(f"{source}: damaged: the checksum footer counts {trailer.num_items}")
    k = trailer.k
    head = data[: 4 * (chunk.num_items + 2)]
    blocks = -(-chunk.num_items // k)
    records = open_footer(data, head, end, trailer, blocks, record_nbytes(k), source)
    return Checks(records, k, borders, data, source)


def _fits(data: memoryview, chunk: ChunkInfo, end: int, trailer: Trailer) -> bool:
    k = trailer.k
    if k == 0 or trailer.num_items != chunk.num_items:
        return False
    return bool(end + -(-chunk.num_items // k) * record_nbytes(k) + 24 == len(data))


def _unwrap_items(view: ChunkView, config: DatasetConfig, key: Encryption | None) -> ChunkView:
    if key is not None and key.level == "sample":
        view = EncryptedView(view, key)
    return SampleZstdView(view) if config.compression_level == "sample" else view
