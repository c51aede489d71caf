"""The kinds of containers a sample's tree can have, and how each is named and stored."""

from __future__ import annotations

import json
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

NAMEDTUPLE = "collections.namedtuple"

Build = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class NodeType:
    """One kind of container.

    Attributes:
        cls: The exact type of its instances.
        name: The type name in the stored tree.
        take_apart: Gives the children and the context, what else is needed to rebuild it.
        builder: Given a context, gives the function from children to container.
        dump: The context as a JSON value. Raises TypeError or ValueError for one it cannot store.
        load: The context from its JSON value and the number of children.
        label: What the i-th child adds to a path.
        keys: The keys of a dict-like container, from its context.
    """

    cls: type[Any]
    name: str
    take_apart: Callable[[Any], tuple[Sequence[Any], Any]]
    builder: Callable[[Any], Build]
    dump: Callable[[Any], Any]
    load: Callable[[Any, int], Any]
    label: Callable[[Any, int], str]
    keys: Callable[[Any], tuple[Any, ...]] = lambda context: ()


@dataclass(frozen=True, slots=True)
class UnknownFactory:
    """Stands for a defaultdict's factory that the data names and that is not looked up.

    Importing what a data set names would run code of its choice.
    """

    module: str
    name: str

    def __call__(self) -> Any:
        raise KeyError(f"no such key; the factory {self.module}.{self.name} of this defaultdict")


_FACTORIES: dict[tuple[str, str], Callable[[], Any]] = {
    (cls.__module__, cls.__qualname__): cls
    for cls in (
        *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple),
        *(Counter, OrderedDict, defaultdict, deque),
    )
}


def _key_label(key: Any) -> str:
    if isinstance(key, str) and key and not set(key) & set(".[]' "):
        return f".{key}"
    return f"[{key!r}]"


def _index_label(context: Any, i: int) -> str:
    return f"[{i}]"


def _checked_keys(keys: Sequence[Any]) -> list[Any]:
    for key in keys:
        if key is not None and not isinstance(key, str | int | float):
            raise TypeError(f"the key {key!r} is not a str, int, float, bool or None")
    return list(keys)


def _stored_keys(stored: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(stored, list):
        raise TypeError("the keys are not a list")
    # LitData writes tuple keys as JSON lists, which can have been nothing else.
    keys = tuple(_as_key(key) for key in stored)
    if len(keys) != count or len(set(keys)) != count:
        raise ValueError(f"{count} different keys are needed")
    return keys


def _as_key(stored: Any) -> Any:
    return tuple(_as_key(part) for part in stored) if isinstance(stored, list) else stored


def _loaded(stored: Any) -> Any:
    return json.loads(stored) if isinstance(stored, str) else stored


def _dict_builder(keys: tuple[Any, ...]) -> Build:
    return lambda values: dict(zip(keys, values, strict=True))


def _ordered_dict_builder(keys: tuple[Any, ...]) -> Build:
    return lambda values: OrderedDict(zip(keys, values, strict=True))


def _defaultdict_builder(context: tuple[Any, tuple[Any, ...]]) -> Build:
    factory, keys = context
    return lambda values: defaultdict(factory, zip(keys, values, strict=True))


def _dump_defaultdict(context: tuple[Any, tuple[Any, ...]]) -> dict[str, Any]:
    factory, keys = context
    module: Any = getattr(factory, "__module__", None)
    name: Any = getattr(factory, "__qualname__", None)
    if isinstance(factory, UnknownFactory):
        module, name = factory.module, factory.name
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise TypeError(f"a reader cannot find the default factory {factory!r} by a name")
    return {
        "default_factory_module": module,
        "default_factory_name": name,
        "dict_context": _checked_keys(keys),
    }


def _load_defaultdict(stored: Any, count: int) -> tuple[Any, tuple[Any, ...]]:
    stored = _loaded(stored)
    module, name = stored["default_factory_module"], stored["default_factory_name"]
    factory = _FACTORIES.get((module, name)) or UnknownFactory(str(module), str(name))
    return factory, _stored_keys(stored["dict_context"], count)


def _load_maxlen(stored: Any, count: int) -> int | None:
    maxlen = _loaded(stored)
    if maxlen is not None and (type(maxlen) is not int or not count <= maxlen <= sys.maxsize):
        raise ValueError(f"maxlen must be null or a length of at least {count}")
    return maxlen


def _mapping(cls: type[Any], name: str, builder: Callable[[Any], Build]) -> NodeType:
    return NodeType(
        cls=cls,
        name=name,
        take_apart=lambda value: (list(value.values()), tuple(value)),
        builder=builder,
        dump=lambda keys: json.dumps(_checked_keys(keys)),
        load=lambda stored, count: _stored_keys(_loaded(stored), count),
        label=lambda keys, i: _key_label(keys[i]),
        keys=lambda keys: tuple(keys),
    )


def _sequence(cls: type[Any]) -> NodeType:
    return NodeType(
        cls=cls,
        name=f"builtins.{cls.__name__}",
        take_apart=lambda value: (value, None),
        builder=lambda context: cls,
        dump=lambda context: "null",
        load=lambda stored, count: None,
        label=_index_label,
    )


_BUILT_IN = (
    _mapping(dict, "builtins.dict", _dict_builder),
    _mapping(OrderedDict, "collections.OrderedDict", _ordered_dict_builder),
    NodeType(
        cls=defaultdict,
        name="collections.defaultdict",
        take_apart=lambda value: (list(value.values()), (value.default_factory, tuple(value))),
        builder=_defaultdict_builder,
        dump=_dump_defaultdict,
        load=_load_defaultdict,
        label=lambda context, i: _key_label(context[1][i]),
        keys=lambda context: tuple(context[1]),
    ),
    _sequence(list),
    _sequence(tuple),
    NodeType(
        cls=deque,
        name="collections.deque",
        take_apart=lambda value: (list(value), value.maxlen),
        builder=lambda maxlen: lambda values: deque(values, maxlen),
        dump=json.dumps,
        load=_load_maxlen,
        label=_index_label,
    ),
)

MAPPING_TYPES = (dict, OrderedDict, defaultdict)
NODE_TYPES: dict[type[Any], NodeType] = {node.cls: node for node in _BUILT_IN}
_BY_NAME: dict[str, NodeType] = {node.name: node for node in _BUILT_IN}
_NAMEDTUPLES: dict[str, NodeType] = {}
_REGISTRATIONS: list[partial[None]] = []


def is_namedtuple(value: Any) -> bool:
    """Return whether ``value`` is an instance of a class that ``namedtuple`` made."""
    cls = type(value)
    return cls.__bases__ == (tuple,) and isinstance(getattr(cls, "_fields", None), tuple)


def node_type_named(name: Any, context: Any) -> NodeType | None:
    """Return the container type that a stored tree names, or None when it is not registered.

    Namedtuples have two spellings: LitData up to 0.2.70 wrote one type name for all of them and
    the registered name as context, later versions the registered name in both places.
    """
    if not isinstance(name, str):
        return None
    if name == NAMEDTUPLE:
        return _NAMEDTUPLES.get(context) if isinstance(context, str) else None
    return _BY_NAME.get(name) or _NAMEDTUPLES.get(name)


def register_namedtuple(cls: type[Any], serialized_type_name: str | None = None) -> None:
    """Let samples hold instances of a namedtuple; call it before writing and before reading.

    Args:
        cls: The namedtuple class.
        serialized_type_name: The name that is stored, by default ``module.qualname``.

    Raises:
        ValueError: ``cls`` is no namedtuple, or the name or the class is already taken.
    """
    fields: tuple[str, ...] = getattr(cls, "_fields", ())
    if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        raise ValueError(f"{cls!r} is not a namedtuple class")
    name = serialized_type_name or f"{cls.__module__}.{cls.__qualname__}"

    def load(stored: Any, count: int) -> str:
        if count != len(fields):
            raise ValueError(f"{cls.__qualname__} has {len(fields)} fields, not {count}")
        return name

    node = NodeType(
        cls=cls,
        name=NAMEDTUPLE,
        take_apart=lambda value: (tuple(value), name),
        builder=lambda context: cls._make,  # type: ignore[attr-defined]
        dump=lambda context: context,
        load=load,
        label=lambda context, i: f".{fields[i]}",
    )
    if _register(node, name, _NAMEDTUPLES):
        _REGISTRATIONS.append(partial(register_namedtuple, cls, serialized_type_name))


def register_node(
    cls: type[Any],
    flatten_fn: Callable[[Any], tuple[Sequence[Any], Any]],
    unflatten_fn: Callable[[Sequence[Any], Any], Any],
    *,
    serialized_type_name: str | None = None,
    to_dumpable_context: Callable[[Any], Any] | None = None,
    from_dumpable_context: Callable[[Any], Any] | None = None,
) -> None:
    """Let instances of a class be inner nodes of samples; call it before writing and reading.

    Args:
        cls: The class; subclasses are not included.
        flatten_fn: Gives the children, and a context with what else is needed to rebuild it.
        unflatten_fn: Rebuilds an instance from children and context.
        serialized_type_name: The name that is stored, by default ``module.qualname``.
        to_dumpable_context: Turns the context into a JSON value, by default into JSON text.
        from_dumpable_context: Does the reverse.

    Raises:
        ValueError: The name or the class is already taken, or only one of the last two is given.
    """
    if (to_dumpable_context is None) != (from_dumpable_context is None):
        raise ValueError("give both to_dumpable_context and from_dumpable_context, or neither")
    name = serialized_type_name or f"{cls.__module__}.{cls.__qualname__}"
    from_dumpable = from_dumpable_context or _loaded
    node = NodeType(
        cls=cls,
        name=name,
        take_apart=flatten_fn,
        builder=lambda context: lambda values: unflatten_fn(values, context),
        dump=to_dumpable_context or json.dumps,
        load=lambda stored, count: from_dumpable(stored),
        label=_index_label,
    )
    if _register(node, name, _BY_NAME):
        again = partial(
            register_node,
            cls,
            flatten_fn,
            unflatten_fn,
            serialized_type_name=serialized_type_name,
            to_dumpable_context=to_dumpable_context,
            from_dumpable_context=from_dumpable_context,
        )
        _REGISTRATIONS.append(again)


def registrations() -> list[partial[None]]:
    """Return calls that do in another process what was registered in this one, in that order.

    The first argument of each is the class.
    """
    return list(_REGISTRATIONS)


def _register(node: NodeType, name: str, names: dict[str, NodeType]) -> bool:
    if node.cls in NODE_TYPES:
        if names.get(name) is not None and names[name].cls is node.cls:
            return False  # registering the same class again is what a re-imported script does
        raise ValueError(f"{node.cls!r} is already registered")
    if name in _BY_NAME or name in _NAMEDTUPLES or name == NAMEDTUPLE:
        raise ValueError(f"the name {name!r} is already taken")
    NODE_TYPES[node.cls] = node
    names[name] = node
    return True
