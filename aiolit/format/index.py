"""``index.json``: parsing it with distrust, writing it as LitData writes it."""

from __future__ import annotations

import json
import re
from typing import Any

from aiolit.errors import ConfigError
from aiolit.format.dataset_info import (
    ChunkInfo,
    DatasetConfig,
    EncryptionInfo,
    Index,
    index_rank_order,
    is_mds,
    is_whole_compressed,
    loader_name,
    plain_name,
    stored_name,
    whole_file_codec,
)
from aiolit.format.fields import LARGEST, Fields, name_problem, parse_object
from aiolit.format.mds_index import adapt_mds_index

__all__ = [
    "ChunkInfo",
    "DatasetConfig",
    "EncryptionInfo",
    "Index",
    "dump_index",
    "index_rank_order",
    "is_mds",
    "is_whole_compressed",
    "loader_name",
    "parse_index",
    "plain_name",
    "stored_name",
    "whole_file_codec",
]

# Chunks count items and bytes in 32 bits; only parquet files hold more. The larger limit on bytes
# leaves room for what lies behind the items and for the growth of encrypted text.
MOST_ITEMS = 2**32 - 1
MOST_BYTES = 2**34

_TOP = frozenset({"chunks", "config", "updated_at"})
_CHUNK = frozenset(
    {"filename", "chunk_size", "chunk_bytes", "dim", "checksum_items", "checksum_bytes"}
)
_CONFIG = frozenset(
    {
        "compression",
        "data_format",
        "data_spec",
        "item_loader",
        "encryption",
        "chunk_size",
        "chunk_bytes",
    }
)
_COMPRESSION = re.compile(r"zstd(?::([1-9]|1[0-9]|2[0-2]))?")


def parse_index(data: bytes, *, source: str) -> Index:
    """Parse the bytes of ``index.json``, of LitData (any version) or of MosaicML MDS.

    Args:
        data: The bytes of the file.
        source: What to call the file in messages: its path or URL.

    Returns:
        The data set. For MDS shards ``config.extra["format"]`` is ``"mds"``.

    Raises:
        IndexFormatError: The file is truncated or garbled, a field is missing or of the wrong type,
            a size is impossible, or a file name leaves the folder. The message names the field.
    """
    top = parse_object(data, source=source)
    if "chunks" not in top and "shards" in top:
        return adapt_mds_index(top)
    chunks = list(top.objects("chunks"))
    config_fields = top.optional_object("config")
    if config_fields is None:
        if chunks:
            top.refuse("config", "is missing although there are chunks")
        config = DatasetConfig()
    else:
        config = _parse_config(config_fields)
    parquet = loader_name(config) == "ParquetLoader"
    return Index(
        chunks=tuple(_parse_chunk(fields, parquet=parquet) for fields in chunks),
        config=config,
        updated_at=_parse_updated_at(top),
        extra=top.rest(_TOP),
    )


def dump_index(index: Index) -> bytes:
    """Write ``index.json`` byte for byte as LitData's writer does: sorted keys, one line.

    The config has exactly the keys of LitData 0.2.58, so that it may append to the data set; those
    of 0.2.74 come with framed compression, or from an index that had them.

    Raises:
        ConfigError: The index is one of MDS shards, which are only read.
    """
    if is_mds(index.config):
        raise ConfigError("an index of MDS shards can be read but not written")
    top: dict[str, Any] = {
        "chunks": [_dump_chunk(chunk) for chunk in index.chunks],
        "config": _dump_config(index.config),
        **index.extra,
    }
    if index.updated_at is not None:
        top["updated_at"] = index.updated_at
    return json.dumps(top, sort_keys=True).encode("ascii")


def _parse_updated_at(top: Fields) -> str | None:
    text = top.optional_text("updated_at")
    # Caches are wont to name a folder by it.
    if text is not None and (name_problem(text) is not None or "/" in text):
        top.refuse("updated_at", f"must be a time, not {text[:80]!r}")
    return text


def _parse_chunk(fields: Fields, *, parquet: bool) -> ChunkInfo:
    filename = fields.file_name("filename")
    num_items = fields.integer("chunk_size", high=2**48 if parquet else MOST_ITEMS)
    nbytes = fields.integer("chunk_bytes", high=LARGEST if parquet else MOST_BYTES)
    if not parquet and nbytes < 4 * (num_items + 2):
        # Every layout spends 4 bytes an item on its offset table, under a cipher too.
        fields.refuse("chunk_size", f"says {num_items} items, too many for {nbytes} bytes")
    return ChunkInfo(
        filename=filename,
        num_items=num_items,
        nbytes=nbytes,
        dim=fields.optional_integer("dim"),
        checksum_items=fields.optional_integer("checksum_items", low=1, high=2**20),
        checksum_bytes=fields.optional_integer("checksum_bytes", low=512, high=2**30),
        extra=fields.rest(_CHUNK),
    )


def _parse_config(fields: Fields) -> DatasetConfig:
    compression = _parse_compression(fields)
    if fields.values.get("format") == "mds":
        fields.refuse("format", "cannot be 'mds' beside chunks")
    level = fields.optional_text("compression_level")
    if level not in (None, "batch", "sample", "chunk"):
        fields.refuse("compression_level", f"must be 'batch', 'sample' or null, not {level!r}")
    known = set(_CONFIG)
    # Null keys of newer writers stay in `extra`, so that dump_index writes the same key set again.
    known.update(
        key
        for key in ("compression_level", "compression_batch_size")
        if fields.values.get(key) is not None
    )
    return DatasetConfig(
        compression=compression,
        compression_level=level if level != "chunk" else None,
        compression_batch_size=fields.optional_integer("compression_batch_size", low=1),
        data_format=_parse_data_format(fields),
        data_spec=_parse_data_spec(fields),
        item_loader=fields.optional_text("item_loader"),
        encryption=_parse_encryption(fields),
        chunk_size=fields.optional_integer("chunk_size"),
        chunk_bytes=fields.optional_integer("chunk_bytes"),
        extra=fields.rest(frozenset(known)),
    )


def _parse_compression(fields: Fields) -> str | None:
    fields.required("compression")
    compression = fields.optional_text("compression")
    if compression is not None and not _COMPRESSION.fullmatch(compression):
        fields.refuse(
            "compression", f"must be 'zstd' or 'zstd:N' with N from 1 to 22, not {compression!r}"
        )
    return compression


def _parse_data_format(fields: Fields) -> tuple[str, ...]:
    return () if fields.required("data_format") is None else fields.texts("data_format")


def _parse_data_spec(fields: Fields) -> str | None:
    fields.required("data_spec")
    return fields.optional_text("data_spec")


def _parse_encryption(fields: Fields) -> EncryptionInfo | None:
    encryption = fields.optional_object("encryption")
    if encryption is None:
        return None
    level = encryption.text("level")
    if level not in ("sample", "chunk"):
        encryption.refuse("level", f"must be 'sample' or 'chunk', not {level!r}")
    return EncryptionInfo(algorithm=encryption.text("algorithm"), level=level)


def _dump_chunk(chunk: ChunkInfo) -> dict[str, Any]:
    fields: dict[str, Any] = {
        **chunk.extra,
        "filename": chunk.filename,
        "chunk_size": chunk.num_items,
        "chunk_bytes": chunk.nbytes,
        "dim": chunk.dim,
    }
    if chunk.checksum_items is not None:
        fields["checksum_items"] = chunk.checksum_items
    if chunk.checksum_bytes is not None:
        fields["checksum_bytes"] = chunk.checksum_bytes
    return fields


def _dump_config(config: DatasetConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "compression": config.compression,
        "chunk_size": config.chunk_size,
        "chunk_bytes": config.chunk_bytes,
        "data_format": list(config.data_format),
        "data_spec": config.data_spec,
        "encryption": None,
    }
    if config.item_loader is not None:
        fields["item_loader"] = config.item_loader
    if config.encryption is not None:
        info = config.encryption
        fields["encryption"] = {"algorithm": info.algorithm, "level": info.level}
    if config.compression_level is not None:
        fields.update({"ipc_compression": None, "types": None, **config.extra})
        fields["compression_level"] = config.compression_level
        fields["compression_batch_size"] = config.compression_batch_size
    else:
        fields.update(config.extra)
    return fields
