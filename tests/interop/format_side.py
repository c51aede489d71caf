"""Writing with aiolit's format alone, in this process.

`optimize` starts worker processes: for all the data sets together that takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aiolit.format.builder import ChunkBuilder, chunk_filename, pack_chunk
from aiolit.format.dataset_info import (
    DatasetConfig,
    EncryptionInfo,
    Index,
)
from aiolit.format.encryption_base import Encryption
from aiolit.format.index import dump_index
from aiolit.format.loader import PyTreeLoader, TokensLoader
from aiolit.format.serializers import SerializerRegistry
from tests.interop.interop_cases import Case


def write_format(
    case: Case,
    dataset: Path,
    files: Path,
    options: Mapping[str, Any],
    encryption: Encryption | None,
) -> None:
    """Write a case's samples, in order, as one worker of `optimize` would."""
    dataset.mkdir(parents=True)
    loader: Any = TokensLoader() if case.block_size else PyTreeLoader()
    encoder = loader.encoder(SerializerRegistry(), encryption)
    builder = ChunkBuilder(None, options["chunk_size"], bool(case.block_size))
    compression, level = options.get("compression"), options.get("compression_level")
    items = [encoder.encode(sample) for sample in case.make(files)]
    sealed = list(
        builder.extend(
            np.array([item.nbytes for item in items]),
            memoryview(b"".join(b"".join(item.parts) for item in items)),
            np.array([item.dim for item in items]) if case.block_size else None,
        )
    )
    last = builder.flush()
    chunks = []
    for number, chunk in enumerate([*sealed, *([last] if last else [])]):
        packed = pack_chunk(
            chunk,
            filename=chunk_filename(0, number, compression, level),
            compression=compression,
            compression_level=level,
            encryption=encryption,
            **{k: v for k, v in options.items() if k == "compression_batch_size"},
        )
        (dataset / packed.info.filename).write_bytes(b"".join(packed.parts))
        chunks.append(packed.info)
    config = DatasetConfig(
        compression=compression,
        compression_level=level,
        compression_batch_size=options.get("compression_batch_size"),
        data_format=tuple(encoder.data_format),
        data_spec=encoder.data_spec,
        item_loader=loader.name,
        encryption=EncryptionInfo(algorithm="fernet", level=case.encryption)
        if case.encryption
        else None,
        chunk_size=options["chunk_size"],
    )
    index = Index(chunks=tuple(chunks), config=config, updated_at="1.5", extra={})
    (dataset / "index.json").write_bytes(dump_index(index))
