"""Batches of fixed-size samples, made column by column from the mapped chunks.

Where every leaf of a sample is a number, a flag or an array of one shape, all samples of a chunk
have one length. Then a batch is a gather of rows of bytes, and each leaf a slice of their columns:
no sample exists as a Python object. The result is that of torch's ``default_collate`` on the single
samples, bit for bit; where a batch turns out not to be of one shape, the caller reads it that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from aiolit.format.dataset_info import Index, is_mds, loader_name
from aiolit.format.dtypes import numpy_dtype, torch_dtype
from aiolit.format.tree import TreeSpec, compile_unflatten

Rows = NDArray[np.uint8]
Column = Callable[[Rows], torch.Tensor | None]

_SCALARS = {"int": np.dtype("<i8"), "float": np.dtype("<f8"), "bool": np.dtype("?")}


class ColumnCollate:
    """Turns rows of bytes, one for each sample, into the collated batch.

    Args:
        columns: What makes each leaf's batch of its bytes.
        build: Puts the leaves' batches into the tree that ``default_collate`` would give.
        has_sizes: Whether each row begins with the sizes of its leaves.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        build: Callable[[Sequence[torch.Tensor]], Any],
        *,
        has_sizes: bool,
    ) -> None:
        self._columns, self._build, self._has_sizes = columns, build, has_sizes

    def __call__(self, rows: Rows) -> Any:
        """Return the batch, or None if the samples are not of one shape."""
        leaves = self._leaves(rows)
        return None if leaves is None else self._build(leaves)

    def several(self, rows: Rows, count: int) -> Iterator[Any] | None:
        """Return what yields batches of ``count`` samples each; None if the samples of all of them
        are not of one shape.

        What numpy and torch ask for each call is paid once for all of them.
        """
        leaves = self._leaves(rows)
        if leaves is None:
            return None
        parts = zip(*(_parts(leaf, count) for leaf in leaves), strict=True)
        return map(self._build, parts)

    def _leaves(self, rows: Rows) -> list[torch.Tensor] | None:
        """Return each leaf of all rows."""
        if not self._has_sizes:
            tensor = self._columns[0](rows)
            return None if tensor is None else [tensor]
        at = 4 * len(self._columns)
        if rows.shape[1] < at:
            return None
        head = rows[:, :at].view("<u4" if at % 8 else "<u8")  # few words compare faster
        if (head != head[0]).any():
            return None
        sizes = head[0].view("<u4").tolist()
        if at + sum(sizes) != rows.shape[1]:
            return None
        tensors = []
        for column, size in zip(self._columns, sizes, strict=True):
            tensor = column(rows[:, at : at + size])
            if tensor is None:
                return None
            tensors.append(tensor)
            at += size
        return tensors


def _parts(leaf: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Yield ``count`` rows at a time, as copies: whoever keeps one batch, or pickles it, shall not
    keep all of them. There are whole batches only."""
    if leaf.dtype is torch.bfloat16:  # which numpy has not; its copies take half the time
        return map(torch.clone, torch.split(leaf, count))
    batches = leaf.numpy().reshape(len(leaf) // count, count, *leaf.shape[1:])
    return map(torch.from_numpy, map(np.ndarray.copy, batches))


def column_collate(index: Index) -> ColumnCollate | None:
    """Return what collates a data set's rows, or None where samples can differ in size."""
    config = index.config
    if is_mds(config) or config.encryption is not None or config.compression_level is not None:
        return None
    tokens = loader_name(config) == "TokensLoader"
    if not tokens and loader_name(config) != "PyTreeLoader":
        return None
    if config.data_spec is None or not config.data_format:
        return None
    formats = config.data_format[:1] if tokens else config.data_format
    columns = [_column(name) for name in formats]
    found = [column for column in columns if column is not None]
    if len(found) < len(columns):
        return None
    if tokens:
        return ColumnCollate(found, lambda leaves: leaves[0], has_sizes=False)
    spec = TreeSpec.from_json(config.data_spec, source="index.json")
    if spec.num_leaves != len(columns):
        return None
    try:
        template = default_collate([compile_unflatten(spec)(list(range(len(columns))))])
    except TypeError:  # a container that default_collate refuses: it shall say so itself
        return None
    return ColumnCollate(found, _builder(template), has_sizes=True)


def _column(name: str) -> Column | None:
    """Return what makes a batch of a leaf's bytes, or None where its size can vary."""
    base, _, suffix = name.partition(":")
    if name in _SCALARS:
        dtype = _SCALARS[name]
        return lambda rows: _scalars(rows, dtype)
    if base == "no_header_numpy":
        plain = numpy_dtype(int(suffix))
        return None if plain is None or plain.hasobject else lambda rows: _vectors(rows, plain)
    if base == "no_header_tensor":
        kind = torch_dtype(int(suffix))
        return None if kind is None else lambda rows: _tensors(rows, kind, [-1])
    if name == "numpy":
        return _arrays
    if name == "tensor":
        return _headed_tensors
    return None


def _scalars(rows: Rows, dtype: np.dtype[Any]) -> torch.Tensor | None:
    if rows.shape[1] != dtype.itemsize:
        return None
    return torch.from_numpy(np.ascontiguousarray(rows.view(dtype)).reshape(-1))


def _vectors(rows: Rows, dtype: np.dtype[Any]) -> torch.Tensor | None:
    if rows.shape[1] % dtype.itemsize:
        return None
    if not rows.shape[1]:
        return torch.from_numpy(np.zeros((len(rows), 0), dtype))
    return torch.from_numpy(np.ascontiguousarray(rows.view(dtype)))


def _tensors(rows: Rows, dtype: torch.dtype, shape: list[int]) -> torch.Tensor | None:
    if not rows.shape[1] or rows.shape[1] % dtype.itemsize:
        return None
    plain = torch.from_numpy(np.ascontiguousarray(rows))
    return plain.view(dtype).reshape([len(rows), *shape])


def _arrays(rows: Rows) -> torch.Tensor | None:
    """Arrays behind a header of table index, rank and shape, little-endian."""
    shape, kind, body = _headed(rows, "<u4")
    if shape is None or body is None:
        return None
    dtype = numpy_dtype(kind)
    if dtype is None or dtype.hasobject or int(np.prod(shape)) * dtype.itemsize != body.shape[1]:
        return None
    if not body.shape[1]:
        return None
    flat = np.ascontiguousarray(body).view(dtype)
    return torch.from_numpy(flat.reshape(len(rows), *shape))


def _headed_tensors(rows: Rows) -> torch.Tensor | None:
    """Tensors behind a header of table index, rank and shape, big-endian."""
    shape, kind, body = _headed(rows, ">u4")
    if shape is None or body is None:
        return None
    dtype = torch_dtype(kind)
    if dtype is None or int(np.prod(shape)) * dtype.itemsize != body.shape[1]:
        return None
    return _tensors(body, dtype, shape)


def _headed(rows: Rows, order: str) -> tuple[list[int] | None, int, Rows | None]:
    if rows.shape[1] < 8:
        return None, 0, None
    kind, rank = rows[0, :8].view(order).tolist()
    end = 8 + 4 * rank
    if rank > 32 or rows.shape[1] < end or (rows[:, :end] != rows[0, :end]).any():
        return None, 0, None
    return rows[0, 8:end].view(order).tolist(), kind, rows[:, end:]


def _builder(template: Any) -> Callable[[Sequence[torch.Tensor]], Any]:
    """Compile a collated tree of leaf numbers into a function of the leaves."""
    if isinstance(template, torch.Tensor):
        number = int(template[0])
        return lambda leaves: leaves[number]
    if isinstance(template, dict):
        made = {key: _builder(value) for key, value in template.items()}
        order = [int(value[0]) for value in template.values() if isinstance(value, torch.Tensor)]
        if type(template) is dict and order == list(range(len(made))):
            keys = list(made)
            return lambda leaves: dict(zip(keys, leaves, strict=True))
        if type(template) is dict:
            return lambda leaves: {key: build(leaves) for key, build in made.items()}
        return lambda leaves: _filled(template, {key: made[key](leaves) for key in made})
    parts = [_builder(value) for value in template]
    if isinstance(template, tuple):  # a namedtuple: plain tuples become lists
        kind: Any = type(template)
        return lambda leaves: kind(*(build(leaves) for build in parts))
    return lambda leaves: [build(leaves) for build in parts]


def _filled(template: Any, values: dict[Any, Any]) -> Any:
    """Return a mapping of the template's own type, as ``default_collate`` does."""
    clone = copy(template)
    clone.update(values)
    return clone
