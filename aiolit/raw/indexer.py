"""How the files of a raw data set are found, and ``FileMetadata``; the documented place of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from aiolit.errors import ConfigError
from aiolit.raw.items import FileMetadata
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store

__all__ = ["BaseIndexer", "FileIndexer", "FileMetadata"]


class BaseIndexer(ABC):
    """Finds the files of a raw data set.

    What one of your own finds is kept in the cache folder, by the name of its class, until
    ``recompute_index=True``.
    """

    @abstractmethod
    def discover_files(
        self, input_dir: str, storage_options: Mapping[str, Any] | None = None
    ) -> list[FileMetadata]:
        """Return the files of a data set; called in a thread.

        Args:
            input_dir: The folder, as an absolute path or a URL without a slash at its end. Every
                path returned must begin with it.
            storage_options: For the client of a cloud's store.
        """


class FileIndexer(BaseIndexer):
    """Lists a folder of any store, with all folders in it, in the order of the paths.

    Args:
        max_depth: How many folders deep files may lie; None is as deep as they do.
        extensions: Only files that end so, such as ``[".jpg", ".png"]``; case does not matter.
    """

    def __init__(
        self, max_depth: int | None = None, extensions: Sequence[str] | None = None
    ) -> None:
        if max_depth is not None and (isinstance(max_depth, bool) or max_depth < 1):
            raise ConfigError(f"max_depth must be a number above 0 or None, not {max_depth!r}")
        if isinstance(extensions, str):
            raise ConfigError(f"extensions must be a list of texts, not {extensions!r}")
        self.max_depth = max_depth
        self.extensions = tuple(one.lower() for one in extensions or ())

    def discover_files(
        self, input_dir: str, storage_options: Mapping[str, Any] | None = None
    ) -> list[FileMetadata]:
        """Return the files of a folder."""

        async def listing() -> list[FileMetadata]:
            async with open_store(input_dir, storage_options=storage_options) as store:
                return await list_files(store, input_dir)

        return self.choose(input_dir, portal().call(listing))

    def choose(self, input_dir: str, files: list[FileMetadata]) -> list[FileMetadata]:
        """Return those of a folder's files that this indexer wants."""
        if self.max_depth is None and not self.extensions:
            return files
        prefix, deepest = input_dir.rstrip("/") + "/", self.max_depth
        return [
            file
            for file in files
            if (deepest is None or file.path.removeprefix(prefix).count("/") < deepest)
            and (not self.extensions or file.path.lower().endswith(self.extensions))
        ]


async def list_files(store: Store, root: str) -> list[FileMetadata]:
    """Return all objects of a store as files below ``root``, sorted by path."""
    prefix = root.rstrip("/") + "/"
    return [FileMetadata(prefix + info.key, info.size) async for info in store.list()]
