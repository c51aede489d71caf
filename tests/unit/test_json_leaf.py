"""The tagged form of lists and dicts."""

import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ChunkFormatError
from aiolit.format.json_leaf import MAX_DEPTH, decode_json


def decode(data: bytes) -> Any:
    return decode_json(memoryview(data))


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def text(value: str) -> bytes:
    return u32(len(value.encode())) + value.encode()


def encode_scalar(value: Any, first_tag: int) -> bytes:
    """The tags of scalars are in a row, in another order for values than for cells."""
    match value:
        case None:
            return bytes([11 if first_tag == 7 else 0x10])
        case bool():
            return bytes([first_tag + 3, value])
        case str():
            return bytes([first_tag]) + text(value)
        case int():
            return bytes([first_tag + 1]) + struct.pack("<q", value)
        case _:
            return bytes([first_tag + 2]) + struct.pack("<d", value)


def is_row(value: Any, keys: set[str]) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == keys
        and all(v is None or isinstance(v, str | int | float) for v in value.values())
    )


def encode(value: Any) -> bytes:
    """Write a value as the specification says the writer chooses; ours only reads."""
    if value is None or isinstance(value, str | int | float):
        return encode_scalar(value, 7)
    if isinstance(value, dict):
        return b"\x05" + u32(len(value)) + b"".join(text(k) + encode(v) for k, v in value.items())
    count = u32(len(value))
    if all(isinstance(item, str) for item in value):
        return b"\x01" + count + b"".join(map(text, value))
    if all(isinstance(item, bool) for item in value):
        return b"\x04" + count + bytes(value)
    if all(type(item) is int for item in value):
        return b"\x02" + count + struct.pack(f"<{len(value)}q", *value)
    if all(isinstance(item, float) for item in value):
        return b"\x03" + count + struct.pack(f"<{len(value)}d", *value)
    if value[0] and isinstance(value[0], dict) and all(is_row(v, set(value[0])) for v in value):
        keys = list(value[0])
        cells = b"".join(encode_scalar(row[key], 0x11) for row in value for key in keys)
        return b"\x06" + count + u32(len(keys)) + b"".join(map(text, keys)) + cells
    raw = json.dumps(value).encode()
    return b"\x00" + u32(len(raw)) + raw


EXAMPLES: list[tuple[str, Any]] = [
    ("02 01000000 0100000000000000", [1]),
    ("01 00000000", []),
    ("01 02000000 02000000 c3a9 00000000", ["é", ""]),
    ("03 01000000 000000000000f83f", [1.5]),
    ("04 03000000 000102", [False, True, True]),
    ("05 00000000", {}),
    ("05 01000000 01000000 61 0b", {"a": None}),
    ("05 01000000 00000000 02 00000000", {"": []}),
    ("06 02000000 01000000 01000000 61 10 12 0500000000000000", [{"a": None}, {"a": 5}]),
    (
        "06 01000000 03000000 01000000 61 01000000 62 01000000 63 11 01000000 78 14 01 "
        "13 000000000000f83f",
        [{"a": "x", "b": True, "c": 1.5}],
    ),
    ("07 01000000 78", "x"),
    ("08 ffffffffffffffff", -1),
    ("09 000000000000f83f", 1.5),
    ("0a 00", False),
    ("0b", None),
    ("00 08000000 5b312c22c3a9225d", [1, "é"]),
    ("5b312c6e756c6c5d", [1, None]),
    ("7b7d", {}),
    ("31", 1),
]


@pytest.mark.parametrize(("stored", "value"), EXAMPLES)
def test_examples(stored: str, value: Any) -> None:
    result = decode(bytes.fromhex(stored))
    assert result == value
    assert repr(result) == repr(value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("", "cut off"),
        ("0c", "unknown tag 12"),
        ("20", "unknown tag 32"),
        ("0b0b", "ends after 1"),
        ("01", "cut off"),
        ("02 ffffffff", "claims 4294967295 elements"),
        ("02 01000000 00000000000000", "claims 1 elements"),
        ("03 02000000 0000000000000000", "claims 2 elements"),
        ("04 ffffffff 01", "claims"),
        ("01 ffffffff 00000000", "claims"),
        ("01 01000000 05000000 61", "claims 5 elements"),
        ("05 ffffffff 00", "claims"),
        ("05 02000000 01000000 61 0b 01000000", "cut off|claims"),
        ("05 01000000 01000000 61 63", "unknown tag 99"),
        ("06 ffffffff 00000000", "claims"),
        ("06 01000000 00000000 00", "1 rows of 0 cells"),
        ("06 02000000 01000000 01000000 61 10", "2 rows of 1 cells"),
        ("06 01000000 01000000 01000000 61 0b", "unknown cell tag 11"),
        ("06 01000000 01000000 01000000 61 12 00", "cut off"),
        ("07 01000000 ff", "not UTF-8"),
        ("08 00", "cut off"),
        ("09 00", "cut off"),
        ("0a", "cut off"),
        ("00 01000000 5b", "not JSON"),
        ("5b", "not JSON"),
        ("ff", "not JSON"),
        ("5b" * 100_000, "not JSON"),
        ("31" * 5000, "not JSON"),
        ("05 01000000 01000000 61" * (MAX_DEPTH + 2) + "0b", "nested more than 200 deep"),
    ],
)
def test_refused(stored: str, message: str) -> None:
    with pytest.raises(ChunkFormatError, match=message):
        decode(bytes.fromhex(stored))


def test_nesting_up_to_the_limit() -> None:
    value = decode(bytes.fromhex("05 01000000 01000000 61" * MAX_DEPTH + "0b"))
    for _ in range(MAX_DEPTH):
        value = value["a"]
    assert value is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.lists(st.fixed_dictionaries({"a": st.none() | st.floats(0), "b": st.text(max_size=2)}))
    ),
    max_leaves=12,
)


@given(values)
def test_round_trip(value: Any) -> None:
    result = decode(encode(value))
    assert result == value
    # Tells 1 from True and 1.0; the rows of a table all have the first one's order of keys.
    assert json.dumps(result, sort_keys=True) == json.dumps(value, sort_keys=True)


@given(st.binary(max_size=80).map(lambda data: bytes([data[0] % 12]) + data[1:] if data else data))
def test_any_bytes_give_a_value_or_a_chunk_error(data: bytes) -> None:
    with suppress(ChunkFormatError):
        decode(data)


@given(values, st.data())
def test_bytes_cut_off_or_changed(value: Any, data: st.DataObject) -> None:
    stored = bytearray(encode(value))
    stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    del stored[data.draw(st.integers(0, len(stored))) :]
    with suppress(ChunkFormatError):
        decode(bytes(stored))
