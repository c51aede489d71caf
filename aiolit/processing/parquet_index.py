"""``index_parquet_dataset`` and ``index_hf_dataset``: Parquet files as a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError
from aiolit.options import positive
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store, scheme_of
from aiolit.store.kept import write_kept
from aiolit.store.parquet_index import (
    kept_parquet_index,
    parquet_index_bytes,
    parquet_index_folder,
)

INDEX_KEY = "index.json"


def index_parquet_dataset(
    pq_dataset_url: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    num_workers: int = 4,
    *,
    session_options: Mapping[str, Any] | None = None,
) -> None:
    """Write the ``index.json`` with which ``StreamingDataset`` reads a folder of Parquet files.

    Only the footers of the files are read. Folders in the folder count, files are sorted by name.

    Args:
        pq_dataset_url: A path or URL; its last part may be a pattern such as ``*.parquet``.
        cache_dir: Write the index into this folder; by default beside the files, or where that
            cannot be (``hf://``) where ``StreamingDataset`` looks for it.
        storage_options: For the store's client.
        num_workers: Four times so many files are read at the same time.
        session_options: For the store's session.

    Raises:
        ConfigError: An argument cannot work.
        DatasetNotFoundError: There are no Parquet files.
        SchemaError: Two files have not the same columns; the message names both.
        ChunkFormatError: One is no Parquet file.
        StoreError: The store cannot be read or written.
    """
    at_once = 4 * positive(num_workers, name="num_workers")
    url, pattern = _parts(pq_dataset_url)
    store = open_store(url, storage_options=storage_options, session_options=session_options)
    beside = cache_dir is None and scheme_of(url) not in ("hf", "http", "https")

    async def work() -> bytes:
        async with store:
            data = await parquet_index_bytes(store, pattern, at_once=at_once)
            if beside:
                await store.put(INDEX_KEY, data)
            return data

    data = portal().call(work)
    if cache_dir is not None:
        write_kept(Path(cache_dir).expanduser() / INDEX_KEY, data)
    elif not beside:
        write_kept(parquet_index_folder(url, pattern, None) / INDEX_KEY, data)


def index_hf_dataset(
    dataset_url: str,
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Index a data set of the Hugging Face Hub; ``StreamingDataset`` then finds its index.

    An index of the same files that is there already is kept.

    Args:
        dataset_url: ``hf://datasets/owner/name[@revision]/path``, with or without a pattern.
        cache_dir: The folder below which the index is kept; give it to ``StreamingDataset`` too.
        storage_options: ``token`` and others; see ``HuggingFaceStore``.

    Returns:
        The folder of the index, which is also good as ``index_path``.

    Raises:
        ConfigError: The URL is none of the Hub.
        DatasetNotFoundError: There are no Parquet files.
        SchemaError: Two files have not the same columns.
        StoreError: The Hub cannot be read.
    """
    if scheme_of(dataset_url) != "hf":
        raise ConfigError(f"dataset_url must begin with hf://, not {dataset_url!r}")
    url, pattern = _parts(dataset_url)
    root = None if cache_dir is None else Path(cache_dir).expanduser()
    folder = parquet_index_folder(url, pattern, root)
    portal().call(_keep, open_store(url, storage_options=storage_options), pattern, folder)
    return str(folder)


async def _keep(store: Store, pattern: str | None, folder: Path) -> None:
    async with store:
        await kept_parquet_index(store, pattern, folder)


def _parts(place: object) -> tuple[str, str | None]:
    """Split a path or URL from the pattern that may be its last part."""
    if not isinstance(place, str | os.PathLike):  # a Dir
        place = getattr(place, "url", None) or getattr(place, "path", None) or ""
    url = str(os.fspath(place)).rstrip("/") if isinstance(place, str | os.PathLike) else ""
    if not url:
        raise ConfigError("pq_dataset_url must be a path or a URL, and not empty")
    head, _, last = url.rpartition("/")
    if last.endswith(".parquet") and "*" in last:
        return head or ".", last
    return url, None
