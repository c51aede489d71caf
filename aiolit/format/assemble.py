"""A whole data set in memory: what a writer does, without files, workers or uploads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aiolit.format.builder import ChunkBuilder, SealedChunk, chunk_filename, pack_chunk
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, EncryptionInfo, Index
from aiolit.format.encryption_base import Encryption
from aiolit.format.framed import DEFAULT_BATCH
from aiolit.format.loader_base import ItemLoader
from aiolit.format.pytree import PyTreeLoader
from aiolit.format.serializers import Serializer, SerializerRegistry
from aiolit.format.tokens import TokensLoader


def assemble(
    samples: Iterable[Any],
    *,
    chunk_bytes: int | None = None,
    chunk_size: int | None = None,
    item_loader: ItemLoader | None = None,
    serializers: Mapping[str, Serializer] | None = None,
    compression: str | None = None,
    compression_level: str | None = None,
    compression_batch_size: int = DEFAULT_BATCH,
    encryption: Encryption | None = None,
) -> tuple[Index, dict[str, bytes]]:
    """Write samples as a data set and return its index and its chunk files by name.

    Args:
        samples: The samples, in order; at least one.
        chunk_bytes: The most bytes of items in a chunk.
        chunk_size: The most items (or tokens) in a chunk.
        item_loader: The layout; by default ``PyTreeLoader``.
        serializers: Serializers of the user's own.
        compression: As for ``pack_chunk``.
        compression_level: As for ``pack_chunk``.
        compression_batch_size: As for ``pack_chunk``.
        encryption: Encrypts items or chunks, by its level.

    Raises:
        ConfigError: The options do not go together.
        SchemaError: A sample does not fit the first one, or there is none.
    """
    loader = item_loader or PyTreeLoader()
    encoder = loader.encoder(SerializerRegistry(serializers), encryption)
    items = [encoder.encode(sample) for sample in samples]
    builder = ChunkBuilder(chunk_bytes, chunk_size, isinstance(loader, TokensLoader))
    sizes = np.array([item.nbytes for item in items], dtype=np.int64)
    dims = np.array([item.dim or 0 for item in items], dtype=np.int64)
    payload = memoryview(b"".join(part for item in items for part in item.parts))
    sealed: list[SealedChunk] = list(builder.extend(sizes, payload, dims))
    if (last := builder.flush()) is not None:
        sealed.append(last)
    infos: list[ChunkInfo] = []
    files: dict[str, bytes] = {}
    for number, chunk in enumerate(sealed):
        packed = pack_chunk(
            chunk,
            filename=chunk_filename(0, number, compression, compression_level),
            compression=compression,
            compression_level=compression_level,
            compression_batch_size=compression_batch_size,
            encryption=encryption,
        )
        infos.append(packed.info)
        files[packed.info.filename] = b"".join(packed.parts)
    framed = compression is not None and compression_level == "batch"
    config = DatasetConfig(
        compression=compression,
        compression_level="batch" if framed else None,
        compression_batch_size=compression_batch_size if framed else None,
        data_format=tuple(encoder.data_format),
        data_spec=encoder.data_spec,
        item_loader=loader.name,
        encryption=None
        if encryption is None
        else EncryptionInfo(algorithm=encryption.algorithm, level=encryption.level),
        chunk_size=chunk_size,
        chunk_bytes=chunk_bytes,
    )
    return Index(chunks=tuple(infos), config=config), files
