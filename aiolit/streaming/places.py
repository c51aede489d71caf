"""Where the items of a chunk file lie, and what checks their bytes: decisions, no requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aiolit.format.checksum import join_offsets, parse_records, record_range, verify_blocks
from aiolit.format.checksum_stream import covering_range, stream_crc_range, verify_stream
from aiolit.format.chunk import offsets_range, parse_offsets
from aiolit.format.dataset_info import ChunkInfo
from aiolit.format.loader import BoundLoader, SampleReader

Check = Callable[[memoryview, int], None]


@dataclass(frozen=True, slots=True)
class Items:
    """Some items of a plain chunk: the file's bytes from ``base`` on, and their borders."""

    data: memoryview
    base: int
    first: int
    offsets: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where some items lie in a chunk file, and what checks their bytes once they are there.

    Attributes:
        base: The first byte.
        end: One past the last.
        offsets: Their borders.
        check: What checks the bytes.
        etag: The version of the file that says all this, where it was asked.
    """

    base: int
    end: int
    offsets: NDArray[np.int64] | None
    check: Check
    etag: str | None = None


class ChunkPlaces:
    """Finds items in chunks that can be read by range.

    Args:
        loader: Knows the layout of the data set's chunks.
        url_of: What messages call a chunk.
    """

    def __init__(self, loader: BoundLoader, url_of: Callable[[ChunkInfo], str]) -> None:
        self._loader, self._url_of = loader, url_of

    def unit(self, chunk: ChunkInfo, start: int, stop: int) -> tuple[int, int]:
        """Widen a range of samples to what can be checked: whole checksum blocks."""
        k = chunk.checksum_items
        if k is None or self._loader.byte_range(chunk, start, stop) is not None:
            return start, stop
        return start // k * k, min(-(-stop // k) * k, chunk.num_items)

    def borders(self, chunk: ChunkInfo, start: int, stop: int) -> tuple[int, int] | None:
        """Return the bytes to fetch for samples where the index alone tells; whole CRC runs."""
        borders = self._loader.byte_range(chunk, start, stop)
        if borders is None or chunk.checksum_bytes is None:
            return borders
        return covering_range(chunk, *borders)

    def table(self, chunk: ChunkInfo, start: int, stop: int) -> tuple[int, int] | None:
        """Return the bytes that say where samples lie or what checks them, if any are needed."""
        borders = self.borders(chunk, start, stop)
        if borders is not None:
            return stream_crc_range(chunk, *borders) if chunk.checksum_bytes is not None else None
        if chunk.checksum_items is None:
            return offsets_range(start, stop)
        return record_range(chunk, start, stop)

    def place(self, chunk: ChunkInfo, start: int, stop: int, table: bytes) -> Place:
        """Return where samples lie, by the bytes that ``table`` names."""
        url = self._url_of(chunk)
        borders = self.borders(chunk, start, stop)
        if borders is not None:
            if chunk.checksum_bytes is None:
                return Place(*borders, None, _unchecked)
            check = partial(verify_stream, crcs=table, chunk=chunk, source=url)
            return Place(*borders, None, check)
        if chunk.checksum_items is None:
            offsets = parse_offsets(table, start, chunk, source=url)
            return Place(int(offsets[0]), int(offsets[-1]), offsets, _unchecked)
        records = parse_records(table, chunk, start, stop, source=url)
        offsets = join_offsets(records)
        return Place(
            int(offsets[0]),
            int(offsets[-1]),
            offsets,
            lambda data, base: verify_blocks(records, data, base, url),
        )

    def reader(self, chunk: ChunkInfo, items: Items) -> SampleReader:
        """Return what reads the samples among some items."""
        return self._loader.open_range(
            items.data, items.base, items.first, items.offsets, chunk, self._url_of(chunk)
        )


def _unchecked(data: memoryview, base: int) -> None:
    """Chunks that LitData wrote have no checksums; their length and ETag were compared."""
