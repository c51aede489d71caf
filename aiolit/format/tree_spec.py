"""The shape of a sample, and the JSON text in which an index stores it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

from aiolit.errors import IndexFormatError
from aiolit.format.tree_nodes import NodeType, node_type_named

MAX_DEPTH = 200
ROOT_PATH = "<sample>"
_PROTOCOL = 1
_LEAF_JSON: dict[str, Any] = {"type": None, "context": None, "children_spec": []}

Take = Callable[[Any, list[Any]], None]


class TreeSpec:
    """The shape of a sample.

    Attributes:
        node: What kind of container this is, or None for a leaf.
        context: What the container needs besides its children, such as a dict's keys.
        children: The shapes of the children, in order.
        num_leaves: How many leaves the tree has.
        take: The compiled function that takes such samples apart, once there is one.
    """

    __slots__ = ("children", "context", "node", "num_leaves", "take")

    def __init__(
        self, node: NodeType | None, context: Any, children: Iterable[TreeSpec] = ()
    ) -> None:
        self.node = node
        self.context = context
        self.children = tuple(children)
        self.num_leaves: int = (
            1 if node is None else sum(child.num_leaves for child in self.children)
        )
        self.take: Take | None = None

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


def shown(path: str) -> str:
    """Return a path as it is shown to the user."""
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
        yield shown(path), spec
        return
    for i, child in enumerate(spec.children):
        yield from _walk_leaves(child, path + spec.node.label(spec.context, i))
