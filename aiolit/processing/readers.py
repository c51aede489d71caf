"""Readers: what turns inputs into others that are easier to share out, and reads them in workers.

``optimize(fn, inputs=["a.parquet", ...], reader=ParquetReader())`` calls ``fn`` with Arrow tables.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiolit.errors import ConfigError
from aiolit.format.optional import require
from aiolit.format.parquet import ParquetFooter
from aiolit.groups import single_error
from aiolit.options import positive
from aiolit.plan.coalesce import coalesce, split
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.store.parquet_index import read_footer
from aiolit.store.threads import run_in_thread

__all__ = ["BaseReader", "ParquetReader", "RowGroups"]

_AT_ONCE = 16  # footers read at the same time
_GAP_BYTES = 64 << 10  # bytes fetched for nothing rather than asking twice
_PART_BYTES = 8 << 20  # larger spans are fetched in parallel parts
_FOOTERS = 16  # parsed footers a worker keeps


class BaseReader(ABC):
    """What ``reader=`` of `optimize` and `map` takes; any object with these methods will do."""

    @abstractmethod
    def remap_items(self, items: list[Any], num_workers: int) -> list[Any]:
        """Return what is handed to the workers in place of the inputs; called once, at first."""

    @abstractmethod
    def read(self, item: Any) -> Any:
        """Return what ``fn`` gets for an item; called in the workers."""


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Row groups ``first`` to ``stop`` (exclusive) of a Parquet file, with so many rows."""

    url: str
    first: int
    stop: int
    num_rows: int


# A footer, and the version of the file it is of.
_Opened = tuple[ParquetFooter, str | None]


class ParquetReader(BaseReader):
    """Gives ``fn`` the rows of Parquet files in Arrow tables; needs ``pyarrow``.

    The inputs are the paths or URLs of the files, on any store. Of each only the footer is read at
    first; a worker then fetches the row groups it works on, and of those the columns that are
    wanted. Nothing is downloaded whole or written again.

    Args:
        cache_folder: Not needed, as no file is cut into smaller ones first.
        num_rows: Rows in a table at most, about: row groups are put together up to this number, and
            not divided. None is a whole file.
        to_pandas: Give data frames (needs ``pandas``) instead of Arrow tables.
        columns: The columns to read, in this order; None is all of them.
        filters: Rows to keep, as for ``pyarrow.parquet.read_table``: ``[("age", ">", 3)]``.
        storage_options: Options of the stores' clients.
        session_options: Options of the stores' sessions.

    Raises:
        ConfigError: An argument cannot work.
    """

    def __init__(
        self,
        cache_folder: str | os.PathLike[str] | None = None,
        num_rows: int | None = 65536,
        to_pandas: bool = False,
        *,
        columns: Sequence[str] | None = None,
        filters: Any = None,
        storage_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_rows = None if num_rows is None else positive(num_rows, name="num_rows")
        if isinstance(columns, str):
            raise ConfigError(f"columns must be a list of names, not {columns!r}")
        self.to_pandas = to_pandas
        self.columns = None if columns is None else list(columns)
        self.filters = filters
        self._options = storage_options, session_options
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    def remap_items(self, items: list[Any], num_workers: int) -> list[RowGroups]:
        """Return the row groups of all files, in their order, in parts of about ``num_rows``.

        Raises:
            ConfigError: An input is no path or URL, or a column is not there.
            StoreError: A file cannot be read.
            ChunkFormatError: One is no Parquet file.
        """
        urls = [_checked(item) for item in items]
        footers = portal().call(self._all_footers, urls)
        parts = [
            part
            for url, footer in zip(urls, footers, strict=True)
            for part in _parts(url, footer.rows, self.num_rows)
        ]
        if items and not parts:
            raise ConfigError("the Parquet files have no rows")
        return parts

    def read(self, item: RowGroups | Sequence[RowGroups]) -> Any:
        """Return the rows of an item, or of several after each other, as one table."""
        parts = [item] if isinstance(item, RowGroups) else list(item)
        arrow = _pyarrow()
        tables = [table for part in parts for table in portal().call(self._tables, part)]
        table = arrow.concat_tables(tables)
        if self.filters is not None:
            from pyarrow.parquet import filters_to_expression  # heavy: with pyarrow

            table = table.filter(filters_to_expression(self.filters))
        if self.to_pandas:
            require("pandas", "pandas", "to_pandas=True")
            return table.to_pandas()
        return table

    async def _all_footers(self, urls: Sequence[str]) -> list[ParquetFooter]:
        places = asyncio.Semaphore(_AT_ONCE)

        async def footer(url: str) -> ParquetFooter:
            async with places:
                root, key = _split(url)
                async with self._store(root) as store:
                    return (await self._open(store, key))[0]

        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(footer(url)) for url in urls]
        return [task.result() for task in tasks]

    async def _tables(self, part: RowGroups) -> list[Any]:
        root, key = _split(part.url)
        async with self._store(root) as store:
            opened = self._opened.get(part.url)
            if opened is None:
                opened = self._opened[part.url] = await self._open(store, key)
                if len(self._opened) > _FOOTERS:
                    self._opened.popitem(last=False)
            return [
                await self._table(store, key, opened, number)
                for number in range(part.first, part.stop)
            ]

    async def _table(self, store: Store, key: str, opened: _Opened, number: int) -> Any:
        footer, etag = opened
        spans = coalesce(footer.ranges(number), max_gap=_GAP_BYTES, max_bytes=1 << 62)
        extents = [(span.start, memoryview(bytearray(span.end - span.start))) for span in spans]
        with single_error():
            async with asyncio.TaskGroup() as group_of_parts:
                for base, data in extents:
                    for start, stop in split(0, len(data), _PART_BYTES):
                        fetch = store.read_into(key, base + start, data[start:stop], etag=etag)
                        group_of_parts.create_task(fetch)
        return await run_in_thread(footer.decode, number, extents)

    async def _open(self, store: Store, key: str) -> _Opened:
        info = await store.head(key)
        return await read_footer(store, info, self.columns), info.etag

    def _store(self, root: str) -> Store:
        storage_options, session_options = self._options
        return open_store(root, storage_options=storage_options, session_options=session_options)

    def __getstate__(self) -> dict[str, Any]:
        # Footers are not sent: each worker reads those of its own files.
        return {**self.__dict__, "_opened": OrderedDict()}


def _parts(url: str, rows: Sequence[int], num_rows: int | None) -> Iterator[RowGroups]:
    """Put neighbouring row groups together up to ``num_rows`` rows; those without rows drop out."""
    first, held = 0, 0
    for group, count in enumerate(rows):
        if held and num_rows is not None and held + count > num_rows:
            yield RowGroups(url, first, group, held)
            first, held = group, 0
        held += count
    if held:
        yield RowGroups(url, first, len(rows), held)


def _checked(item: object) -> str:
    if not isinstance(item, str | os.PathLike) or not os.fspath(item):
        raise ConfigError(f"ParquetReader needs paths or URLs of Parquet files, not {item!r}")
    return str(os.fspath(item))


def _split(url: str) -> tuple[str, str]:
    folder, _, name = url.rpartition("/")
    if not folder:
        folder = "/" if url.startswith("/") else "."
    return folder, name


def _pyarrow() -> Any:
    return require("pyarrow", "aiolit[parquet]", "reading Parquet")
