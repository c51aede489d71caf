"""Reading data sets of LitData's TemporalArrayLoader: records of arrays that share their frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChunkFormatError, ConfigError
from aiolit.format.dataset_info import Index
from aiolit.format.encryption_base import Encryption
from aiolit.format.fields import Fields
from aiolit.format.loader_base import (
    BoundLoader,
    Decode,
    ItemLoader,
    ItemsBound,
    SampleEncoder,
    check_name,
)
from aiolit.format.serializers import SerializerRegistry

_KINDS = "biufc"
_LARGEST_ROW = 2**32


class TemporalArrayLoader(ItemLoader):
    """Samples are whole records: a dict of arrays or tensors of one length. Only read."""

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Make the loader ready for a data set.

        Raises:
            IndexFormatError: ``temporal_schema`` is missing or disagrees with itself.
        """
        check_name(self, index, source)
        config = Fields(index.config.extra, source=source, path="config")
        return ItemsBound(index.config, _compile(config.object("temporal_schema")), encryption)

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Refuse: the layout is only read."""
        raise ConfigError("TemporalArrayLoader only reads; write with PyTreeLoader")


def _compile(schema: Fields) -> Decode:
    if schema.integer("version") != 1:
        schema.refuse("version", "must be 1")
    order = schema.texts("field_order")
    fields = schema.object("fields")
    if not order or len(set(order)) != len(order) or set(order) != set(fields.values):
        schema.refuse("field_order", "must name each of 'fields' once")
    tensors = [_flag(fields.object(name), "tensor") for name in order]
    groups = _groups(schema, fields, order)
    place = {name: number for number, group in enumerate(groups) for name in group.names or ()}
    frame_nbytes = sum(group.itemsize for group in groups)

    def decode(data: memoryview) -> dict[str, Any]:
        frames = int.from_bytes(data[:4], "little")
        if len(data) != 4 + frames * frame_nbytes:
            raise ChunkFormatError(
                f"a record of {len(data)} bytes is said to hold {frames} frames of {frame_nbytes}"
            )
        rows: list[NDArray[Any]] = []
        at = 4
        for group in groups:
            rows.append(np.frombuffer(data, dtype=group, count=frames, offset=at))
            at += frames * group.itemsize
        return {
            name: _own(rows[place[name]][name], tensor)
            for name, tensor in zip(order, tensors, strict=True)
        }

    return decode


def _groups(schema: Fields, fields: Fields, order: tuple[str, ...]) -> list[np.dtype[Any]]:
    groups: list[np.dtype[Any]] = []
    named: list[str] = []
    for number, group in enumerate(schema.array("groups")):
        if not isinstance(group, list) or not group or not set(map(str, group)) <= set(order):
            schema.refuse(f"groups[{number}]", "must be an array of names of fields")
        named.extend(group)
        columns = [(name, *_column(fields.object(name))) for name in group]
        row = sum(dtype.itemsize * int(np.prod(shape, dtype=object)) for _, dtype, shape in columns)
        if row > _LARGEST_ROW:
            schema.refuse(f"groups[{number}]", f"has frames of {row} bytes")
        try:
            groups.append(np.dtype(columns, align=True))
        except (TypeError, ValueError) as error:
            schema.refuse(f"groups[{number}]", f"cannot be a row: {error}")
    if sorted(named) != sorted(order):
        schema.refuse("groups", "must hold each of 'fields' once")
    return groups


def _column(field: Fields) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        dtype = np.dtype(field.text("dtype"))
    except (TypeError, ValueError, SyntaxError) as error:
        field.refuse("dtype", f"is no element type: {error}")
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        field.refuse("dtype", f"cannot be {field.text('dtype')!r}")
    shape = field.array("shape")
    if len(shape) > 32 or not all(type(n) is int and 0 < n < _LARGEST_ROW for n in shape):
        field.refuse("shape", f"must be positive numbers, not {shape!r}")
    return dtype, tuple(shape)


def _flag(field: Fields, key: str) -> bool:
    value = field.required(key)
    if not isinstance(value, bool):
        field.refuse(key, "must be true or false")
    return value


def _own(values: NDArray[Any], tensor: bool) -> Any:
    if not tensor:
        return np.ascontiguousarray(values).copy()
    import torch  # lazily: data sets of arrays alone must not pay for torch

    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C", copy=True))
