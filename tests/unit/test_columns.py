"""Batches made column by column: the same, bit for bit, as torch's default_collate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from aiolit import StreamingDataLoader, StreamingDataset, TokensLoader
from aiolit.format.assemble import assemble
from aiolit.format.index import dump_index
from aiolit.streaming.columns import column_collate


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


def assert_same(left: Any, right: Any) -> None:
    """Compare collated batches: types, element types, shapes and every bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.contiguous().numpy(force=True).tobytes() == right.numpy(force=True).tobytes()
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    else:
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)


SAMPLES: dict[str, Callable[[int], Any]] = {
    "int": lambda i: i - 50,
    "float": lambda i: i / 7,
    "bool": lambda i: i % 3 == 0,
    "dict": lambda i: {"a": i, "b": i * 0.5, "c": i % 2 == 0},
    "nested": lambda i: {"a": (i, [float(i), {"x": np.full((2, 3), i, np.int16)}])},
    "ordered": lambda i: OrderedDict(b=i, a=float(i)),
    "vector": lambda i: np.arange(3, dtype=np.float32) + i,
    "half": lambda i: {"v": np.full(5, i, np.float16), "w": np.full((2, 2), i, np.complex64)},
    "tensor": lambda i: {"t": torch.full((4,), float(i)), "z": torch.tensor(i), "b": i},
    "matrix": lambda i: torch.full((2, 2), i, dtype=torch.int32),
    "flags": lambda i: np.array([i % 2 == 0, True]),
    "nothing": lambda i: {"v": np.zeros(0, np.float32), "n": i},
}


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_equals_default_collate(kind: str, shuffle: bool, write_dataset: WriteDataset) -> None:
    make = SAMPLES[kind]
    folder = write_dataset([make(i) for i in range(101)], chunk_size=16)
    dataset = StreamingDataset(folder, shuffle=shuffle)
    assert column_collate(dataset.source.index) is not None
    by_columns = list(StreamingDataLoader(dataset, batch_size=8))
    single = StreamingDataset(folder, shuffle=shuffle)
    # Another function than torch's own: every sample is then made and collated for itself.
    one_by_one = list(
        StreamingDataLoader(single, batch_size=8, collate_fn=lambda one: default_collate(one))
    )
    assert len(by_columns) == len(one_by_one) == 13
    for left, right in zip(by_columns, one_by_one, strict=True):
        assert_same(left, right)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=True, width=64),
            st.booleans(),
            st.lists(st.integers(0, 255), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 7),
)
def test_any_values_survive(rows: list[tuple[int, float, bool, list[int]]], size: int) -> None:
    samples = [{"i": i, "x": x, "b": b, "v": np.array(v, np.uint8)} for i, x, b, v in rows]
    index, _ = assemble(samples, chunk_size=100)
    collate = column_collate(index)
    assert collate is not None
    encoded = _rows(samples)
    for begin in range(0, len(samples), size):
        batch = collate(encoded[begin : begin + size])
        assert_same(batch, default_collate(samples[begin : begin + size]))


def _rows(samples: list[Any]) -> Any:
    index, files = assemble(samples, chunk_size=len(samples))
    (data,) = files.values()
    borders = np.frombuffer(data, "<u4", count=len(samples) + 1, offset=4)
    body = np.frombuffer(data, np.uint8)[borders[0] : borders[-1]].copy()
    assert len(index.chunks) == 1
    return body.reshape(len(samples), -1)


def test_samples_of_several_shapes_take_the_other_path(write_dataset: WriteDataset) -> None:
    folder = write_dataset(
        [{"n": np.zeros(2 + (i == 7) * 2, np.float32), "i": i} for i in range(16)], chunk_size=8
    )
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=4)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        list(loader)  # what default_collate says of them


def test_equal_lengths_of_unequal_leaves_are_told_apart(write_dataset: WriteDataset) -> None:
    """Two vectors that trade an element keep the sample's length but not its shape."""
    samples = [{"a": np.arange(2 + i % 2), "b": np.arange(3 - i % 2)} for i in range(8)]
    folder = write_dataset(samples, chunk_size=8)
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=4)
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        list(loader)


def test_tokens(write_dataset: WriteDataset) -> None:
    tokens = np.arange(1000, dtype=np.int32)
    folder = write_dataset(
        [tokens[i : i + 100] for i in range(0, 1000, 100)],
        chunk_size=300,
        item_loader=TokensLoader(),
    )
    dataset = StreamingDataset(folder, item_loader=TokensLoader(block_size=30))
    batches = list(StreamingDataLoader(dataset, batch_size=4))
    singles = list(StreamingDataset(folder, item_loader=TokensLoader(block_size=30)))
    assert_same(torch.cat(batches), default_collate(singles))


def test_a_transform_or_text_takes_the_other_path(write_dataset: WriteDataset) -> None:
    folder = write_dataset([{"i": i, "s": str(i)} for i in range(10)], chunk_size=4)
    assert column_collate(StreamingDataset(folder).source.index) is None
    numbers = write_dataset(range(10), chunk_size=4, name="numbers")
    doubled = StreamingDataset(numbers, transform=lambda value: 2 * value)
    assert torch.cat(list(StreamingDataLoader(doubled, batch_size=4))).tolist() == [
        2 * value for value in range(10)
    ]


def test_damage_is_found(tmp_path: Path) -> None:
    index, files = assemble([{"i": i} for i in range(64)], chunk_size=64)
    (name,) = files
    data = bytearray(files[name])
    data[4 * 66 + 700] ^= 4
    (tmp_path / name).write_bytes(data)
    (tmp_path / "index.json").write_bytes(dump_index(index))
    with pytest.raises(Exception, match="differ from their CRC-32"):
        list(StreamingDataLoader(StreamingDataset(tmp_path), batch_size=8))


@pytest.mark.parametrize("chunk_size", [7, 64, 1000])
def test_batches_made_together_are_those_made_alone(
    chunk_size: int, write_dataset: WriteDataset
) -> None:
    samples = [{"i": i, "v": np.full(3, i, np.float32)} for i in range(1000)]
    folder = write_dataset(samples, chunk_size=chunk_size)
    together = list(StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=6))
    alone = StreamingDataLoader(
        StreamingDataset(folder, shuffle=True),
        batch_size=6,
        collate_fn=lambda one: default_collate(one),
    )
    assert_same(together, list(alone))
    for batch in together:  # whoever keeps or pickles one keeps no other
        assert batch["v"].untyped_storage().nbytes() == batch["v"].nbytes
        batch["v"].zero_()


def test_a_state_taken_among_batches_made_together(write_dataset: WriteDataset) -> None:
    folder = write_dataset(range(1000), chunk_size=1000)
    loader = StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=6)
    whole = list(loader)
    assert loader.stats()["batches"] == len(whole) == 167
    again = StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=6)
    reading = iter(again)
    first = [next(reading) for _ in range(50)]
    resumed = StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=6)
    resumed.load_state_dict(again.state_dict())
    assert_same([*first, *resumed], whole)


def test_a_shape_that_changes_within_a_window(write_dataset: WriteDataset) -> None:
    """The batches before it are handed out."""
    samples = [{"n": np.zeros(2 + (i == 70), np.float32), "i": i} for i in range(100)]
    folder = write_dataset(samples, chunk_size=10)
    batches = iter(StreamingDataLoader(StreamingDataset(folder), batch_size=4))
    assert [next(batches)["i"][0].item() for _ in range(17)] == list(range(0, 68, 4))
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        next(batches)


def test_rows_shorter_than_the_sizes_of_their_leaves_are_left_to_who_says_so() -> None:
    index, _ = assemble([{"a": 1, "b": 2.0, "c": True, "d": 4}], chunk_size=100)
    collate = column_collate(index)
    assert collate is not None
    assert all(collate(np.zeros((3, nbytes), np.uint8)) is None for nbytes in range(1, 20))
