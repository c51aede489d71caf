"""The tree of a sample: which containers hold which leaves, and how that is written in an index.

A sample is flattened depth first into a list of leaves and a TreeSpec. Only exact container types
are inner nodes: dict, list, tuple, OrderedDict, defaultdict, deque and registered types. Everything
else is a leaf: None, instances of container subclasses, and a list or tuple of PIL JPEG images.
"""

from __future__ import annotations

import json
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from aiolit.errors import IndexFormatError, SchemaError
from aiolit.format.leaf_types import describe, is_jpeg_sequence
from aiolit.format.tree_nodes import (
    MAPPING_TYPES,
    NODE_TYPES,
    NodeType,
    is_namedtuple,
    node_type_named,
    register_namedtuple,
    register_node,
)

__all__ = [
    "TreeSpec",
    "compile_unflatten",
    "flatten",
    "flatten_like",
    "register_namedtuple",
    "register_node",
]

MAX_DEPTH = 200
ROOT_PATH = "<sample>"
_PROTOCOL = 1
_LEAF_JSON: dict[str, Any] = {"type": None, "context": None, "children_spec": []}

Unflatten = Callable[[Sequence[Any]], Any]
_Take = Callable[[Any, list[Any]], None]


class TreeSpec:
    """The shape of a sample.

    Attributes:
        node: What kind of container this is, or None for a leaf.
        context: What the container needs besides its children, such as a dict's keys.
        children: The shapes of the children, in order.
        num_leaves: How many leaves the tree has.
    """

    __slots__ = ("_take", "children", "context", "node", "num_leaves")

    def __init__(
        self, node: NodeType | None, context: Any, children: Iterable[TreeSpec] = ()
    ) -> None:
        self.node = node
        self.context = context
        self.children = tuple(children)
        self.num_leaves: int = (
            1 if node is None else sum(child.num_leaves for child in self.children)
        )
        self._take: _Take | None = None

    def to_json(self) -> str:
        """Return the text that an index stores as ``data_spec``."""
        return json.dumps([_PROTOCOL, _node_to_json(self)])

    @classmethod
    def from_json(cls, text: str, *, source: str) -> TreeSpec:
        """Parse the ``data_spec`` of an index.

        Args:
            text: The stored text.
            source: Which index it is from; it opens the error messages.

        Raises:
            IndexFormatError: The text is no tree, or names a type that is not registered here.
        """
        try:
            stored = json.loads(text)
        except (TypeError, ValueError, RecursionError) as exc:
            raise IndexFormatError(f"{source}: data_spec is not JSON: {exc}") from exc
        if not isinstance(stored, list) or len(stored) != 2 or stored[0] != _PROTOCOL:
            raise IndexFormatError(
                f"{source}: data_spec must be [{_PROTOCOL}, tree], not {text[:80]!r}"
            )
        return _node_from_json(stored[1], source, 0)

    def leaf_paths(self) -> tuple[str, ...]:
        """Return where each leaf is, in order, such as ``"boxes[0].label"``."""
        return tuple(path for path, _ in _walk_leaves(self, ""))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeSpec):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"TreeSpec({self.to_json()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_pickled, (self.to_json(),)


LEAF = TreeSpec(None, None)


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
    take = spec._take
    if take is None:
        take = spec._take = _compile_take(spec, "")
    leaves: list[Any] = []
    take(sample, leaves)
    return leaves


def compile_unflatten(spec: TreeSpec) -> Unflatten:
    """Return a function that builds a sample of shape ``spec`` from its leaves, given in order.

    The function makes new containers on each call, and does not keep the sequence of leaves.
    """
    return _compile_unflatten(spec, 0)


def _flatten(value: Any, leaves: list[Any], path: str, depth: int) -> TreeSpec:
    node = NODE_TYPES.get(type(value))
    if node is None and is_namedtuple(value):
        raise SchemaError(
            f"'{_shown(path)}': {describe(value)} is a namedtuple that is not registered; "
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
        raise SchemaError(f"'{_shown(path)}': {describe(value)} cannot be stored: {exc}") from exc
    return TreeSpec(
        node,
        context,
        [
            _flatten(child, leaves, path + node.label(context, i), depth + 1)
            for i, child in enumerate(children)
        ],
    )


def _shown(path: str) -> str:
    return path.removeprefix(".") or ROOT_PATH


def _from_pickled(text: str) -> TreeSpec:
    return TreeSpec.from_json(text, source="a pickled TreeSpec")


def _node_to_json(spec: TreeSpec) -> dict[str, Any]:
    if spec.node is None:
        return _LEAF_JSON
    return {
        "type": spec.node.name,
        "context": spec.node.dump(spec.context),
        "children_spec": [_node_to_json(child) for child in spec.children],
    }


def _node_from_json(stored: Any, source: str, depth: int) -> TreeSpec:
    if depth > MAX_DEPTH:
        raise IndexFormatError(f"{source}: data_spec is nested more than {MAX_DEPTH} deep")
    if not isinstance(stored, dict) or not {"type", "context", "children_spec"} <= stored.keys():
        raise IndexFormatError(
            f"{source}: data_spec has a node that is not an object with type, context and "
            "children_spec"
        )
    name, stored_children = stored["type"], stored["children_spec"]
    if not isinstance(stored_children, list):
        raise IndexFormatError(f"{source}: data_spec has children_spec that is no list")
    if name is None:
        if stored_children:
            raise IndexFormatError(f"{source}: data_spec has a leaf with children")
        return LEAF
    node = node_type_named(name, stored["context"])
    if node is None:
        raise IndexFormatError(
            f"{source}: data_spec names the container type {reprlib.repr(name)} (context "
            f"{reprlib.repr(stored['context'])}), which is not registered in this process; call "
            "aiolit.format.tree.register_namedtuple or register_node first"
        )
    children = [_node_from_json(child, source, depth + 1) for child in stored_children]
    try:
        context = node.load(stored["context"], len(children))
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise IndexFormatError(
            f"{source}: data_spec has a bad context for {name!r}: "
            f"{reprlib.repr(stored['context'])} ({exc})"
        ) from exc
    return TreeSpec(node, context, children)


def _walk_leaves(spec: TreeSpec, path: str) -> Iterable[tuple[str, TreeSpec]]:
    if spec.node is None:
        yield _shown(path), spec
        return
    for i, child in enumerate(spec.children):
        yield from _walk_leaves(child, path + spec.node.label(spec.context, i))


def _compile_unflatten(spec: TreeSpec, first: int) -> Unflatten:
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
        makers.append(_compile_unflatten(child, first))
        first += child.num_leaves
    return lambda values: build([make(values) for make in makers])


def _flat_prefix(build: Callable[[Sequence[Any]], Any], count: int) -> Unflatten:
    def make(values: Sequence[Any]) -> Any:
        return build(values if len(values) == count else values[:count])

    return make


def _compile_take(spec: TreeSpec, path: str) -> _Take:
    if spec.node is None:
        return _leaf_taker(path)
    children = _children_getter(spec, path)
    if all(child.node is None for child in spec.children):
        return _flat_taker(spec, children, path)
    takers = [
        _compile_take(child, path + spec.node.label(spec.context, i))
        for i, child in enumerate(spec.children)
    ]

    def take(value: Any, leaves: list[Any]) -> None:
        for take_child, child in zip(takers, children(value), strict=True):
            take_child(child, leaves)

    return take


def _leaf_taker(path: str) -> _Take:
    def take(value: Any, leaves: list[Any]) -> None:
        if type(value) in NODE_TYPES:
            _refuse_container(value, path)
        leaves.append(value)

    return take


def _flat_taker(spec: TreeSpec, children: Callable[[Any], Sequence[Any]], path: str) -> _Take:
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
            f"leaf '{path.removeprefix('.') or ROOT_PATH}': a single value in the first sample, "
            f"now a {describe(value)}"
        )


def _children_getter(spec: TreeSpec, path: str) -> Callable[[Any], Sequence[Any]]:
    """Return a function that gives the children of a container, or raises SchemaError."""
    node = spec.node
    assert node is not None
    shown = _shown(path)
    cls, count = node.cls, len(spec.children)

    def wrong_type(value: Any) -> SchemaError:
        return SchemaError(
            f"'{shown}': expected a {cls.__name__} as in the first sample, got {describe(value)}"
        )

    if cls in MAPPING_TYPES:
        return _mapping_getter(spec, shown, wrong_type)
    if cls in (list, tuple):

        def from_sequence(value: Any) -> Sequence[Any]:
            if type(value) is not cls:
                raise wrong_type(value)
            if len(value) != count:
                raise SchemaError(
                    f"'{shown}': {count} elements in the first sample, now {len(value)}; the "
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
                f"'{shown}': this {cls.__name__} differs from the first sample's: "
                f"{len(children)} children with context {context!r}, expected {count} with "
                f"{spec.context!r}"
            )
        return children

    return from_other


def _mapping_getter(
    spec: TreeSpec, shown: str, wrong_type: Callable[[Any], SchemaError]
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
                f"'{shown}': keys differ from the first sample's: missing {missing}; extra {extra}"
            )
        if factory is not None and value.default_factory != factory:
            raise SchemaError(
                f"'{shown}': the default factory is {value.default_factory!r}, but {factory!r} in "
                "the first sample"
            )
        return pick(value)

    return from_mapping
