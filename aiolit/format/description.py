"""What an index says of a data set, as plain values for people and programs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aiolit.errors import ConfigError, DatasetError, IndexFormatError, MissingDependencyError
from aiolit.format.dataset_info import Index, is_mds, loader_name
from aiolit.format.dtypes import TORCH_DTYPE_NAMES, numpy_dtype
from aiolit.format.loader import default_loader
from aiolit.format.serializers.registry import SerializerRegistry
from aiolit.format.tree import TreeSpec


def describe_index(url: str, index: Index) -> dict[str, Any]:
    """Say what an index says, as JSON-able values.

    Args:
        url: Where the data set lies.
        index: Its index.

    Returns:
        ``samples`` (None where their number depends on how they are read), ``items``, ``chunks``,
        ``bytes``, ``loader``, ``compression`` and its level, ``encryption``,
        ``chunks_with_checksums``, ``leaves`` (path, format and meaning of each) and, of a token
        data set, ``tokens``.
    """
    config, chunks = index.config, index.chunks
    with_checksums = sum(
        chunk.checksum_items is not None or chunk.checksum_bytes is not None for chunk in chunks
    )
    encryption = config.encryption
    found: dict[str, Any] = {
        "url": url,
        "samples": _count_samples(url, index),
        "items": sum(chunk.num_items for chunk in chunks),
        "chunks": len(chunks),
        "bytes": sum(chunk.nbytes for chunk in chunks),
        "loader": "MosaicML MDS" if is_mds(config) else loader_name(config),
        "compression": config.compression,
        "compression_level": config.compression_level,
        "encryption": None
        if encryption is None
        else {"algorithm": encryption.algorithm, "level": encryption.level},
        "chunks_with_checksums": with_checksums,
        "leaves": _leaves(url, index),
    }
    if loader_name(config) == "TokensLoader":
        found["tokens"] = sum(chunk.dim or 0 for chunk in chunks)
    return found


def _count_samples(url: str, index: Index) -> int | None:
    registry = SerializerRegistry(None, allow_pickle=False)
    try:
        bound = default_loader(index.config, source=url).bind(index, registry=registry, source=url)
    except (ConfigError, DatasetError, MissingDependencyError):
        return None
    return sum(bound.num_samples(chunk) for chunk in index.chunks)


def _leaves(url: str, index: Index) -> list[dict[str, str]]:
    formats = index.config.data_format
    paths: tuple[str, ...] = ()
    if index.config.data_spec is not None:
        # A container type may be registered only where it was written.
        with suppress(IndexFormatError):
            paths = TreeSpec.from_json(index.config.data_spec, source=url).leaf_paths()
    if len(paths) != len(formats):
        paths = tuple(f"leaf {number}" for number in range(len(formats)))
    return [
        {"path": path, "format": name, "means": _meaning(name)}
        for path, name in zip(paths, formats, strict=True)
    ]


def _meaning(name: str) -> str:
    """Say what the format of a one-dimensional leaf holds."""
    kind, _, number = name.partition(":")
    if not number.isdecimal() or not kind.startswith("no_header"):
        return ""
    if kind == "no_header_numpy":
        dtype = numpy_dtype(int(number))
        return "" if dtype is None else f"array of {dtype}"
    known = int(number) < len(TORCH_DTYPE_NAMES)
    return f"tensor of {TORCH_DTYPE_NAMES[int(number)]}" if known else ""
