"""What aiolit does in the interoperability tests, on the layer of the format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aiolit.format.builder import ChunkBuilder, chunk_filename, pack_chunk
from aiolit.format.compression import decompress_whole
from aiolit.format.dataset_info import (
    DatasetConfig,
    EncryptionInfo,
    Index,
    is_whole_compressed,
)
from aiolit.format.encryption import FernetEncryption
from aiolit.format.index import dump_index, parse_index
from aiolit.format.loader import PyTreeLoader, TokensLoader
from aiolit.format.serializers import SerializerRegistry
from tests.interop.interop_cases import CHUNK_ITEMS, PASSWORD, Case


def key_file(dataset: Path) -> Path:
    return dataset.with_name(dataset.name + ".fernet.json")


def write(case: Case, dataset: Path, files: Path) -> None:
    dataset.mkdir(parents=True)
    options: dict[str, Any] = {"chunk_size": CHUNK_ITEMS, **case.options}
    encryption = None
    if case.encryption:
        encryption = FernetEncryption(PASSWORD, case.encryption)
        encryption.save(key_file(dataset))
    loader: Any = TokensLoader() if case.block_size else PyTreeLoader()
    encoder = loader.encoder(SerializerRegistry(), encryption)
    builder = ChunkBuilder(None, options["chunk_size"], bool(case.block_size))
    compression, level = options.get("compression"), options.get("compression_level")
    with warnings.catch_warnings():
        if case.pickles:
            warnings.filterwarnings("ignore", message=".* is pickled")
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


def read(case: Case, dataset: Path) -> list[Any]:
    index = parse_index((dataset / "index.json").read_bytes(), source=str(dataset))
    encryption = None
    if index.config.encryption:
        encryption = FernetEncryption.load(key_file(dataset), PASSWORD)
    loader: Any = TokensLoader(block_size=case.block_size) if case.block_size else PyTreeLoader()
    bound = loader.bind(
        index, registry=SerializerRegistry(), source=str(dataset), encryption=encryption
    )
    samples = []
    for chunk in index.chunks:
        data = (dataset / chunk.filename).read_bytes()
        if is_whole_compressed(chunk, index.config):
            data = decompress_whole(data, expected_nbytes=chunk.nbytes, source=chunk.filename)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*plain text")
            reader = bound.open(memoryview(data), chunk, chunk.filename)
            samples += reader.samples(range(bound.num_samples(chunk)))
    return samples
