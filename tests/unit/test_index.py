"""index.json: parsed with distrust, written as LitData writes it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ConfigError, IndexFormatError
from aiolit.format.fields import name_problem
from aiolit.format.index import (
    ChunkInfo,
    DatasetConfig,
    EncryptionInfo,
    Index,
    dump_index,
    index_rank_order,
    is_whole_compressed,
    loader_name,
    parse_index,
    plain_name,
    stored_name,
)

LEAF = '[1, {"type": null, "context": null, "children_spec": []}]'


def chunk(**changes: Any) -> dict[str, Any]:
    fields = {"chunk_bytes": 40, "chunk_size": 2, "dim": None, "filename": "chunk-0-0.bin"}
    return {**fields, **changes}


def config(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "chunk_bytes": 64000000,
        "chunk_size": None,
        "compression": None,
        "data_format": ["int"],
        "data_spec": LEAF,
        "encryption": None,
        "item_loader": "PyTreeLoader",
    }
    return {**fields, **changes}


def index_bytes(chunks: list[Any] | None = None, **changes: Any) -> bytes:
    top = {"chunks": [chunk()] if chunks is None else chunks, "config": config(), **changes}
    return json.dumps(top, sort_keys=True).encode()


def parse(data: bytes) -> Index:
    return parse_index(data, source="s3://bucket/index.json")


def refusal(data: bytes) -> str:
    with pytest.raises(IndexFormatError) as caught:
        parse(data)
    assert str(caught.value).startswith("s3://bucket/index.json: ")
    return str(caught.value)


def test_reads_what_litdata_0_2_58_writes() -> None:
    index = parse(index_bytes(updated_at="1795382659.898818"))
    assert index.updated_at == "1795382659.898818"
    assert index.chunks == (ChunkInfo(filename="chunk-0-0.bin", num_items=2, nbytes=40),)
    assert index.config == DatasetConfig(
        data_format=("int",),
        data_spec=LEAF,
        item_loader="PyTreeLoader",
        chunk_bytes=64000000,
    )


G3 = {"compression_level": None, "compression_batch_size": None, "ipc_compression": None}


@pytest.mark.parametrize(
    "data",
    [
        index_bytes(),
        index_bytes(updated_at="1.5"),
        index_bytes(config=config(**G3, types={"a": "int"})),
        index_bytes(config=config(**{**G3, "types": None, "ipc_compression": "zstd"})),
        index_bytes(
            config=config(
                compression="zstd",
                compression_level="batch",
                compression_batch_size=256,
                ipc_compression=None,
                types=None,
            )
        ),
        index_bytes(config=config(encryption={"algorithm": "rsa", "level": "chunk"})),
        index_bytes([chunk(temporal_offsets=[16], temporal_frames=[1], checksum_items=4)]),
        index_bytes([chunk(checksum_bytes=65536, dim=3)]),
        index_bytes([chunk(), chunk()], keys={"version": 1, "num_shards": 1}),
        index_bytes([chunk(filename="train/größe-1.parquet")]),
    ],
)
def test_dump_writes_the_same_bytes_again(data: bytes) -> None:
    assert dump_index(parse(data)) == data


def test_a_new_config_has_exactly_the_keys_of_0_2_58() -> None:
    written = json.loads(dump_index(Index(chunks=(), config=DatasetConfig(item_loader="X"))))
    assert sorted(written) == ["chunks", "config"]
    assert sorted(written["config"]) == sorted(config())


def test_framed_compression_brings_the_keys_of_0_2_76() -> None:
    framed = DatasetConfig(
        compression="zstd",
        compression_level="batch",
        compression_batch_size=8,
        item_loader="PyTreeLoader",
    )
    written = json.loads(dump_index(Index(chunks=(), config=framed)))["config"]
    assert sorted(set(written) - set(config())) == [
        "compression_batch_size",
        "compression_level",
        "ipc_compression",
        "types",
    ]
    assert (written["compression_level"], written["compression_batch_size"]) == ("batch", 8)


def test_an_index_of_nothing() -> None:
    index = parse(b'{"chunks": [], "config": null}')
    assert index.chunks == ()
    assert parse(dump_index(index)).chunks == ()


def test_very_old_indexes_without_item_loader() -> None:
    old = config()
    del old["item_loader"]
    tokens = parse(index_bytes(config={**old, "data_format": ["no_header_tensor:16"]}))
    assert loader_name(tokens.config) == "TokensLoader"
    assert loader_name(parse(index_bytes(config=old)).config) == "PyTreeLoader"
    assert "item_loader" not in json.loads(dump_index(tokens))["config"]


def test_duplicate_names_are_legal() -> None:
    assert len(parse(index_bytes([chunk(), chunk()])).chunks) == 2


def test_every_truncation_is_refused() -> None:
    data = index_bytes(updated_at="1.0")
    for length in range(len(data)):
        refusal(data[:length])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunks": 3}, "'chunks' must be an array, not an integer"),
        ({"chunks": [7]}, "'chunks[0]' must be an object, not an integer"),
        ({"config": None}, "'config' is missing"),
        ({"config": []}, "'config' must be an object, not an array"),
        ({"config": config(), "updated_at": 3.5}, "'updated_at' must be a string"),
        ({"config": config(), "updated_at": "../x"}, "'updated_at' must be a time"),
    ],
)
def test_wrong_top_level(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(json.dumps({"chunks": [chunk()], **fields}).encode())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("filename", None, "must be a string, not null"),
        ("filename", 5, "must be a string, not an integer"),
        ("chunk_size", -1, "must be between 0 and"),
        ("chunk_size", "2", "must be an integer, not a string"),
        ("chunk_size", True, "must be an integer, not a boolean"),
        ("chunk_size", 2.0, "must be an integer, not a number"),
        ("chunk_size", 2**32, "must be between 0 and"),
        ("chunk_size", 9, "says 9 items, too many for 40 bytes"),
        ("chunk_bytes", -40, "must be between 0 and"),
        ("chunk_bytes", 2**60, "must be between 0 and"),
        ("chunk_bytes", None, "must be an integer, not null"),
        ("dim", -3, "must be between 0 and"),
        ("dim", "x", "must be an integer"),
        ("checksum_items", 0, "must be between 1 and"),
        ("checksum_bytes", 1, "must be between 512 and"),
    ],
)
def test_wrong_chunk_fields(field: str, value: Any, message: str) -> None:
    told = refusal(index_bytes([chunk(), chunk(**{field: value})]))
    assert f"'chunks[1].{field}' {message}" in told


@pytest.mark.parametrize("field", ["filename", "chunk_size", "chunk_bytes"])
def test_missing_chunk_fields(field: str) -> None:
    fields = chunk()
    del fields[field]
    assert f"'chunks[0].{field}' is missing" in refusal(index_bytes([fields]))


@pytest.mark.parametrize("field", ["compression", "data_format", "data_spec"])
def test_missing_config_fields(field: str) -> None:
    fields = config()
    del fields[field]
    assert f"'config.{field}' is missing" in refusal(index_bytes(config=fields))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("compression", "lz4", "'config.compression' must be 'zstd'"),
        ("compression", "zstd:23", "'config.compression' must be 'zstd'"),
        ("compression", 4, "'config.compression' must be a string"),
        ("compression_level", "frame", "'config.compression_level' must be"),
        ("compression_batch_size", 0, "'config.compression_batch_size' must be between 1"),
        ("data_format", "int", "'config.data_format' must be an array"),
        ("data_format", ["int", 3], "'config.data_format[1]' must be a string"),
        ("data_spec", {}, "'config.data_spec' must be a string"),
        ("item_loader", 1, "'config.item_loader' must be a string"),
        ("encryption", "fernet", "'config.encryption' must be an object"),
        ("encryption", {"level": "chunk"}, "'config.encryption.algorithm' is missing"),
        ("encryption", {"algorithm": "x", "level": "y"}, "'config.encryption.level' must be"),
        ("chunk_size", "1", "'config.chunk_size' must be an integer"),
        ("format", "mds", "'config.format' cannot be"),
    ],
)
def test_wrong_config_fields(field: str, value: Any, message: str) -> None:
    assert message in refusal(index_bytes(config=config(**{field: value})))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../secret",
        "a/../../b",
        "a/..",
        "..",
        "s3://other/chunk.bin",
        "file:///etc/passwd",
        "C:/x",
        "c:x",
        "..\\x",
        "a\\b",
        "a\0b",
        "a\nb",
        "a//b",
        "./a",
        "a/",
        "index.json",
        "\ud800",
        "x" * 5000,
    ],
)
def test_names_that_could_leave_the_folder(name: str) -> None:
    assert "'chunks[0].filename'" in refusal(index_bytes([chunk(filename=name)]))


@pytest.mark.parametrize("name", ["chunk-0-0.zstd:7.bin", "a/b/c.parquet", "..a", "a b", "ü.bin"])
def test_plain_names(name: str) -> None:
    assert name_problem(name) is None
    assert parse(index_bytes([chunk(filename=name)])).chunks[0].filename == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"chunks": ' + b"[" * 100_000,
        b'{"chunks": [], "config": ' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_index(data: bytes) -> None:
    refusal(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    refusal(data)


def test_parquet_may_hold_more_rows_than_bytes() -> None:
    fields = config(item_loader="ParquetLoader", data_spec=None)
    big = chunk(filename="a.parquet", chunk_size=10**7, chunk_bytes=10**5)
    assert parse(index_bytes([big], config=fields)).chunks[0].num_items == 10**7


@pytest.mark.parametrize("compression", ["zstd", "zstd:7"])
def test_names_of_compressed_files(compression: str) -> None:
    settings = DatasetConfig(compression=compression)
    packed = ChunkInfo(filename=f"chunk-0-0.{compression}.bin", num_items=0, nbytes=8)
    plain = replace(packed, filename="chunk-0-0.bin")
    assert is_whole_compressed(packed, settings)
    assert stored_name(packed, settings) == packed.filename
    assert plain_name(packed, settings) == "chunk-0-0.bin"
    assert not is_whole_compressed(plain, settings)
    assert plain_name(plain, settings) == "chunk-0-0.bin"
    assert not is_whole_compressed(packed, DatasetConfig())


def test_encryption_is_read() -> None:
    fields = config(encryption={"algorithm": "fernet", "level": "sample"})
    info = parse(index_bytes(config=fields)).config.encryption
    assert info == EncryptionInfo(algorithm="fernet", level="sample")


def test_rank_order_is_natural() -> None:
    names = ["10.index.json", "2.index.json", "1.index.json"]
    assert index_rank_order(names) == ["1.index.json", "2.index.json", "10.index.json"]


def test_mds_is_not_written() -> None:
    with pytest.raises(ConfigError, match="read but not written"):
        dump_index(Index(chunks=(), config=DatasetConfig(extra={"format": "mds"})))
