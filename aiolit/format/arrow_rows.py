"""Chunks whose rows are an Arrow table behind an empty item table (LitData 0.2.74 and later)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from aiolit.errors import ChunkFormatError, MissingDependencyError
from aiolit.format.encryption_base import Encryption
from aiolit.format.views import ChunkView

ARROW_MAGIC = b"LDARW01\0"
_TAIL = 12
_FILE_MAGIC = b"ARROW1"
# Rows that take more memory than this, and a thousand times their bytes, are a bomb.
_FREE_BYTES, _MOST_GROWTH = 512 << 20, 1000


def find_rows(data: memoryview, end: int, source: str) -> memoryview | None:
    """Return the Arrow data at the end of a chunk, or None where there is none.

    Args:
        data: The whole file.
        end: Where the (empty) items end.
        source: What to call the chunk in messages.

    Raises:
        ChunkFormatError: The declared length does not fit the file.
    """
    if len(data) - end < _TAIL or data[-8:] != ARROW_MAGIC:
        return None
    nbytes = int.from_bytes(data[-_TAIL:-8], "little")
    start = len(data) - _TAIL - nbytes
    if start < end:
        raise ChunkFormatError(f"{source}: Arrow data of {nbytes} bytes does not fit in the file")
    return data[start:-_TAIL]


def warn_if_plain(key: Encryption | None) -> None:
    """Warn where rows that should be encrypted lie in the file in plain text."""
    if key is not None and key.level == "sample":
        warnings.warn(
            "this data set is said to be encrypted, but LitData wrote its rows in plain text",
            stacklevel=4,
        )


class RowsView(ChunkView):
    """The rows of an Arrow table; needs ``pyarrow``.

    Args:
        blob: The Arrow data, a file or a stream.
        count: How many rows the index declares.
        source: What to call the chunk in messages.

    Raises:
        MissingDependencyError: ``pyarrow`` is not installed.
        ChunkFormatError: The table is damaged or has another number of rows.
    """

    def __init__(self, blob: memoryview, count: int, *, source: str) -> None:
        super().__init__(0, count, source)
        self._table = _read_table(blob, source)
        if self._table.num_rows != count:
            raise ChunkFormatError(
                f"{source}: the Arrow table has {self._table.num_rows} rows, and chunk_size in the "
                f"index is {count}"
            )

    def item(self, index: int) -> memoryview:
        """Refuse: rows have no bytes of their own."""
        raise ChunkFormatError(f"{self.source}: its rows are an Arrow table, not items of bytes")

    def row(self, index: int) -> dict[str, Any]:
        """Return one sample."""
        row: dict[str, Any] = self._table.slice(self._place(index), 1).to_pylist()[0]
        return row

    def rows(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return several samples, in the order of ``indices``."""
        places = [self._place(index) for index in indices]
        rows: list[dict[str, Any]] = self._table.take(places).to_pylist()
        return rows


def _read_table(blob: memoryview, source: str) -> Any:
    try:
        import pyarrow as pa  # optional: only chunks of this kind need it
        from pyarrow import ipc
    except ImportError as error:
        raise MissingDependencyError(
            f"{source}: its rows are an Arrow table; run: pip install 'aiolit[parquet]'"
        ) from error
    try:
        buffer = pa.py_buffer(blob)
        is_file = blob[: len(_FILE_MAGIC)] == _FILE_MAGIC
        with (ipc.open_file if is_file else ipc.open_stream)(buffer) as reader:
            table = pa.Table.from_batches(_batches(reader, is_file, len(blob)), reader.schema)
        # Arrow trusts the offsets inside a table; unchecked ones could read outside of it.
        table.validate(full=True)
        for column in table.schema:
            _check_type(column.type, column.name, pa.types, source)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ChunkFormatError(f"{source}: damaged Arrow data: {error}") from error
    return table


def _batches(reader: Any, is_file: bool, nbytes: int) -> list[Any]:
    """Read the record batches one by one, so that what they inflate to is seen before all is."""
    found: list[Any] = []
    held = 0
    numbers = range(reader.num_record_batches) if is_file else None
    for batch in reader if numbers is None else map(reader.get_batch, numbers):
        held += batch.nbytes + 8 * sum(_values(column) for column in batch.columns)
        if held > max(_FREE_BYTES, _MOST_GROWTH * nbytes):
            raise ValueError(f"its {nbytes} bytes say that they hold more than {held}")
        found.append(batch)
    return found


def _values(array: Any) -> int:
    """Count the values that rows will have as Python objects; some take no bytes in Arrow."""
    if hasattr(array, "values") and hasattr(array, "offsets"):
        return _values(array.values)
    fields = getattr(array.type, "num_fields", 0)
    if fields and hasattr(array, "field"):
        return sum(_values(array.field(number)) for number in range(fields))
    return len(array)


def _check_type(kind: Any, name: str, types: Any, source: str) -> None:
    """Accept only what rows of plain JSON data have: no other type is converted."""
    if types.is_struct(kind) or types.is_list(kind) or types.is_large_list(kind):
        for number in range(kind.num_fields):
            child = kind.field(number)
            _check_type(child.type, f"{name}.{child.name}", types, source)
        return
    plain = (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )
    if not plain:
        raise ChunkFormatError(f"{source}: column '{name}' has the type {kind}, which is not known")
