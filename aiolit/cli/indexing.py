"""``aiolit index``: the list with which files are streamed as they lie."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.cli.reading import INDEX_KEY, fetch_index
from aiolit.errors import ConfigError
from aiolit.format.index import parse_index
from aiolit.processing.parquet_index import index_hf_dataset, index_parquet_dataset
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.runtime.portal import portal
from aiolit.store.connect import is_remote, local_path, open_store, scheme_of
from aiolit.store.parquet_index import parquet_index_folder
from aiolit.streaming.resolver import resolve
from aiolit.units import format_size

_PROBED = 1000  # names that tell what a folder holds


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``writing_parser``."""
    kind = args.kind or portal().call(_kind, args)
    if kind == "parquet":
        _index_parquet(args, console)
    else:
        _index_raw(args, console)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "storage_options": storage_options(args.storage_option),
        "session_options": storage_options(args.session_option),
    }


async def _kind(args: argparse.Namespace) -> str:
    location = resolve(args.url)
    if location.pattern is not None:
        return "parquet"
    if not is_remote(location.url) and not local_path(location.url).is_dir():
        is_file = local_path(location.url).exists()
        raise ConfigError(f"{location.url} is {'a file' if is_file else 'not there'}, no folder")
    seen = 0
    async with (
        open_store(location.url, **_options(args)) as store,
        aclosing(store.list()) as listing,
    ):
        async for info in listing:
            seen += 1
            if info.key.endswith(".parquet"):
                return "parquet"
            if seen == _PROBED:
                break
    if not seen:
        raise ConfigError(f"there are no files in {location.url}")
    return "raw"


def _index_parquet(args: argparse.Namespace, console: Console) -> None:
    location, options = resolve(args.url), _options(args)
    folder = None if args.cache_dir is None else Path(args.cache_dir).expanduser()
    if scheme_of(location.url) == "hf":
        place = index_hf_dataset(args.url, folder, options["storage_options"])
    else:
        index_parquet_dataset(args.url, folder, **options)
        place = location.url if folder is None else str(folder)
        if folder is None and scheme_of(location.url) in ("http", "https"):
            place = str(parquet_index_folder(location.url, location.pattern, None))
    if place == location.url:
        index = portal().call(
            fetch_index, resolve(place), options["storage_options"], options["session_options"]
        )
    else:
        path = Path(place) / INDEX_KEY
        index = parse_index(path.read_bytes(), source=str(path))
    rows = sum(chunk.num_items for chunk in index.chunks)
    nbytes = sum(chunk.nbytes for chunk in index.chunks)
    console.result(
        {
            "url": location.url,
            "kind": "parquet",
            "files": len(index.chunks),
            "rows": rows,
            "bytes": nbytes,
            "columns": list(index.config.data_format),
            "index": f"{place}/{INDEX_KEY}",
        },
        [
            f"{location.url}: {len(index.chunks):,} Parquet files, {rows:,} rows, "
            f"{format_size(nbytes)}",
            f"  indexed in {place}/{INDEX_KEY}",
        ],
    )


def _index_raw(args: argparse.Namespace, console: Console) -> None:
    dataset = StreamingRawDataset(
        args.url, cache_dir=args.cache_dir, recompute_index=True, **_options(args)
    )
    nbytes = sum(file.size for file in dataset.files)
    url = dataset.input_dir
    where = "beside the files, where that is allowed, and on this host"
    console.result(
        {"url": url, "kind": "raw", "files": len(dataset.files), "bytes": nbytes},
        [
            f"{url}: {len(dataset.files):,} files, {format_size(nbytes)}",
            f"  listed {where if is_remote(url) else 'on this host'}",
        ],
    )
