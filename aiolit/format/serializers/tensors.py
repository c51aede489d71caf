"""torch tensors: of one dimension as bare elements, others with a header.

torch is imported when the first tensor is decoded. A tensor to be encoded proves it is loaded.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from aiolit.errors import ChunkFormatError, IndexFormatError, SchemaError
from aiolit.format.dtypes import TORCH_DTYPE_NAMES, TORCH_ITEMSIZES, torch_dtypes, torch_index
from aiolit.format.leaf_types import is_tensor
from aiolit.format.serializers.arrays import check_size, no_header_index, read_header
from aiolit.format.serializers.base import Decode, LeafEncoder, LeafKind, mismatch

if TYPE_CHECKING:
    import torch


class BareTensorKind(LeafKind):
    """A 1-D tensor; its dtype is part of the format name, ``no_header_tensor:18``."""

    name = "no_header_tensor"

    def claims(self, value: Any) -> bool:
        return is_tensor(value) and value.dim() == 1

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        index, dtype = storable_index(value, path), value.dtype

        def encode(value: Any) -> bytes:
            if not is_tensor(value) or value.dtype != dtype or value.dim() != 1:
                raise mismatch(path, f"a 1-D tensor of {dtype}", value)
            return tensor_bytes(value, path)

        return LeafEncoder(path, f"{self.name}:{index}", encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        index = no_header_index(format_name)
        if index >= len(TORCH_DTYPE_NAMES):
            raise IndexFormatError(f"'{format_name}': tensors of dtype {index} cannot be read")
        itemsize = TORCH_ITEMSIZES[index]

        def decode(data: memoryview) -> torch.Tensor:
            if len(data) % itemsize:
                raise ChunkFormatError(
                    f"a tensor leaf of {len(data)} bytes holds no whole number of "
                    f"{TORCH_DTYPE_NAMES[index]}"
                )
            return tensor_from(data, torch_dtypes()[index])

        return decode


class TensorKind(LeafKind):
    """A tensor with its dtype and shape before the elements."""

    name = "tensor"

    def claims(self, value: Any) -> bool:
        return is_tensor(value) and value.dim() != 1

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        def encode(value: Any) -> bytes:
            if not is_tensor(value):
                raise mismatch(path, "a tensor", value)
            shape = value.shape
            header = struct.pack(
                f">{2 + len(shape)}I", storable_index(value, path), len(shape), *shape
            )
            return header + tensor_bytes(value, path)

        storable_index(value, path)
        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return decode_tensor


def storable_index(value: torch.Tensor, path: str) -> int:
    """Return the number of a tensor's dtype, or raise SchemaError when it cannot be stored."""
    index = torch_index(value.dtype)
    if index is None:
        raise SchemaError(
            f"leaf '{path}': tensors of dtype {value.dtype} cannot be stored; convert it, for "
            "example with .to(torch.int64) or .view(torch.uint8)"
        )
    return index


def tensor_bytes(value: torch.Tensor, path: str) -> bytes:
    """Return the elements in C order, whatever device or strides the tensor has."""
    import torch  # lazily, see the module's docstring

    if value.layout is not torch.strided or value.is_nested or value.device.type == "meta":
        raise SchemaError(
            f"leaf '{path}': a tensor that is sparse, nested or on the meta device cannot be "
            "stored; make it dense first"
        )
    if value.dtype is torch.bfloat16:
        value = value.detach().view(torch.int16)  # NumPy has no bfloat16
    elements: bytes = value.numpy(force=True).tobytes()
    return elements


def tensor_from(data: memoryview, dtype: torch.dtype) -> torch.Tensor:
    """Return a 1-D tensor with a copy of the elements in ``data``; its memory is writable."""
    import torch  # lazily, see the module's docstring

    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)


def decode_tensor(data: memoryview) -> torch.Tensor:
    """Decode a tensor with a header."""
    index, shape, start = read_header(data, ">", "a tensor leaf")
    if index >= len(TORCH_DTYPE_NAMES):
        raise ChunkFormatError(f"a tensor leaf has dtype {index}, which cannot be read")
    check_size(shape, TORCH_ITEMSIZES[index], len(data) - start, "a tensor leaf")
    try:
        return tensor_from(data[start:], torch_dtypes()[index]).reshape(shape)
    except RuntimeError as exc:  # no elements, and yet more length than torch takes
        raise ChunkFormatError(f"a tensor leaf has the shape {shape}: {exc}") from exc
