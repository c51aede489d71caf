"""Samples whose dicts have the keys of the first sample in another order.

Each worker takes the order of the first sample that it meets. What the data set has must not depend
on who met what first, so the parent puts the leaves of a worker that differs into the order of the
first sample of all. Decisions and bytes only, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.processing.protocol import Schema

__all__ = ["leaf_order", "reorder"]

_DICTS = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")


def leaf_order(expected: Schema, found: Schema) -> list[int] | None:
    """Return where in ``found`` each leaf of ``expected`` is; None if more than that differs."""
    try:
        order = _order(json.loads(expected.data_spec)[1], json.loads(found.data_spec)[1], [0])
    except (LookupError, TypeError, ValueError):
        return None
    if order is None or [found.data_format[k] for k in order] != list(expected.data_format):
        return None
    return order


def _order(expected: Any, found: Any, counter: list[int]) -> list[int] | None:
    if expected["type"] != found["type"]:
        return None
    if expected["type"] is None:
        counter[0] += 1
        return [counter[0] - 1]
    children = expected["children_spec"]
    if len(children) != len(found["children_spec"]):
        return None
    wanted = list(range(len(children)))
    if expected["type"] in _DICTS:
        keys, other = _keys(expected["context"]), _keys(found["context"])
        if sorted(map(repr, keys)) != sorted(map(repr, other)):
            return None
        wanted = [keys.index(key) for key in other]
    elif expected["context"] != found["context"]:
        return None
    # In the order of `found`, so that its leaves are counted as they lie.
    parts: dict[int, list[int]] = {}
    for position, child in zip(wanted, found["children_spec"], strict=True):
        part = _order(children[position], child, counter)
        if part is None:
            return None
        parts[position] = part
    return [leaf for position in range(len(children)) for leaf in parts[position]]


def _keys(context: Any) -> list[Any]:
    if isinstance(context, dict):
        return list(context["dict_context"])
    return list(json.loads(context))


def reorder(sizes: NDArray[np.int64], data: memoryview, order: Sequence[int]) -> memoryview:
    """Return encoded samples with the leaves of each in another order; their sizes stay."""
    count = len(order)
    parts: list[bytes | memoryview] = []
    start = 0
    for size in sizes.tolist():
        item = data[start : start + size]
        start += size
        lengths: NDArray[np.uint32] = np.frombuffer(item[: 4 * count], dtype="<u4")
        ends = 4 * count + np.cumsum(lengths, dtype=np.int64)
        begins = ends - lengths
        parts.append(lengths[list(order)].tobytes())
        parts.extend(item[begins[leaf] : ends[leaf]] for leaf in order)
    return memoryview(b"".join(parts))
