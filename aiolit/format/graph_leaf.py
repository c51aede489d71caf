"""The ``graph`` leaves of LitData 0.2.70 and later: named tensors and the tree they fill."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiolit.errors import ChunkFormatError
from aiolit.format.optional import require

Decode = Callable[[memoryview], Any]

MAGIC = b"LDGR"
_META = "_meta"
_TENSOR_MARK = "__ldgr_t__"
_TENSOR, _PICKLE = 0, 1


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph as it is stored.

    Attributes:
        kind: ``"data"`` for one type of nodes, ``"hetero"`` for several.
        fields: The stores by name, nested for ``"hetero"``, with tensors and plain values.
    """

    kind: str
    fields: dict[Any, Any]

    def to_mapping(self) -> dict[Any, Any]:
        """Return ``fields``, by the name that LitData has for them."""
        return self.fields

    def to_pyg(self) -> Any:
        """Return it as ``torch_geometric.data.Data`` or ``HeteroData``.

        Raises:
            MissingDependencyError: torch_geometric is not installed.
        """
        pyg = require("torch_geometric.data", "torch_geometric", "turning a graph into Data")
        cls = pyg.HeteroData if self.kind == "hetero" else pyg.Data
        return cls.from_dict(self.fields)


def decode_graph(data: memoryview, *, decode_tensor: Decode, load_pickle: Decode) -> Any:
    """Decode a ``graph`` leaf to a Graph, or to the object if it was stored as a pickle.

    Args:
        data: The stored leaf.
        decode_tensor: Decodes the parts that are tensors with a header.
        load_pickle: Loads the parts that are pickles, or refuses them.

    Raises:
        ChunkFormatError: The bytes are cut off or disagree with themselves.
    """
    if data[:4] != MAGIC:
        return load_pickle(data)
    try:
        fields = _fields(data, {_TENSOR: decode_tensor, _PICKLE: load_pickle})
    except (struct.error, IndexError, UnicodeDecodeError) as exc:
        raise ChunkFormatError(f"a graph leaf of {len(data)} bytes is cut off") from exc
    if _META not in fields:
        return Graph("data", fields)
    meta = fields.pop(_META)
    try:
        return _rebuild(meta, fields)
    except (LookupError, TypeError, ValueError) as exc:
        raise ChunkFormatError(f"a graph leaf has a tree that does not fit: {exc!r}") from exc


def _fields(data: memoryview, kinds: Mapping[int, Decode]) -> dict[Any, Any]:
    version = data[4]
    if version not in (1, 2, 3):
        raise ChunkFormatError(f"a graph leaf has the unknown version {version}")
    number = struct.Struct(">H" if version == 3 else ">B")
    (count,) = number.unpack_from(data, 5)
    at = 5 + number.size
    fields: dict[Any, Any] = {}
    for _ in range(count):
        (nbytes,) = number.unpack_from(data, at)
        at += number.size
        name = str(data[at : at + nbytes], "utf-8")
        at += nbytes
        kind = _TENSOR if version == 1 else data[at]
        at += version > 1
        (nbytes,) = struct.unpack_from(">I", data, at)
        at += 4
        if at + nbytes > len(data):
            raise ChunkFormatError(
                f"a graph leaf of {len(data)} bytes claims {nbytes} for the field '{name}'"
            )
        if kind not in kinds:
            raise ChunkFormatError(f"a graph leaf has the field '{name}' of unknown kind {kind}")
        fields[name] = kinds[kind](data[at : at + nbytes])
        at += nbytes
    if at != len(data):
        raise ChunkFormatError(f"a graph leaf of {len(data)} bytes ends after {at}")
    return fields


def _rebuild(meta: Mapping[str, Any], tensors: dict[Any, Any]) -> Graph:
    tree, kind = meta["_tree"], meta["_cls"]
    if kind not in ("data", "hetero") or not isinstance(tree, dict):
        raise ValueError(f"class {kind!r}")
    for path, name in zip(meta["_paths"], meta["_fields"], strict=True):
        *parents, last = path
        inner = tree
        for key in parents:
            inner = inner[key]
        if inner[last] != _TENSOR_MARK:
            raise ValueError(f"no tensor at {path!r}")
        inner[last] = tensors[name]
    return Graph(kind, tree)
