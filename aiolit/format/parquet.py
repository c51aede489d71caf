"""Parquet files as chunks: their footers, their row groups, and rows as samples."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChunkFormatError, ConfigError, IndexFormatError
from aiolit.format.dataset_info import ChunkInfo, Index
from aiolit.format.encryption_base import Encryption
from aiolit.format.loader_base import (
    BoundLoader,
    ItemLoader,
    SampleEncoder,
    SampleReader,
    check_name,
)
from aiolit.format.optional import require
from aiolit.format.serializers import SerializerRegistry

ROW_GROUPS = "row_groups"  # rows of each row group, in a chunk's entry in the index
FOOTER_BYTES = "footer_bytes"  # length of the end of the file that holds the footer, there too
END_NBYTES = 8  # length of the footer and magic, at the very end
TAIL_NBYTES = 64 << 10  # most footers are smaller

_MAGIC = b"PAR1"
_LEAST_TAIL = 4 << 10
_DECODED_BYTES = 1 << 30
# Row groups whose numbers take more memory than this, and a thousand times their bytes, are a bomb.
_FREE_BYTES, _MOST_GROWTH = 2 << 30, 1000
_WIDTHS = {"BOOLEAN": 0.125, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}
_OLD_WRITER_SLACK = 100  # early versions of parquet-mr wrote lengths without a page's header

Extents = Sequence[tuple[int, memoryview]]  # file offsets, and the bytes there


class ParquetLoader(ItemLoader):
    """Rows of Parquet files as dicts; needs ``pyarrow``.

    Row groups are decoded when a row of theirs is wanted; of remote files only the row groups and
    columns that are wanted are fetched. Shuffled, rows of some neighbouring row groups are mixed.

    Args:
        pre_load_chunk: With ``low_memory=False``, decode a whole file when it is opened.
        low_memory: Keep at most 1 GiB of decoded row groups (and at least one) in each process;
            False keeps those of every file that is open.
        columns: The columns to read, in this order; None is all of them.

    Raises:
        ConfigError: An argument is of a wrong type, or no column is named.
    """

    def __init__(
        self,
        pre_load_chunk: bool = False,
        low_memory: bool = True,
        columns: Sequence[str] | None = None,
    ) -> None:
        for name, value in (("pre_load_chunk", pre_load_chunk), ("low_memory", low_memory)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}")
        if isinstance(columns, str) or not all(isinstance(one, str) for one in columns or ()):
            raise ConfigError(f"columns must be a list of names, not {columns!r}")
        if columns is not None and (not columns or len(set(columns)) < len(columns)):
            raise ConfigError(f"columns must name each column once, and at least one: {columns!r}")
        self.pre_load_chunk, self.low_memory = pre_load_chunk, low_memory
        self.columns = None if columns is None else tuple(columns)

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> ParquetBound:
        """Make the loader ready for a data set."""
        check_name(self, index, source)
        if encryption is not None:
            raise ConfigError(f"{source}: Parquet files are not encrypted by this library")
        return ParquetBound(self, index, source)

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Refuse: Parquet is read and not written."""
        raise ConfigError("ParquetLoader only reads; write with PyTreeLoader")


class ParquetBound(BoundLoader):
    """A Parquet loader that knows its data set."""

    def __init__(self, loader: ParquetLoader, index: Index, source: str) -> None:
        _pyarrow()
        self.columns = loader.columns
        self._low_memory = loader.low_memory
        self._pre_load = loader.pre_load_chunk and not loader.low_memory
        self.decoded = Shelf(_DECODED_BYTES if loader.low_memory else 0)
        for number, chunk in enumerate(index.chunks):
            _check_groups(chunk, f"{source}: field 'chunks[{number}].{ROW_GROUPS}'")

    def num_samples(self, chunk: ChunkInfo) -> int:
        """Return how many samples a chunk gives: its rows."""
        return chunk.num_items

    def row_groups(self, chunk: ChunkInfo) -> Sequence[int]:
        """Return the rows of each row group, as far as the index tells."""
        found: Sequence[int] = chunk.extra.get(ROW_GROUPS) or (chunk.num_items,)
        return found

    def footer_guess(self, chunk: ChunkInfo) -> int:
        """Return how much of a file's end to fetch for its footer: exact if the index tells."""
        known = chunk.extra.get(FOOTER_BYTES)
        if type(known) is int and END_NBYTES <= known <= chunk.nbytes:
            return known
        return min(chunk.nbytes, TAIL_NBYTES, max(_LEAST_TAIL, chunk.nbytes // 32))

    def open(
        self, data: memoryview, chunk: ChunkInfo, source: str, *, verify: bool = True
    ) -> ParquetReader:
        """Open a whole file."""
        footer = self.footer(data, len(data), chunk, source)
        reader = self.reader(footer, lambda group: [(0, data)])
        if self._pre_load:
            for group in range(footer.num_groups):
                reader.table_of(group)
        return reader

    def open_range(
        self,
        data: memoryview,
        base: int,
        first: int,
        offsets: NDArray[np.int64] | None,
        chunk: ChunkInfo,
        source: str,
    ) -> SampleReader:
        """Refuse: rows have no bytes of their own."""
        raise ConfigError(f"{source}: Parquet files are read by row groups")

    def footer(self, tail: memoryview, nbytes: int, chunk: ChunkInfo, source: str) -> ParquetFooter:
        """Read the end of a file of ``nbytes`` bytes.

        Raises:
            ChunkFormatError: It is damaged, or has not as many rows as the index says.
            ConfigError: A column is not there.
        """
        footer = ParquetFooter(tail, nbytes, source, self.columns)
        if footer.num_rows != chunk.num_items:
            raise ChunkFormatError(
                f"{source}: the file has {footer.num_rows} rows and the index says "
                f"{chunk.num_items}: it was replaced; index the data set again"
            )
        return footer

    def reader(self, footer: ParquetFooter, bytes_of: Callable[[int], Extents]) -> ParquetReader:
        """Return a reader of a file.

        Args:
            footer: Its footer.
            bytes_of: Gives the bytes of a row group; called when it is decoded.
        """
        shelf = self.decoded if self._low_memory else Shelf(0)
        return ParquetReader(footer, bytes_of, shelf)


class Shelf:
    """Decoded row groups: the latest used ones.

    Args:
        limit: Bytes to keep, and at least one row group; 0 keeps all.
    """

    # Threads share it without a lock, which a fork could leave held: each step on the dict is one
    # operation of the interpreter, and two threads that decode the same do no harm.

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tables: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def get(self, key: tuple[str, int]) -> Any | None:
        """Return a row group if it is here."""
        table = self._tables.get(key)
        if table is not None:
            try:
                self._tables.move_to_end(key)
            except KeyError:  # dropped by another thread just now
                return table
        return table

    def put(self, key: tuple[str, int], table: Any) -> None:
        """Keep a row group, and drop those least lately used beyond the limit."""
        self._tables[key] = table
        if not self._limit:
            return
        held = sum(one.nbytes for one in list(self._tables.values()))
        while held > self._limit and len(self._tables) > 1:
            try:
                held -= self._tables.popitem(last=False)[1].nbytes
            except KeyError:
                return


class ParquetReader(SampleReader):
    """Rows of a Parquet file as dicts."""

    def __init__(
        self, footer: ParquetFooter, bytes_of: Callable[[int], Extents], shelf: Shelf
    ) -> None:
        self._footer, self._bytes_of, self._shelf = footer, bytes_of, shelf
        self._pinned: dict[int, Any] = {}

    def pin(self, group: int) -> bool:
        """Hold a row group as long as this reader lives if it is decoded; say whether it is."""
        table = self._shelf.get((self._footer.source, group))
        if table is not None:
            self._pinned[group] = table
        return table is not None

    def table_of(self, group: int) -> Any:
        """Return a row group as an Arrow table.

        Raises:
            ChunkFormatError: Its bytes are damaged.
        """
        key = self._footer.source, group
        table = self._pinned.get(group)
        if table is None:
            table = self._shelf.get(key)
        if table is None:
            table = self._footer.decode(group, self._bytes_of(group))
            self._shelf.put(key, table)
        return table

    def sample(self, index: int) -> dict[str, Any]:
        """Return one row."""
        group = self._footer.group_of(index)
        place = index - self._footer.first_of(group)
        row: dict[str, Any] = self.table_of(group).slice(place, 1).to_pylist()[0]
        return row

    def samples(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows, in the order of ``indices``."""
        places: dict[int, list[int]] = {}
        for number, index in enumerate(indices):
            places.setdefault(self._footer.group_of(index), []).append(number)
        found: list[Any] = [None] * len(indices)
        for group, numbers in places.items():
            first = self._footer.first_of(group)
            rows = self.table_of(group).take([indices[number] - first for number in numbers])
            for number, row in zip(numbers, rows.to_pylist(), strict=True):
                found[number] = row
        return found


class ParquetFooter:
    """What the end of a Parquet file says.

    Args:
        tail: The last bytes of the file, with the whole footer.
        nbytes: The length of the file.
        source: What to call it in messages.
        columns: The columns that are read; None is all.

    Raises:
        ChunkFormatError: It is damaged, or no Parquet file.
        ConfigError: A column is not there.
    """

    def __init__(
        self, tail: memoryview, nbytes: int, source: str, columns: Sequence[str] | None = None
    ) -> None:
        arrow, parquet = _pyarrow()
        self.source, self._nbytes = source, nbytes
        self.nbytes = footer_nbytes(tail[-END_NBYTES:], nbytes, source)
        if self.nbytes > len(tail):
            raise ChunkFormatError(f"{source}: only a part of the footer is there")
        with _clear_errors(source):
            self._metadata = parquet.read_metadata(arrow.BufferReader(arrow.py_buffer(tail)))
            schema = self._metadata.schema.to_arrow_schema()
            groups = [
                self._metadata.row_group(group).num_rows
                for group in range(self._metadata.num_row_groups)
            ]
        self.names: tuple[str, ...] = tuple(schema.names)
        self.types: tuple[str, ...] = tuple(str(kind) for kind in schema.types)
        self.rows: tuple[int, ...] = tuple(groups)
        self._ends: list[int] = list(accumulate(self.rows))
        for column in columns or ():
            if column not in self.names:
                raise ConfigError(
                    f"{source}: there is no column {column!r}, only {', '.join(self.names)}"
                )
        self._columns = None if columns is None else list(columns)

    @property
    def num_rows(self) -> int:
        """How many rows the file has."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_groups(self) -> int:
        """How many row groups the file has."""
        return len(self.rows)

    def group_of(self, row: int) -> int:
        """Return the row group that a row is in."""
        if not 0 <= row < self.num_rows:
            raise ChunkFormatError(f"{self.source}: there is no row {row} among {self.num_rows}")
        return bisect_right(self._ends, row)

    def first_of(self, group: int) -> int:
        """Return a row group's first row."""
        return self._ends[group] - self.rows[group]

    def groups(self, start: int, stop: int) -> range:
        """Return the row groups that hold the rows ``[start, stop)``."""
        if start >= stop:
            return range(0)
        return range(self.group_of(start), self.group_of(stop - 1) + 1)

    def ranges(self, group: int) -> list[tuple[int, int]]:
        """Return where the bytes of a row group's columns lie in the file.

        Raises:
            ChunkFormatError: They do not lie in the file.
        """
        found = []
        with _clear_errors(self.source):
            row_group = self._metadata.row_group(group)
            slack = _OLD_WRITER_SLACK if self._metadata.created_by.startswith("parquet-mr") else 0
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                if not self._is_read(column.path_in_schema):
                    continue
                start = column.data_page_offset
                if column.has_dictionary_page and column.dictionary_page_offset:
                    start = min(start, column.dictionary_page_offset)
                stop = start + column.total_compressed_size
                if not 0 <= start <= stop <= self._nbytes:
                    raise ChunkFormatError(
                        f"{self.source}: column {column.path_in_schema!r} of row group {group} "
                        "does not lie in the file"
                    )
                found.append((start, min(stop + slack, self._nbytes)))
        return found

    def decode(self, group: int, extents: Extents) -> Any:
        """Decode a row group's columns to an Arrow table.

        Raises:
            ChunkFormatError: Its bytes are damaged, or say that they hold what they cannot.
        """
        arrow, parquet = _pyarrow()
        self._check_growth(group)
        source: Any = arrow.PythonFile(SparseFile(self._nbytes, extents), mode="r")
        if len(extents) == 1 and len(extents[0][1]) == self._nbytes:
            source = arrow.BufferReader(arrow.py_buffer(extents[0][1]))
        with _clear_errors(self.source):
            # Arrow's own threads would not be there in a forked worker.
            with parquet.ParquetFile(source, metadata=self._metadata, pre_buffer=False) as file:
                table = file.read_row_group(group, columns=self._columns, use_threads=False)
            if table.num_rows != self.rows[group]:
                raise ChunkFormatError(
                    f"{self.source}: row group {group} has {table.num_rows} rows and not "
                    f"{self.rows[group]}"
                )
            return table if self._columns is None else table.select(self._columns)

    def _check_growth(self, group: int) -> None:
        """Refuse a row group with so many values in so few bytes that it can only be a bomb."""
        stored, least = 0, 0.0
        with _clear_errors(self.source):
            row_group = self._metadata.row_group(group)
            for number in range(row_group.num_columns):
                column = row_group.column(number)
                if self._is_read(column.path_in_schema):
                    stored += max(column.total_compressed_size, 0)
                    # Of texts and bytes, at least their ends.
                    least += column.num_values * _WIDTHS.get(column.physical_type, 4)
        if least > max(_FREE_BYTES, _MOST_GROWTH * stored):
            raise ChunkFormatError(
                f"{self.source}: row group {group} has {stored} bytes and says that its values "
                f"take {round(least)}"
            )

    def _is_read(self, path: str) -> bool:
        if self._columns is None:
            return True
        # Of a nested column, the path goes on behind its name. Arrow reads all that might be meant.
        return any(path == name or path.startswith(f"{name}.") for name in self._columns)


class SparseFile(io.RawIOBase):
    """A file of which some bytes are there; reading others is an error."""

    def __init__(self, nbytes: int, extents: Extents) -> None:
        self._nbytes, self._extents, self._at = nbytes, extents, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._nbytes if size < 0 else min(self._at + size, self._nbytes)
        start, self._at = self._at, max(stop, self._at)
        if start >= stop:
            return b""
        for base, data in self._extents:
            if base <= start and stop <= base + len(data):
                return bytes(data[start - base : stop - base])
        raise OSError(f"the bytes {start} to {stop} are none of a column's")


def footer_nbytes(end: memoryview | bytes, nbytes: int, source: str) -> int:
    """Return how long the end of a Parquet file is that holds its footer.

    Args:
        end: The last eight bytes.
        nbytes: The length of the file.
        source: What to call it in messages.

    Raises:
        ChunkFormatError: It is no Parquet file, or a truncated one.
    """
    if len(end) < END_NBYTES or bytes(end[-4:]) != _MAGIC:
        raise ChunkFormatError(f"{source}: no Parquet file, or a truncated or encrypted one")
    length = int.from_bytes(end[-END_NBYTES:-4], "little") + END_NBYTES
    if length + len(_MAGIC) > nbytes:
        raise ChunkFormatError(
            f"{source}: a footer of {length} bytes does not fit in a file of {nbytes}"
        )
    return length


def _check_groups(chunk: ChunkInfo, field: str) -> None:
    groups: Any = chunk.extra.get(ROW_GROUPS)
    if groups is None:
        return
    whole = isinstance(groups, list) and all(type(rows) is int and rows >= 0 for rows in groups)
    if not whole or sum(groups) != chunk.num_items:
        raise IndexFormatError(f"{field} must be numbers of rows, {chunk.num_items} together")


@contextmanager
def _clear_errors(source: str) -> Iterator[None]:
    arrow, _ = _pyarrow()
    try:
        yield
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, ChunkFormatError):
            raise
        raise ChunkFormatError(f"{source}: damaged Parquet data: {error}") from error


def _pyarrow() -> tuple[Any, Any]:
    arrow = require("pyarrow", "aiolit[parquet]", "reading Parquet")
    return arrow, require("pyarrow.parquet", "aiolit[parquet]", "reading Parquet")
