"""The numbers that stand for element types in stored arrays and tensors.

Both tables are part of the file format. On disk every element is little-endian.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# The format also numbers object, S, U and void (14 to 17); their stored form cannot be read back,
# so they are not here.
# fmt: off
NUMPY_DTYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(code) for code in (
        "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8",
        "<f2", "<f4", "<f8", "<c8", "<c16", "?",
    )
)
# fmt: on

# Some types have two numbers: both are read, the higher one is written.
# fmt: off
TORCH_DTYPE_NAMES: tuple[str, ...] = (
    "float32", "float32", "float64", "float64", "complex64", "complex64", "complex128",
    "complex128", "float16", "float16", "bfloat16", "uint8", "int8", "int16", "int16", "int32",
    "int32", "int64", "int64", "bool", "uint16",
)
# fmt: on

# Element sizes in bytes, so that byte ranges of tokens are known without importing torch.
TORCH_ITEMSIZES: tuple[int, ...] = (4, 4, 8, 8, 8, 8, 16, 16, 2, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8, 1, 2)

_NUMPY_INDEX: dict[np.dtype[Any], int] = {dtype: i for i, dtype in enumerate(NUMPY_DTYPES)}


def numpy_dtype(index: int) -> np.dtype[Any] | None:
    """Return the array element type with this number, or None when it cannot be read."""
    return NUMPY_DTYPES[index] if 0 <= index < len(NUMPY_DTYPES) else None


def numpy_index(dtype: np.dtype[Any]) -> int | None:
    """Return the number that stands for ``dtype`` on disk, or None when it cannot be stored."""
    return _NUMPY_INDEX.get(dtype)


@cache
def torch_dtypes() -> tuple[torch.dtype, ...]:
    """Return the tensor element types in the order of their numbers. Imports torch."""
    import torch  # lazily: data sets without tensors must not pay for torch

    return tuple(getattr(torch, name) for name in TORCH_DTYPE_NAMES)


def torch_dtype(index: int) -> torch.dtype | None:
    """Return the tensor element type with this number, or None when there is none."""
    return torch_dtypes()[index] if 0 <= index < len(TORCH_DTYPE_NAMES) else None


def torch_index(dtype: torch.dtype) -> int | None:
    """Return the number that stands for ``dtype`` on disk, or None when it cannot be stored."""
    return _torch_indexes().get(dtype)


@cache
def _torch_indexes() -> dict[torch.dtype, int]:
    return {dtype: i for i, dtype in enumerate(torch_dtypes())}
