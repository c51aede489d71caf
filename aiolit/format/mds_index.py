"""The index of MosaicML MDS shards, told in the words of ours."""

from __future__ import annotations

import json

from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index
from aiolit.format.fields import Fields

_LEAF: dict[str, object] = {"type": None, "context": None, "children_spec": []}


def adapt_mds_index(top: Fields) -> Index:
    """Turn an index with ``shards`` into an ``Index`` whose chunks are the shards.

    Compressed shards keep both names (``filename`` is the compressed one); ``nbytes`` is always the
    length once decompressed. The columns of each shard are in ``chunk.extra``.

    Raises:
        IndexFormatError: A field is missing, of the wrong type, or differs between shards.
    """
    chunks: list[ChunkInfo] = []
    for shard in top.objects("shards"):
        if shard.optional_text("format") not in (None, "mds"):
            shard.refuse("format", f"must be 'mds', not {shard.text('format')!r}")
        chunks.append(_adapt_shard(shard))
        for key in ("column_names", "column_encodings", "column_sizes"):
            if chunks[-1].extra[key] != chunks[0].extra[key]:
                shard.refuse(key, "differs from that of the first shard")
    names = tuple(chunks[0].extra["column_names"]) if chunks else ()
    spec = {
        "type": "builtins.dict",
        "context": json.dumps(names),
        "children_spec": [_LEAF] * len(names),
    }
    return Index(
        chunks=tuple(chunks),
        config=DatasetConfig(
            compression=chunks[0].extra["compression"] if chunks else None,
            data_format=tuple(chunks[0].extra["column_encodings"]) if chunks else (),
            data_spec=json.dumps([1, spec]),
            item_loader="PyTreeLoader",
            chunk_size=sum(chunk.num_items for chunk in chunks),
            chunk_bytes=sum(chunk.nbytes for chunk in chunks),
            extra={"format": "mds"},
        ),
        extra=top.rest(frozenset({"shards"})),
    )


def _adapt_shard(shard: Fields) -> ChunkInfo:
    raw = shard.object("raw_data")
    zipped = shard.optional_object("zip_data")
    names = shard.texts("column_names")
    encodings = shard.texts("column_encodings")
    sizes = shard.array("column_sizes")
    if not len(names) == len(encodings) == len(sizes) == len(set(names)):
        shard.refuse("column_names", "must be unique, each with one encoding and one size")
    for n, size in enumerate(sizes):
        if size is not None and (type(size) is not int or not 0 <= size < 2**32):
            shard.refuse(f"column_sizes[{n}]", f"must be a size in bytes or null, not {size!r}")
    compression = shard.optional_text("compression")
    if (compression is None) != (zipped is None):
        shard.refuse("zip_data", "and 'compression' must both be there or both be null")
    num_items = shard.integer("samples", high=2**32 - 1)
    nbytes = raw.integer("bytes", high=2**34)
    if nbytes < 4 * (num_items + 2):
        shard.refuse("samples", f"says {num_items}, too many for {nbytes} bytes")
    raw_filename = raw.file_name("basename")
    return ChunkInfo(
        filename=raw_filename if zipped is None else zipped.file_name("basename"),
        num_items=num_items,
        nbytes=nbytes,
        extra={
            "raw_filename": raw_filename,
            "compression": compression,
            "column_names": list(names),
            "column_encodings": list(encodings),
            "column_sizes": list(sizes),
        },
    )
