"""The tree of a sample: which containers hold which leaves, and how that is written in an index.

A sample is flattened depth first into a list of leaves and a TreeSpec. Only exact container types
are inner nodes: dict, list, tuple, OrderedDict, defaultdict, deque and registered types. Everything
else is a leaf: None, instances of container subclasses, and a list or tuple of PIL JPEG images.
"""

from __future__ import annotations

from typing import Any

from aiolit.errors import SchemaError
from aiolit.format.leaf_types import describe, is_jpeg_sequence
from aiolit.format.tree_compile import compile_take, compile_unflatten
from aiolit.format.tree_nodes import (
    NODE_TYPES,
    is_namedtuple,
    register_namedtuple,
    register_node,
)
from aiolit.format.tree_spec import LEAF, MAX_DEPTH, TreeSpec, shown

__all__ = [
    "TreeSpec",
    "compile_unflatten",
    "flatten",
    "flatten_like",
    "register_namedtuple",
    "register_node",
]


def flatten(sample: Any) -> tuple[list[Any], TreeSpec]:
    """Take a sample apart into its leaves, depth first, and its shape.

    Raises:
        SchemaError: A container cannot be stored: an unregistered namedtuple, a dict key that
            JSON has no form for, a defaultdict without a named factory, or nesting without end.
    """
    leaves: list[Any] = []
    return leaves, _flatten(sample, leaves, "", 0)


def flatten_like(sample: Any, spec: TreeSpec) -> list[Any]:
    """Take a sample apart that should have the shape ``spec``, and return its leaves in order.

    The keys of a dict may come in another order than in ``spec``.

    Raises:
        SchemaError: The shape differs; the message says where.
    """
    take = spec.take
    if take is None:
        take = spec.take = compile_take(spec)
    leaves: list[Any] = []
    take(sample, leaves)
    return leaves


def _flatten(value: Any, leaves: list[Any], path: str, depth: int) -> TreeSpec:
    node = NODE_TYPES.get(type(value))
    if node is None and is_namedtuple(value):
        raise SchemaError(
            f"'{shown(path)}': {describe(value)} is a namedtuple that is not registered; "
            "call aiolit.format.tree.register_namedtuple(cls) before writing and before reading"
        )
    if node is None or is_jpeg_sequence(value):
        leaves.append(value)
        return LEAF
    if depth == MAX_DEPTH:
        raise SchemaError(
            f"the sample is nested more than {MAX_DEPTH} deep; does it contain itself?"
        )
    children, context = node.take_apart(value)
    try:
        node.dump(context)
    except (TypeError, ValueError) as exc:
        raise SchemaError(f"'{shown(path)}': {describe(value)} cannot be stored: {exc}") from exc
    return TreeSpec(
        node,
        context,
        [
            _flatten(child, leaves, path + node.label(context, i), depth + 1)
            for i, child in enumerate(children)
        ],
    )
