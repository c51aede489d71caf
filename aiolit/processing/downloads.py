"""Remote files named by inputs, downloaded ahead of the workers and removed behind them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError
from aiolit.groups import single_error
from aiolit.processing.sources import InputSource
from aiolit.store.base import Store
from aiolit.store.connect import join, open_store, scheme_of
from aiolit.store.connections import bucket_url
from aiolit.store.owned import OwnedFolder
from aiolit.store.threads import run_in_thread

__all__ = ["DownloadingSource", "is_remote_file"]

# Schemes of buckets. Inputs with other URLs (web pages to be scraped) are the function's business.
_BUCKETS = ("s3", "r2", "gs", "azure")
_MAY_NAME = (str, list, tuple, dict)


def is_remote_file(value: object, input_dir: str | None) -> bool:
    """Whether a part of an input names a file in a bucket, below ``input_dir`` if one is given."""
    if not isinstance(value, str) or scheme_of(value) not in _BUCKETS:
        return False
    return input_dir is None or value.startswith(input_dir.rstrip("/") + "/")


class DownloadingSource(InputSource):
    """Inputs in which the names of remote files are replaced by those of local copies.

    The copies lie in a work folder of the job; those of a run go when it is complete, the folder
    when the source is closed. As many files as the runs on their way name are there at once.
    """

    def __init__(
        self,
        source: InputSource,
        *,
        input_dir: str | None,
        num_downloaders: int,
        storage_options: Mapping[str, Any] | None,
        session_options: Mapping[str, Any] | None,
    ) -> None:
        self.total = source.total
        self._source = source
        self._input_dir = input_dir
        self._num_downloaders = num_downloaders
        self._places = asyncio.Semaphore(num_downloaders)
        self._options = storage_options, session_options
        self._stores: dict[str, Store] = {}
        self._folder: OwnedFolder | None = None
        self._numbers = count()

    async def take(self, most: int) -> Sequence[Any]:
        """Return the next inputs, once their files are here."""
        if self._folder is not None:
            most = min(most, 4 * self._num_downloaders)
        block = await self._source.take(most)
        if not any(isinstance(value, _MAY_NAME) for value in block):
            return block
        named = [self._absolute(value) for value in block]
        wanted = [url for value in named for url in _leaves(value) if self._is_wanted(url)]
        if not wanted:
            return block
        copies: dict[str, str] = {}
        if self._folder is None:
            self._folder = await run_in_thread(OwnedFolder, "aiolit-inputs-")
        folder = self._folder.path
        with single_error():
            async with asyncio.TaskGroup() as group:
                for url in dict.fromkeys(wanted):
                    group.create_task(self._download(url, folder, copies))
        return [_replaced(value, copies) for value in named]

    def completed(self, inputs: Sequence[Any]) -> None:
        """Remove the copies that these inputs name."""
        if self._folder is None:
            return
        for path in {leaf for leaf in _leaves(list(inputs)) if isinstance(leaf, str)}:
            if Path(path).parent.parent == self._folder.path:
                shutil.rmtree(Path(path).parent, ignore_errors=True)

    async def close(self) -> None:
        """Remove all copies, and close the stores."""
        await self._source.close()
        for store in self._stores.values():
            await store.aclose()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await run_in_thread(folder.remove)

    def _absolute(self, value: Any) -> Any:
        """Spell an input that is a name relative to a remote ``input_dir`` in full."""
        root = self._input_dir
        if isinstance(value, str) and value.startswith("/teamspace/"):
            with suppress(ConfigError):  # a text that is no file of a connection
                value = bucket_url(value)
        if root is None or scheme_of(root) not in _BUCKETS or not isinstance(value, str):
            return value
        return value if scheme_of(value) or os.path.isabs(value) else join(root, value)

    def _is_wanted(self, value: object) -> bool:
        return is_remote_file(value, self._input_dir)

    async def _download(self, url: str, folder: Path, copies: dict[str, str]) -> None:
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        async with self._places:
            store = self._store(f"{scheme}://{bucket}")
            # Under its own name, in a folder of its own: functions look at names and endings.
            place = folder / str(next(self._numbers))
            await run_in_thread(place.mkdir)
            target = place / key.rpartition("/")[2]
            async with store.stream(key) as pieces:
                with target.open("wb") as file:
                    async for piece in pieces:
                        await run_in_thread(file.write, piece)
        copies[url] = str(target)

    def _store(self, root: str) -> Store:
        if root not in self._stores:
            storage_options, session_options = self._options
            self._stores[root] = open_store(
                root, storage_options=storage_options, session_options=session_options
            )
        return self._stores[root]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    else:
        yield value


def _replaced(value: Any, copies: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return copies.get(value, value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(each, copies) for each in value)
    if type(value) is dict:
        return {key: _replaced(each, copies) for key, each in value.items()}
    return value
