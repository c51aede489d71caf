"""Item loaders: samples to bytes and back."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import (
    ChunkFormatError,
    ConfigError,
    IndexFormatError,
    SchemaError,
    UntrustedDataError,
)
from aiolit.format.assemble import assemble
from aiolit.format.chunk import offsets_range, parse_offsets
from aiolit.format.encryption import Encryption, FernetEncryption
from aiolit.format.index import ChunkInfo, DatasetConfig, EncryptionInfo, Index, dump_index
from aiolit.format.index import parse_index as parse
from aiolit.format.loader import (
    BoundLoader,
    ItemLoader,
    PyTreeLoader,
    TemporalArrayLoader,
    TokensLoader,
    default_loader,
)
from aiolit.format.serializers import Serializer, SerializerRegistry


def bind(
    index: Index,
    loader: ItemLoader | None = None,
    registry: SerializerRegistry | None = None,
    key: Encryption | None = None,
) -> BoundLoader:
    return (loader or PyTreeLoader()).bind(
        index, registry=registry or SerializerRegistry(), source="index.json", encryption=key
    )


def read_all(index: Index, files: dict[str, bytes], bound: BoundLoader) -> list[Any]:
    samples: list[Any] = []
    for chunk in index.chunks:
        reader = bound.open(memoryview(files[chunk.filename]), chunk, chunk.filename)
        count = bound.num_samples(chunk)
        got = reader.samples(range(count))
        assert_same(got, [reader.sample(n) for n in range(count)])
        samples += got
    return samples


def assert_same(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for left, right in zip(got, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, np.ndarray | torch.Tensor):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert bool((got == expected).all())
    else:
        assert got == expected


pytestmark = pytest.mark.filterwarnings("ignore:leaf '.*' is a NoneType:UserWarning")

SHAPES: list[list[Any]] = [
    [1, -2, 2**62],
    [{"a": 1, "b": 2.5, "c": True}, {"a": -1, "b": 0.0, "c": False}],
    [{"a": {"b": (1, "two")}, "c": [b"3", 4.0]}] * 3,
    [(), (), ()],
    [{}],
    [[]],
    [OrderedDict(b=1, a="x")] * 2,
    [{"v": np.arange(n), "m": np.ones((2, n), dtype=np.float32)} for n in range(4)],
    [torch.arange(n) for n in range(4)],
    [{"t": torch.full((2, 2), n), "none": None} for n in range(3)],
    ["", "ä", "x" * 1000],
]


@pytest.mark.parametrize("samples", SHAPES)
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zstd", "compression_level": "batch"}], ids=["plain", "framed"]
)
def test_samples_come_back(samples: list[Any], options: dict[str, Any]) -> None:
    index, files = assemble(samples, chunk_size=2, **options)
    index = parse(dump_index(index), source="index.json")
    assert_same(read_all(index, files, bind(index)), samples)


leaves = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.binary()
)


@given(st.lists(st.tuples(leaves, st.text()).map(lambda pair: {"x": [pair[0]], "t": pair[1]})))
def test_any_values(samples: list[Any]) -> None:
    try:
        index, files = assemble(samples or [{"x": [1], "t": ""}], chunk_bytes=100)
    except SchemaError:
        return  # the kinds of leaves differ between samples
    got = read_all(index, files, bind(index))
    assert [sample["t"] for sample in got] == [sample["t"] for sample in samples or got]


def test_the_item_by_hand() -> None:
    item = PyTreeLoader().encoder(SerializerRegistry()).encode({"a": 1, "t": "xyz"})
    sizes = b"\x08\0\0\0\x03\0\0\0"
    assert b"".join(item.parts) == sizes + b"\1\0\0\0\0\0\0\0xyz"
    assert (item.nbytes, item.dim) == (19, None)


def test_what_an_encoder_knows() -> None:
    encoder = PyTreeLoader().encoder(SerializerRegistry())
    for name in ("data_format", "data_spec", "pickled_leaves"):
        with pytest.raises(SchemaError, match="first one was encoded"):
            getattr(encoder, name)
    encoder.encode({"a": 1, "b": [None, np.arange(2)]})
    assert encoder.data_format == ["int", "pickle", "no_header_numpy:3"]
    assert encoder.pickled_leaves == ("b[0]",)
    assert json.loads(encoder.data_spec)[0] == 1


def test_samples_must_fit_the_first() -> None:
    encoder = PyTreeLoader().encoder(SerializerRegistry())
    encoder.encode({"a": 1, "b": "x"})
    with pytest.raises(SchemaError, match="'b'"):
        encoder.encode({"a": 1, "b": 2})
    with pytest.raises(SchemaError, match="missing 'b'"):
        encoder.encode({"a": 1})
    encoder.encode({"b": "again", "a": 2})


def test_a_failed_first_sample_fixes_nothing() -> None:
    encoder = PyTreeLoader().encoder(SerializerRegistry())
    with pytest.raises(SchemaError):
        encoder.encode({"a": np.array([object()])})
    assert encoder.encode({"other": 1}).nbytes == 12


class Celsius(Serializer):
    """Stores a temperature as text."""

    def can_serialize(self, item: Any) -> bool:
        return isinstance(item, complex)

    def serialize(self, item: Any) -> tuple[bytes, None]:
        return str(item.real).encode(), None

    def deserialize(self, data: bytes) -> complex:
        return complex(float(data))


def test_users_serializers_and_their_errors() -> None:
    own = {"celsius": Celsius()}
    index, files = assemble([{"c": 21.5 + 0j}], chunk_size=1, serializers=own)
    bound = bind(index, registry=SerializerRegistry(own))
    assert read_all(index, files, bound) == [{"c": 21.5 + 0j}]
    data = files["chunk-0-0.bin"].replace(b"21.5", b"no!!")
    reader = bound.open(memoryview(data), index.chunks[0], "chunk", verify=False)
    for call in (lambda: reader.sample(0), lambda: reader.samples([0])):
        with pytest.raises(ValueError, match="could not convert") as caught:
            call()
        assert caught.value.__notes__ == ["leaf 'c'", "chunk: item 0"]
    with pytest.raises(IndexFormatError, match="celsius"):
        bind(index)


def test_pickles_need_permission() -> None:
    index, files = assemble([{"when": None}], chunk_size=1)
    bound = bind(index, registry=SerializerRegistry(allow_pickle=False))
    with pytest.raises(UntrustedDataError, match="item 0: leaf 'when'"):
        read_all(index, files, bound)


def test_items_that_disagree_with_themselves() -> None:
    index, files = assemble([{"a": 1, "t": "xyz"}, {"a": 2, "t": ""}], chunk_size=2)
    data = bytearray(files["chunk-0-0.bin"])
    chunk = index.chunks[0]
    data[16 + 4] = 200
    reader = bind(index).open(memoryview(data), chunk, "chunk", verify=False)
    with pytest.raises(ChunkFormatError, match=r"chunk: item 0: .*take 208 bytes"):
        reader.samples([1, 0])
    data[16:24] = b"\3\0\0\0\x08\0\0\0"
    with pytest.raises(ChunkFormatError, match="chunk: item 0: leaf 'a': an int leaf"):
        reader.sample(0)
    assert reader.sample(1) == {"a": 2, "t": ""}


def test_numbers_that_disagree_with_themselves() -> None:
    index, files = assemble([{"a": 1, "b": True}], chunk_size=1)
    data = bytearray(files["chunk-0-0.bin"])
    data[12:20] = b"\7\0\0\0\2\0\0\0"
    reader = bind(index).open(memoryview(data), index.chunks[0], "chunk", verify=False)
    with pytest.raises(ChunkFormatError, match="leaf 'a': an int leaf has 8 bytes"):
        reader.sample(0)


def test_the_index_must_describe_the_samples() -> None:
    index, _ = assemble([{"a": 1}], chunk_size=1)
    two = replace(index, config=replace(index.config, data_format=("int", "int")))
    with pytest.raises(IndexFormatError, match=r"2 formats, and the tree .* 1 leaves"):
        bind(two)
    none = replace(index, config=replace(index.config, data_spec=None))
    with pytest.raises(IndexFormatError, match=r"'config\.data_spec' is null"):
        bind(none)
    empty = Index(chunks=(), config=DatasetConfig())
    assert isinstance(bind(empty), BoundLoader)


def test_another_loader_than_the_writers() -> None:
    index, _ = assemble([np.arange(5)], chunk_size=5, item_loader=TokensLoader())
    with pytest.raises(ConfigError, match="written with TokensLoader"):
        bind(index)
    with pytest.raises(ConfigError, match=r"TokensLoader\(block_size"):
        default_loader(index.config, source="index.json")
    own = replace(index.config, item_loader="MyLoader")
    with pytest.raises(ConfigError, match=r"item_loader=MyLoader\("):
        default_loader(own, source="index.json")
    assert isinstance(default_loader(DatasetConfig(), source="s"), PyTreeLoader)


def test_ranges_of_items() -> None:
    samples = [{"n": n, "t": "x" * n} for n in range(6)]
    index, files = assemble(samples, chunk_size=6)
    chunk, data = index.chunks[0], files["chunk-0-0.bin"]
    start, end = offsets_range(2, 5)
    offsets = parse_offsets(data[start:end], 2, chunk, source="c")
    low, high = int(offsets[0]), int(offsets[-1])
    bound = bind(index)
    assert bound.byte_range(chunk, 2, 5) is None
    reader = bound.open_range(memoryview(data)[low:high], low, 2, offsets, chunk, "c")
    assert reader.samples([4, 2]) == [samples[4], samples[2]]
    with pytest.raises(IndexError):
        reader.sample(5)
    with pytest.raises(ConfigError, match="needs their offsets"):
        bound.open_range(memoryview(data)[low:high], low, 2, None, chunk, "c")


def test_numbers_of_another_length() -> None:
    index, files = assemble([{"a": 1}], chunk_size=1)
    data = files["chunk-0-0.bin"]
    short = b"\1\0\0\0\x0c\0\0\0\x14\0\0\0" + data[12:20]
    chunk = ChunkInfo(filename="c", num_items=1, nbytes=len(short))
    reader = bind(index).open(memoryview(short), chunk, "chunk")
    with pytest.raises(ChunkFormatError, match=r"chunk: item 0: .*take 8 bytes, and there are 4"):
        reader.sample(0)


def test_rows_of_an_arrow_table() -> None:
    pa = pytest.importorskip("pyarrow")
    rows = [{"a": n, "t": None if n else "x"} for n in range(3)]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    blob = sink.getvalue().to_pybytes()
    head = np.array([3, 20, 20, 20, 20], dtype="<u4").tobytes()
    data = head + blob + len(blob).to_bytes(4, "little") + b"LDARW01\0"
    chunk = ChunkInfo(filename="c", num_items=3, nbytes=len(data))
    index, _ = assemble([{"a": 1, "t": "x"}], chunk_size=1)
    reader = bind(index).open(memoryview(data), chunk, "chunk")
    assert reader.sample(2) == rows[2]
    assert reader.samples([2, 0]) == [rows[2], rows[0]]


@pytest.mark.parametrize("loader", [PyTreeLoader(), TokensLoader(8), TemporalArrayLoader()])
def test_loaders_pickle(loader: ItemLoader) -> None:
    copy = pickle.loads(pickle.dumps(loader))
    assert type(copy) is type(loader)
    assert copy.name == type(loader).__name__
    assert repr(TokensLoader(8)) == "TokensLoader(block_size=8)"


# Tokens


def tokens(counts: list[int], chunk_size: int) -> tuple[Index, dict[str, bytes]]:
    samples = [np.arange(count) for count in counts]
    return assemble(samples, chunk_size=chunk_size, item_loader=TokensLoader())


def test_the_worked_example_of_tokens() -> None:
    index, files = tokens([10, 5, 3], 12)
    assert [(chunk.num_items, chunk.dim) for chunk in index.chunks] == [(1, 10), (2, 8)]
    assert files["chunk-0-0.bin"][12:92] == np.arange(10).tobytes()
    bound = bind(index, TokensLoader(block_size=4))
    blocks = read_all(index, files, bound)
    assert_same(
        blocks,
        [np.array(b) for b in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3])]
        + [np.array([4, 0, 1, 2])],
    )


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=20),
    st.integers(1, 60),
    st.integers(1, 9),
    st.data(),
)
def test_any_blocks(counts: list[int], limit: int, block: int, data: st.DataObject) -> None:
    index, files = tokens(counts, limit)
    loader = TokensLoader(block_size=block)
    if max(chunk.dim or 0 for chunk in index.chunks) < block:
        with pytest.raises(ConfigError, match="larger than every chunk"):
            bind(index, loader)
        return
    bound = bind(index, loader)
    for chunk in index.chunks:
        stored = files[chunk.filename]
        start = 4 * (chunk.num_items + 2)
        stream = np.frombuffer(stored, np.int64, count=chunk.dim or 0, offset=start)
        count = bound.num_samples(chunk)
        assert count == len(stream) // block
        expected = stream[: count * block].reshape(count, block)
        reader = bound.open(memoryview(stored), chunk, "c")
        assert np.array_equal(np.array(reader.samples(range(count))).reshape(-1, block), expected)
        if count:
            first = data.draw(st.integers(0, count - 1))
            low, high = bound.byte_range(chunk, first, count) or (0, 0)
            part = bound.open_range(memoryview(stored)[low:high], low, first, None, chunk, "c")
            rest = part.samples(range(first, count))
            assert np.array_equal(rest, expected[first:])


def test_tokens_own_their_memory() -> None:
    samples = [torch.arange(8)]
    index, files = assemble(samples, chunk_size=8, item_loader=TokensLoader())
    data = bytearray(files["chunk-0-0.bin"])
    reader = bind(index, TokensLoader(4)).open(memoryview(data), index.chunks[0], "c")
    block = reader.samples([1])[0]
    data[:] = bytes(len(data))
    block += 1
    assert block.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "sample",
    [
        np.ones((2, 2)),
        torch.ones(2, 2),
        torch.tensor(1),
        5,
        "text",
        [1, 2],
        {"a": np.arange(3), "b": 1},
    ],
)
def test_samples_that_are_no_tokens(sample: Any) -> None:
    with pytest.raises(SchemaError, match="one 1-D tensor or array"):
        TokensLoader().encoder(SerializerRegistry()).encode(sample)


def test_tokens_in_a_container_of_one() -> None:
    index, files = assemble([{"ids": np.arange(4)}], chunk_size=4, item_loader=TokensLoader())
    assert_same(read_all(index, files, bind(index, TokensLoader(4))), [np.arange(4)])


def test_later_tokens_must_be_like_the_first() -> None:
    encoder = TokensLoader().encoder(SerializerRegistry())
    assert encoder.encode(np.arange(3)).dim == 3
    with pytest.raises(SchemaError, match=r"int32|1-D"):
        encoder.encode(np.arange(3, dtype=np.int32))
    assert encoder.data_format == ["no_header_numpy:3"]
    assert encoder.pickled_leaves == ()
    fresh = TokensLoader().encoder(SerializerRegistry())
    for name in ("data_format", "data_spec"):
        with pytest.raises(SchemaError, match="first one was encoded"):
            getattr(fresh, name)


@pytest.mark.parametrize("block_size", [0, -1, True, 1.5, "8"])
def test_block_sizes_that_cannot_be(block_size: Any) -> None:
    with pytest.raises(ConfigError, match="block_size must be"):
        TokensLoader(block_size)


def test_reading_needs_a_block_size() -> None:
    index, _ = tokens([5], 5)
    with pytest.raises(ConfigError, match="needs a block size"):
        bind(index, TokensLoader())
    with pytest.raises(ConfigError, match="the largest holds 5 tokens"):
        bind(index, TokensLoader(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": ()}, "names no tokens"),
        ({"data_format": ("int",)}, "'int' are no tokens"),
        ({"data_format": ("numpy",)}, "'numpy' are no tokens"),
        ({"data_format": ("no_header_numpy:99",)}, "are no tokens"),
        ({"data_format": ("no_header_tensor:21",)}, "are no tokens"),
        ({"data_format": ("no_header_tensor:x",)}, "are no tokens"),
        ({"compression_level": "sample"}, "compression_level"),
    ],
)
def test_indexes_that_describe_no_tokens(changes: dict[str, Any], message: str) -> None:
    index, _ = tokens([5], 5)
    wrong = replace(index, config=replace(index.config, **changes))
    with pytest.raises(IndexFormatError, match=message):
        bind(wrong, TokensLoader(2))


def test_dim_is_checked_or_told_from_the_bytes() -> None:
    index, files = tokens([5], 5)
    (chunk,) = index.chunks
    lying = replace(index, chunks=(replace(chunk, dim=6),))
    with pytest.raises(IndexFormatError, match="'dim' says 6 tokens, and there is room for 5"):
        bind(lying, TokensLoader(2))
    bare = files["chunk-0-0.bin"][:52]
    old = ChunkInfo(filename="chunk-0-0.bin", num_items=1, nbytes=52)
    told = replace(index, chunks=(old,))
    bound = bind(told, TokensLoader(2))
    assert bound.num_samples(old) == 2
    assert_same(
        read_all(told, {"chunk-0-0.bin": bare}, bound), [np.array([0, 1]), np.array([2, 3])]
    )
    short = replace(old, nbytes=20)
    assert bind(told, TokensLoader(1)).num_samples(short) == 1
    with pytest.raises(ChunkFormatError, match="items at 12 to 52"):
        bound.open(memoryview(bare)[:51], replace(old, nbytes=51), "c")


def test_ranges_outside_of_the_tokens() -> None:
    index, files = tokens([8], 8)
    (chunk,) = index.chunks
    bound = bind(index, TokensLoader(2))
    data = memoryview(files["chunk-0-0.bin"])
    with pytest.raises(ChunkFormatError, match="does not begin in the range"):
        bound.open_range(data[40:60], 40, 0, None, chunk, "c")
    reader = bound.open_range(data[12:44], 12, 0, None, chunk, "c")
    for outside in (-1, 2):
        with pytest.raises(IndexError):
            reader.samples([0, outside])
    assert reader.samples([]) == []


def test_encrypted_tokens() -> None:
    with pytest.raises(ConfigError, match="level='chunk'"):
        TokensLoader().encoder(SerializerRegistry(), FernetEncryption("pw"))
    key = FernetEncryption("pw", level="chunk")
    index, files = assemble(
        [np.arange(6)], chunk_size=6, item_loader=TokensLoader(), encryption=key
    )
    bound = bind(index, TokensLoader(3), key=key)
    assert_same(read_all(index, files, bound), [np.arange(3), np.arange(3, 6)])
    assert bound.byte_range(index.chunks[0], 0, 1) is None
    with pytest.raises(ConfigError, match="read whole"):
        bound.open_range(memoryview(b""), 0, 0, None, index.chunks[0], "c")
    nameless = replace(index, chunks=(replace(index.chunks[0], dim=None),))
    with pytest.raises(IndexFormatError, match="'dim' is missing"):
        bind(nameless, TokensLoader(3), key=key)


def test_tokens_that_litdata_encrypted_one_by_one() -> None:
    key = FernetEncryption("pw")
    items = [key.encrypt(np.arange(n).tobytes()) for n in (3, 2)]
    ends = np.cumsum([16, *map(len, items)]).astype("<u4")
    data = b"\2\0\0\0" + ends.tobytes() + b"".join(items)
    chunk = ChunkInfo(filename="c", num_items=2, nbytes=len(data), dim=5)
    config = DatasetConfig(
        data_format=("no_header_numpy:3",),
        data_spec='[1, {"type": null, "context": null, "children_spec": []}]',
        item_loader="TokensLoader",
        encryption=EncryptionInfo(algorithm="fernet", level="sample"),
    )
    index = Index(chunks=(chunk,), config=config)
    blocks = read_all(index, {"c": data}, bind(index, TokensLoader(5), key=key))
    assert_same(blocks, [np.array([0, 1, 2, 0, 1])])
    lying = replace(index, chunks=(replace(chunk, dim=6),))
    with pytest.raises(ChunkFormatError, match="less than the index's dim=6"):
        read_all(lying, {"c": data}, bind(lying, TokensLoader(5), key=key))


# Temporal records

SCHEMA: dict[str, Any] = {
    "version": 1,
    "field_order": ["pose", "flag", "when"],
    "fields": {
        "pose": {"dtype": "<f4", "shape": [3], "tensor": True},
        "flag": {"dtype": "|b1", "shape": [], "tensor": False},
        "when": {"dtype": ">i4", "shape": [], "tensor": False},
    },
    "groups": [["flag", "pose"], ["when"]],
}


def temporal(schema: Any, records: list[bytes]) -> tuple[Index, dict[str, bytes]]:
    ends = np.cumsum([4 * (len(records) + 2), *map(len, records)]).astype("<u4")
    data = len(records).to_bytes(4, "little") + ends.tobytes() + b"".join(records)
    chunk = ChunkInfo(filename="c", num_items=len(records), nbytes=len(data))
    config = DatasetConfig(
        data_format=("bytes",), item_loader="TemporalArrayLoader", extra={"temporal_schema": schema}
    )
    return Index(chunks=(chunk,), config=config), {"c": data}


def test_temporal_records() -> None:
    rows = np.zeros(2, dtype=np.dtype([("flag", "?"), ("pose", "<f4", (3,))], align=True))
    rows["flag"] = [True, False]
    rows["pose"] = np.arange(6).reshape(2, 3)
    record = b"\2\0\0\0" + rows.tobytes() + np.array([7, 8], dtype=">i4").tobytes()
    index, files = temporal(SCHEMA, [record, b"\0\0\0\0"])
    loader = default_loader(index.config, source="s")
    first, second = read_all(index, files, bind(index, loader))
    assert list(first) == ["pose", "flag", "when"]
    assert_same(first["pose"], torch.arange(6, dtype=torch.float32).reshape(2, 3))
    assert_same(first["flag"], np.array([True, False]))
    assert first["when"].tolist() == [7, 8]
    assert second["pose"].shape == (0, 3)
    with pytest.raises(ConfigError, match="only reads"):
        loader.encoder(SerializerRegistry())


@pytest.mark.parametrize("record", [b"", b"\1\0", b"\1\0\0\0", b"\xff\xff\xff\xff" + bytes(40)])
def test_temporal_records_that_disagree(record: bytes) -> None:
    index, files = temporal(SCHEMA, [record])
    with pytest.raises(ChunkFormatError, match="c: item 0: a record of"):
        read_all(index, files, bind(index, TemporalArrayLoader()))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": 2}, "version"),
        ({"field_order": []}, "field_order"),
        ({"field_order": ["pose", "pose", "flag"]}, "field_order"),
        ({"fields": []}, "fields"),
        ({"groups": [["flag", "pose"]]}, "groups"),
        ({"groups": [["flag", "nobody"], ["when"]]}, r"groups\[0\]"),
        ({"groups": [[], ["when"]]}, r"groups\[0\]"),
        ({"groups": [3]}, r"groups\[0\]"),
    ],
)
def test_temporal_schemas_that_cannot_be(changes: dict[str, Any], field: str) -> None:
    index, _ = temporal({**SCHEMA, **changes}, [])
    with pytest.raises(IndexFormatError, match=f"'config.temporal_schema.{field}'"):
        bind(index, TemporalArrayLoader())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dtype": "object"}, "fields.pose.dtype"),
        ({"dtype": "O"}, "fields.pose.dtype"),
        ({"dtype": "<U4"}, "fields.pose.dtype"),
        ({"dtype": "nonsense"}, "fields.pose.dtype"),
        ({"dtype": 3}, "fields.pose.dtype"),
        ({"shape": [-1]}, "fields.pose.shape"),
        ({"shape": "3"}, "fields.pose.shape"),
        ({"shape": [2**31, 2**31]}, r"groups\[0\]"),
        ({"tensor": 1}, "fields.pose.tensor"),
    ],
)
def test_temporal_fields_that_cannot_be(changes: dict[str, Any], field: str) -> None:
    pose = {**SCHEMA["fields"]["pose"], **changes}
    index, _ = temporal({**SCHEMA, "fields": {**SCHEMA["fields"], "pose": pose}}, [])
    with pytest.raises(IndexFormatError, match=f"'config.temporal_schema.{field}'"):
        bind(index, TemporalArrayLoader())
