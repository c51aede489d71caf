"""Functions made once for a shape: samples to leaves and leaves to samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from aiolit.errors import SchemaError
from aiolit.format.leaf_types import describe, is_jpeg_sequence
from aiolit.format.tree_nodes import MAPPING_TYPES, NODE_TYPES
from aiolit.format.tree_spec import Take, TreeSpec, shown

Unflatten = Callable[[Sequence[Any]], Any]


def compile_unflatten(spec: TreeSpec) -> Unflatten:
    """Return a function that builds a sample of shape ``spec`` from its leaves, given in order.

    The function makes new containers on each call, and does not keep the sequence of leaves.
    """
    return _unflatten(spec, 0)


def compile_take(spec: TreeSpec) -> Take:
    """Return a function that appends the leaves of a sample to a list.

    It raises SchemaError, and may then have appended some, when the sample has another shape.
    """
    return _take(spec, "")


def _unflatten(spec: TreeSpec, first: int) -> Unflatten:
    """Compile for leaves at absolute positions, so that inner nodes need no counter."""
    if spec.node is None:
        return itemgetter(first)
    build = spec.node.builder(spec.context)
    if all(child.node is None for child in spec.children):
        if first == 0:
            # May be the whole sample: then no slice is needed.
            return _flat_prefix(build, len(spec.children))
        leaves = itemgetter(slice(first, first + len(spec.children)))
        return lambda values: build(leaves(values))
    makers: list[Unflatten] = []
    for child in spec.children:
        makers.append(_unflatten(child, first))
        first += child.num_leaves
    return lambda values: build([make(values) for make in makers])


def _flat_prefix(build: Callable[[Sequence[Any]], Any], count: int) -> Unflatten:
    def make(values: Sequence[Any]) -> Any:
        return build(values if len(values) == count else values[:count])

    return make


def _take(spec: TreeSpec, path: str) -> Take:
    if spec.node is None:
        return _leaf_taker(path)
    children = _children_getter(spec, path)
    if all(child.node is None for child in spec.children):
        return _flat_taker(spec, children, path)
    takers = [
        _take(child, path + spec.node.label(spec.context, i))
        for i, child in enumerate(spec.children)
    ]

    def take(value: Any, leaves: list[Any]) -> None:
        for take_child, child in zip(takers, children(value), strict=True):
            take_child(child, leaves)

    return take


def _leaf_taker(path: str) -> Take:
    def take(value: Any, leaves: list[Any]) -> None:
        if type(value) in NODE_TYPES:
            _refuse_container(value, path)
        leaves.append(value)

    return take


def _flat_taker(spec: TreeSpec, children: Callable[[Any], Sequence[Any]], path: str) -> Take:
    assert spec.node is not None
    paths = [path + spec.node.label(spec.context, i) for i in range(len(spec.children))]
    no_containers = NODE_TYPES.keys().isdisjoint

    def take(value: Any, leaves: list[Any]) -> None:
        values = children(value)
        if not no_containers(map(type, values)):
            for child, child_path in zip(values, paths, strict=True):
                if type(child) in NODE_TYPES:
                    _refuse_container(child, child_path)
        leaves.extend(values)

    return take


def _refuse_container(value: Any, path: str) -> None:
    if not is_jpeg_sequence(value):
        raise SchemaError(
            f"leaf '{shown(path)}': a single value in the first sample, now a {describe(value)}"
        )


def _children_getter(spec: TreeSpec, path: str) -> Callable[[Any], Sequence[Any]]:
    """Return a function that gives the children of a container, or raises SchemaError."""
    node = spec.node
    assert node is not None
    where = shown(path)
    cls, count = node.cls, len(spec.children)

    def wrong_type(value: Any) -> SchemaError:
        return SchemaError(
            f"'{where}': expected a {cls.__name__} as in the first sample, got {describe(value)}"
        )

    if cls in MAPPING_TYPES:
        return _mapping_getter(spec, where, wrong_type)
    if cls in (list, tuple):

        def from_sequence(value: Any) -> Sequence[Any]:
            if type(value) is not cls:
                raise wrong_type(value)
            if len(value) != count:
                raise SchemaError(
                    f"'{where}': {count} elements in the first sample, now {len(value)}; the "
                    "length of a list or tuple is fixed (store an array, a tensor or a text)"
                )
            return value  # type: ignore[no-any-return]

        return from_sequence

    def from_other(value: Any) -> Sequence[Any]:
        if type(value) is not cls:
            raise wrong_type(value)
        children, context = node.take_apart(value)
        if len(children) != count or context != spec.context:
            raise SchemaError(
                f"'{where}': this {cls.__name__} differs from the first sample's: "
                f"{len(children)} children with context {context!r}, expected {count} with "
                f"{spec.context!r}"
            )
        return children

    return from_other


def _mapping_getter(
    spec: TreeSpec, where: str, wrong_type: Callable[[Any], SchemaError]
) -> Callable[[Any], Sequence[Any]]:
    assert spec.node is not None
    cls, keys = spec.node.cls, spec.node.keys(spec.context)
    count, known = len(keys), frozenset(keys)
    factory = spec.context[0] if cls is defaultdict else None
    pick = itemgetter(*keys) if count > 1 else lambda value: [value[key] for key in keys]

    def from_mapping(value: Any) -> Sequence[Any]:
        if type(value) is not cls:
            raise wrong_type(value)
        if len(value) != count or not known.issubset(value):
            missing = ", ".join(repr(key) for key in keys if key not in value) or "none"
            extra = ", ".join(repr(key) for key in value if key not in known) or "none"
            raise SchemaError(
                f"'{where}': keys differ from the first sample's: missing {missing}; extra {extra}"
            )
        if factory is not None and value.default_factory != factory:
            raise SchemaError(
                f"'{where}': the default factory is {value.default_factory!r}, but {factory!r} in "
                "the first sample"
            )
        return pick(value)

    return from_mapping
