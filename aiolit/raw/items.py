"""The files of a data set and their grouping into items, kept in few bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np

from aiolit.errors import ConfigError
from aiolit.plan.runs import Ints

_ANY_BYTES = "surrogateescape"  # as Python names files whose names are no UTF-8


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """One file of a raw data set.

    Attributes:
        path: Its full path or URL.
        size: In bytes.
    """

    path: str
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"path": self.path, "size": self.size}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FileMetadata:
        """Make one of what ``to_dict`` returned."""
        return cls(data["path"], data["size"])


Item = FileMetadata | list[FileMetadata]


class ItemTable(Sequence[Item]):
    """Items: single files, or groups of files that belong together.

    A list of millions of Python objects takes a hundred bytes for each, and forked workers copy
    its pages when they count references; this is three arrays and one string of bytes.

    Args:
        root: What every path begins with, without a slash at its end.
        items: The items, in their order.

    Raises:
        ConfigError: An item is no file or list of files below ``root``.
    """

    def __init__(self, root: str, items: Iterable[object]) -> None:
        self._prefix = root.rstrip("/") + "/"
        keys: list[bytes] = []
        sizes: list[int] = []
        counts: list[int] = []
        grouped: list[bool] = []
        for item in items:
            files = [item] if isinstance(item, FileMetadata) else _group(item)
            keys += [self._key(file).encode(errors=_ANY_BYTES) for file in files]
            sizes += [file.size for file in files]
            counts.append(len(files))
            grouped.append(not isinstance(item, FileMetadata))
        self._text = b"".join(keys)
        self._ends = np.cumsum([0, *map(len, keys)], dtype=np.int64)
        self._sizes: Ints = np.array(sizes, np.int64)
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self._grouped = np.array(grouped, np.bool_)
        totals = np.concatenate(([0], np.cumsum(self._sizes)))
        self.nbytes: Ints = np.diff(totals[self._firsts])

    def _key(self, file: FileMetadata) -> str:
        key = file.path.removeprefix(self._prefix)
        if key == file.path or not key:
            raise ConfigError(
                f"{file.path} does not lie below {self._prefix}: setup() may group and leave out "
                "files, and not add others"
            )
        return key

    def __len__(self) -> int:
        return len(self._grouped)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        files = [FileMetadata(self._prefix + key, size) for key, size in self.files(number)]
        return files if self.is_group(number) else files[0]

    def files(self, item: int) -> list[tuple[str, int]]:
        """Return the keys and sizes of an item's files."""
        first, last = int(self._firsts[item]), int(self._firsts[item + 1])
        ends = self._ends[first : last + 1].tolist()
        keys = [self._text[lo:hi].decode(errors=_ANY_BYTES) for lo, hi in pairwise(ends)]
        return list(zip(keys, self._sizes[first:last].tolist(), strict=True))

    def is_group(self, item: int) -> bool:
        """Whether an item is a list of files, be it of one only."""
        return bool(self._grouped[item])

    def digest(self) -> str:
        """Return a digest of names, sizes and grouping; where the files lie does not count."""
        digest = hashlib.sha256(self._text)
        for column in (self._ends, self._sizes, self._firsts, self._grouped):
            digest.update(column.tobytes())
        return digest.hexdigest()[:32]


def _group(item: object) -> list[FileMetadata]:
    if isinstance(item, list | tuple) and all(isinstance(file, FileMetadata) for file in item):
        return list(item)
    raise ConfigError(
        "setup() must return a list of FileMetadata, or of lists of FileMetadata; one of its items "
        f"is {item!r:.200}"
    )
