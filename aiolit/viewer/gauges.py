"""What a running loader does, read from its statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aiolit.cache.ledger import Ledger
from aiolit.errors import CacheError, ConfigError
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.source import ChunkSource


@runtime_checkable
class Watchable(Protocol):
    """What can be watched: a ``StreamingDataLoader``, or a data set that is iterated."""

    def stats(self) -> Mapping[str, Any]:
        """Return figures by name, as JSON-able values."""


class Gauges:
    """The figures of one loader.

    Args:
        loader: What is watched.

    Raises:
        ConfigError: It has no statistics.
    """

    def __init__(self, loader: Watchable) -> None:
        if not isinstance(loader, Watchable):
            raise ConfigError(
                f"a {type(loader).__name__} cannot be watched: give a StreamingDataLoader, or "
                "another object with stats()"
            )
        self._loader = loader
        self.source = _source_of(loader)
        self._caches = _cache_folder(self.source)

    def now(self) -> dict[str, Any]:
        """Return the figures at this moment; this may wait for a file lock: call it in a thread.

        Returns:
            ``seconds`` on a clock of its own, ``stats``, and ``cache`` with the bytes ``used`` in
            the cache folder and its ``limit``, or None.
        """
        stats = self._loader.stats()
        return {"seconds": time.monotonic(), "stats": dict(stats), "cache": self._cache()}

    def _cache(self) -> dict[str, Any] | None:
        if self._caches is None:
            return None
        root, limit = self._caches
        if not any(root.glob("ledger.*")):  # opening the book would make the folder
            return {"used": 0, "limit": limit}
        ledger = Ledger(root)
        try:
            return {"used": ledger.total(), "limit": limit}
        except CacheError:  # somebody removed the folder just now
            return None
        finally:
            ledger.close()


def _source_of(loader: object) -> ChunkSource | None:
    dataset = getattr(loader, "dataset", loader)
    return dataset.source if isinstance(dataset, StreamingDataset) else None


def _cache_folder(source: ChunkSource | None) -> tuple[Path, int | None] | None:
    if source is None or source.location.direct or source.options.in_memory:
        return None
    return source.options.cache.root, source.options.cache.limit
