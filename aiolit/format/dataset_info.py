"""What ``index.json`` says about a data set, as values; and the names under which chunks lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInfo:
    """One chunk file.

    Attributes:
        filename: Its name in the data set's folder, as stored.
        num_items: How many items it holds.
        nbytes: Its length before whole-file compression, after everything else.
        dim: Tokens in the chunk (token data sets only).
        checksum_items: Items per CRC block of its checksum footer; None where it has none.
        checksum_bytes: Bytes per CRC block (token data sets, read without regard to items).
        extra: Other fields of the chunk object, as they were.
    """

    filename: str
    num_items: int
    nbytes: int
    dim: int | None = None
    checksum_items: int | None = None
    checksum_bytes: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionInfo:
    """How a data set is encrypted: ``level`` is ``"sample"`` or ``"chunk"``."""

    algorithm: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """What holds for all chunks of a data set.

    Attributes:
        compression: ``"zstd"`` or ``"zstd:N"``, or None.
        compression_level: The granularity: None (whole files), ``"batch"`` or ``"sample"``.
        compression_batch_size: Items per frame of ``"batch"``.
        data_format: The serializer of each leaf.
        data_spec: The tree of a sample, as JSON text.
        item_loader: Name of the loader's class; very old indexes lack it (see ``loader_name``).
        encryption: How items or chunks are encrypted, or None.
        chunk_size: The writer's limit in items (or tokens).
        chunk_bytes: The writer's limit in bytes.
        extra: Other fields of the config object, as they were.
    """

    compression: str | None = None
    compression_level: str | None = None
    compression_batch_size: int | None = None
    data_format: tuple[str, ...] = ()
    data_spec: str | None = None
    item_loader: str | None = None
    encryption: EncryptionInfo | None = None
    chunk_size: int | None = None
    chunk_bytes: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A data set: its chunks in the order of its samples, and what holds for all of them."""

    chunks: tuple[ChunkInfo, ...]
    config: DatasetConfig
    updated_at: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def loader_name(config: DatasetConfig) -> str:
    """Name the class of the item loader; indexes too old to say so are told by their leaves."""
    if config.item_loader is not None:
        return config.item_loader
    formats = config.data_format
    if len(formats) == 1 and formats[0].startswith("no_header_tensor"):
        return "TokensLoader"
    return "PyTreeLoader"


def is_mds(config: DatasetConfig) -> bool:
    """Tell whether the data set is made of MosaicML MDS shards."""
    return config.extra.get("format") == "mds"


def stored_name(chunk: ChunkInfo, config: DatasetConfig) -> str:
    """Name the file as the writer stored it."""
    return chunk.filename


def plain_name(chunk: ChunkInfo, config: DatasetConfig) -> str:
    """Name the file once its whole-file compression is undone.

    LitData replaces compressed files of a local data set by plain ones under this name, so it is
    the second place to look.
    """
    if not is_whole_compressed(chunk, config):
        return chunk.filename
    if is_mds(config):
        return str(chunk.extra["raw_filename"])
    return chunk.filename.replace(f".{config.compression}", "", 1)


def is_whole_compressed(chunk: ChunkInfo, config: DatasetConfig) -> bool:
    """Tell whether the file under its stored name is compressed as a whole."""
    if is_mds(config):
        return chunk.extra.get("compression") is not None
    return config.compression is not None and f".{config.compression}" in chunk.filename


def whole_file_codec(chunk: ChunkInfo, config: DatasetConfig) -> str:
    """Name the codec of a file that is compressed as a whole, such as ``"zstd"`` or ``"gz"``."""
    name = chunk.extra.get("compression") if is_mds(config) else config.compression
    return str(name).split(":", 1)[0]


def index_rank_order(names: Iterable[str]) -> list[str]:
    """Sort names by the numbers in them: ``2.index.json`` comes before ``10.index.json``."""
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts], name
