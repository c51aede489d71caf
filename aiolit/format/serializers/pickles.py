"""Whatever has no form of its own: Python's pickle.

Loading a pickle runs code of its author's choice, so readers of data they do not trust refuse it.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from typing import Any

import numpy as np

from aiolit.errors import ChunkFormatError, SchemaError, UntrustedDataError
from aiolit.format.graph_leaf import Graph
from aiolit.format.leaf_types import describe
from aiolit.format.serializers.base import Decode, LeafEncoder, LeafKind

# What pickles of plain containers, numbers and texts are made of: nothing here looks up a name or
# calls anything.
# fmt: off
_PLAIN_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "NONE", "NEWTRUE",
    "NEWFALSE", "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET",
    "ADDITEMS", "FROZENSET", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT",
})
# fmt: on
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")

# What the machine that runs pickles raises for bytes that nothing pickled.
_MALFORMED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)

_warned: set[str] = set()


class PickleKind(LeafKind):
    """Any object that Python can pickle; the first one at each path is warned of."""

    name = "pickle"

    def claims(self, value: Any) -> bool:
        return True

    def encoder(self, value: Any, path: str) -> LeafEncoder:
        if path not in _warned:
            _warned.add(path)
            warnings.warn(
                f"leaf '{path}' is a {describe(value)}, which has no form of its own and is "
                "pickled: slower, larger, and readers of remote data must pass allow_pickle=True. "
                f"{_advice(value)}",
                UserWarning,
                stacklevel=2,
            )

        def encode(value: Any) -> bytes:
            try:
                return pickle.dumps(value)
            except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as exc:
                raise SchemaError(
                    f"leaf '{path}': {describe(value)} cannot be pickled: {exc}"
                ) from exc

        return LeafEncoder(path, self.name, encode)

    def decoder(self, format_name: str, *, allow_pickle: bool) -> Decode:
        return load_pickle if allow_pickle else refuse_pickle


def _advice(value: Any) -> str:
    if isinstance(value, np.generic):
        return "Store value.item() instead."
    return (
        "Store a number, a text, bytes, an array or a tensor instead, or pass serializers= for "
        "your type."
    )


def refuse_pickle(data: memoryview) -> Any:
    """Raise UntrustedDataError."""
    raise UntrustedDataError(
        "this data set has pickled leaves, and loading a pickle runs code from it; pass "
        "allow_pickle=True if you trust where it comes from"
    )


def load_pickle(data: memoryview) -> Any:
    """Load a pickle that is trusted.

    Raises:
        ChunkFormatError: The bytes are cut off or no pickle.
    """
    raw = bytes(data)
    try:
        value = _Unwrapping(io.BytesIO(raw)).load() if b"litdata" in raw else pickle.loads(raw)
    except (pickle.UnpicklingError, EOFError) as exc:
        raise ChunkFormatError(f"a pickled leaf cannot be loaded: {exc}") from exc
    return value.unwrap() if isinstance(value, _Wrapper) else value


def load_plain_pickle(data: memoryview) -> Any:
    """Load a pickle that nobody vouches for: containers, numbers and texts only.

    Raises:
        UntrustedDataError: The pickle asks for more, which could run code.
        ChunkFormatError: The bytes are cut off or no pickle.
    """
    raw = bytes(data)
    try:
        for opcode, argument, _ in pickletools.genops(raw):
            if opcode.name not in _PLAIN_OPCODES:
                refuse_pickle(data)
            if opcode.name in _PUTS and int(argument or 0) > len(raw):
                raise ChunkFormatError(f"a pickled part of {len(raw)} bytes has label {argument}")
        return pickle.loads(raw)
    except (pickle.UnpicklingError, EOFError, *_MALFORMED) as exc:
        if isinstance(exc, ChunkFormatError):
            raise
        raise ChunkFormatError(f"a pickled part cannot be loaded: {exc}") from exc


class _Wrapper:
    """Takes the place of one of LitData's own classes around a value, and keeps its state."""

    def unwrap(self) -> Any:
        return vars(self)["value"]


class _GraphWrapper(_Wrapper):
    def unwrap(self) -> Graph:
        state = {name: value for name, value in vars(self).items() if value is not None}
        inner = state.pop("data", {})
        return Graph("data", {**(inner if isinstance(inner, dict) else {"data": inner}), **state})


def _identity(value: Any) -> Any:
    return value


# What LitData may have put around a value; undone without importing it.
_LITDATA_WRAPPERS: dict[tuple[str, str], Any] = {
    ("litdata.streaming.serializers", "JsonLeaf"): _Wrapper,
    ("litdata.types", "Graph"): _GraphWrapper,
    ("litdata.utilities.hf_dataset", "_identity"): _identity,
}


class _Unwrapping(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        wrapper = _LITDATA_WRAPPERS.get((module, name))
        return super().find_class(module, name) if wrapper is None else wrapper
