"""The numbers that stand for element types are part of the file format."""

import numpy as np
import pytest
import torch

from aiolit.format import dtypes

NUMPY = {
    0: "int8", 1: "int16", 2: "int32", 3: "int64", 4: "uint8", 5: "uint16", 6: "uint32",
    7: "uint64", 8: "float16", 9: "float32", 10: "float64", 11: "complex64", 12: "complex128",
    13: "bool",
}  # fmt: skip
TORCH_WRITTEN = {
    1: torch.float32, 3: torch.float64, 5: torch.complex64, 7: torch.complex128,
    9: torch.float16, 10: torch.bfloat16, 11: torch.uint8, 12: torch.int8, 14: torch.int16,
    16: torch.int32, 18: torch.int64, 19: torch.bool, 20: torch.uint16,
}  # fmt: skip
TORCH_ALSO_READ = {
    0: torch.float32, 2: torch.float64, 4: torch.complex64, 6: torch.complex128,
    8: torch.float16, 13: torch.int16, 15: torch.int32, 17: torch.int64,
}  # fmt: skip


@pytest.mark.parametrize(("index", "name"), NUMPY.items())
def test_numpy_both_ways(index: int, name: str) -> None:
    assert dtypes.numpy_dtype(index) == np.dtype(name)
    assert dtypes.numpy_index(np.dtype(name)) == index


@pytest.mark.parametrize("index", [-1, 14, 15, 16, 17, 18, 2**32 - 1])
def test_numbers_without_a_readable_array_type(index: int) -> None:
    assert dtypes.numpy_dtype(index) is None


@pytest.mark.parametrize("dtype", [">i4", "M8[s]", "S3", "U2", "O", "V4", "g", [("a", "i4")]])
def test_array_types_without_a_number(dtype: object) -> None:
    assert dtypes.numpy_index(np.dtype(dtype)) is None  # type: ignore[call-overload]


def test_longlong_is_int64() -> None:
    assert dtypes.numpy_index(np.dtype("q")) == dtypes.numpy_index(np.dtype("l")) == 3


@pytest.mark.parametrize(("index", "dtype"), (TORCH_WRITTEN | TORCH_ALSO_READ).items())
def test_torch_is_read_by_every_number(index: int, dtype: torch.dtype) -> None:
    assert dtypes.torch_dtype(index) is dtype
    assert dtypes.TORCH_ITEMSIZES[index] == dtype.itemsize


@pytest.mark.parametrize(("index", "dtype"), TORCH_WRITTEN.items())
def test_torch_is_written_with_the_higher_number(index: int, dtype: torch.dtype) -> None:
    assert dtypes.torch_index(dtype) == index


def test_torch_has_no_other_numbers() -> None:
    assert dtypes.torch_dtype(-1) is None
    assert dtypes.torch_dtype(21) is None
    assert dtypes.torch_index(torch.uint32) is None
    assert dtypes.torch_index(torch.float8_e4m3fn) is None
    assert len(dtypes.TORCH_DTYPE_NAMES) == len(dtypes.TORCH_ITEMSIZES) == 21
