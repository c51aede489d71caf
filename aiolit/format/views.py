"""An open chunk: its items as slices of the file's bytes, never copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from aiolit.format.checksum import Checks
from aiolit.format.compression import ZSTD_MAGIC, inflate_zstd, zstd_content_size
from aiolit.format.encryption_base import Encryption, decrypt


class ChunkView(ABC):
    """The items ``first`` to ``first + count - 1`` of a chunk, by their number in the chunk.

    May be read from several threads at once.
    """

    def __init__(self, first: int, count: int, source: str) -> None:
        self.first = first
        self.count = count
        self.source = source

    @abstractmethod
    def item(self, index: int) -> memoryview:
        """Return the bytes of one item, checked if the chunk has checksums.

        Raises:
            DatasetError: The bytes are damaged or cannot be decrypted.
        """

    def items(self, indices: Sequence[int]) -> list[memoryview]:
        """Return the bytes of several items, in the order of ``indices``."""
        item = self.item
        return [item(index) for index in indices]

    def _place(self, index: int) -> int:
        place = index - self.first
        if not 0 <= place < self.count:
            raise IndexError(
                f"{self.source}: item {index} is not among items {self.first} to "
                f"{self.first + self.count - 1}"
            )
        return place


class ClassicView(ChunkView):
    """Items that lie in the file one after the other.

    Args:
        borders: Absolute offsets: one more than there are items, in order, inside ``data``.
        data: Bytes of the file.
        base: Where ``data`` begins in the file.
        first: The number of the first item.
        checks: Checksums, or None to trust the bytes.
        source: What to call the chunk in messages.
    """

    def __init__(
        self,
        borders: memoryview,
        data: memoryview,
        *,
        base: int = 0,
        first: int = 0,
        checks: Checks | None = None,
        source: str,
    ) -> None:
        super().__init__(first, len(borders) - 1, source)
        self.borders = borders
        self.data = data
        self.base = base
        self.checks = checks

    def item(self, index: int) -> memoryview:
        """Return the bytes of one item."""
        place = self._place(index)
        if self.checks is not None:
            self.checks.verify(index)
        return self.data[self.borders[place] - self.base : self.borders[place + 1] - self.base]

    def items(self, indices: Sequence[int]) -> list[memoryview]:
        """Return the bytes of several items, in the order of ``indices``."""
        if len(indices) == 0:
            return []
        self._place(min(indices))
        self._place(max(indices))
        if self.checks is not None:
            self.checks.verify_items(indices)
        data, borders, base, first = self.data, self.borders, self.base, self.first
        if base == 0 and first == 0:
            return [data[borders[at] : borders[at + 1]] for at in indices]
        return [data[borders[at - first] - base : borders[at - first + 1] - base] for at in indices]


class SampleZstdView(ChunkView):
    """Items that are zstd frames of their own; one that is not is returned as it is."""

    def __init__(self, inner: ChunkView) -> None:
        super().__init__(inner.first, inner.count, inner.source)
        self._inner = inner

    def item(self, index: int) -> memoryview:
        """Return the bytes of one item, inflated."""
        data = self._inner.item(index)
        if data[:4] != ZSTD_MAGIC:
            return data  # LitData 0.2.76 announces this compression on chunks that lack it
        source = f"{self.source}: item {index}"
        return memoryview(inflate_zstd(data, zstd_content_size(data, source), source))


class EncryptedView(ChunkView):
    """Items that are encrypted one by one."""

    def __init__(self, inner: ChunkView, encryption: Encryption) -> None:
        super().__init__(inner.first, inner.count, inner.source)
        self._inner = inner
        self._encryption = encryption

    def item(self, index: int) -> memoryview:
        """Return the bytes of one item, decrypted."""
        data = bytes(self._inner.item(index))
        return memoryview(decrypt(self._encryption, data, f"{self.source}: item {index}"))
