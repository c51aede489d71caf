"""A sample as a tree that the page can draw: small JSON-able values, and media beside it."""

from __future__ import annotations

import math
import reprlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.format.graph_leaf import Graph
from aiolit.format.leaf_types import is_pil_image, is_tensor
from aiolit.viewer.leaves import File, Unread
from aiolit.viewer.media import (
    BYTES,
    TEXT,
    Media,
    array_as_png,
    brightness,
    can_draw,
    is_tiff,
    looks_like_picture,
    picture_as_png,
    readable_text,
    sniff,
    tiff_as_png,
)

Node = dict[str, Any]

_TEXT = 2000  # characters of a text
_HEX = 128  # bytes of what is nothing else
_ROW = 256  # values of a one-dimensional array
_SIDE = 12  # rows and columns of a table
_CHILDREN = 200
_PARTS = 2000  # of a sample, leaves and branches
_DEPTH = 24
_MEASURED = 1 << 24  # elements; of larger arrays no statistics are taken
_OVERHEAD = 4096  # bytes of memory that a tree is taken for


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample as it is shown.

    Attributes:
        tree: JSON-able. Each node has a ``kind`` (``branch``, ``image``, ``audio``, ``video``,
            ``text``, ``value``, ``array``, ``bytes`` or ``unread``), a ``type`` in words, and
            what its kind needs; ``media`` is a place in the list of media.
        media: Images, sounds, and texts and bytes in full.
    """

    tree: Node
    media: tuple[Media, ...]

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return _OVERHEAD + sum(one.nbytes for one in self.media)


def show(sample: Any) -> Shown:
    """Return a sample as it is shown; this may decode, so call it in a thread."""
    maker = _Maker()
    tree = maker.node(sample, 0)
    return Shown(tree, tuple(maker.media))


class _Maker:
    def __init__(self) -> None:
        self.media: list[Media] = []
        self._left = _PARTS

    def node(self, value: Any, depth: int) -> Node:
        self._left -= 1
        if isinstance(value, Unread):
            return {"kind": "unread", "type": "not read", "reason": value.reason}
        if isinstance(value, File):
            return self._file(value.data, value.format_name)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._file(bytes(value), "bytes")
        if isinstance(value, str):
            return self._text(value, "text")
        if is_pil_image(value):
            png = Media("image/png", value.width * value.height * 4, partial(picture_as_png, value))
            size = f"{value.width} \N{MULTIPLICATION SIGN} {value.height}"
            return {"kind": "image", "type": f"image {value.mode} {size}", "media": self._add(png)}
        if is_tensor(value):
            return self._tensor(value)
        if isinstance(value, np.ndarray):
            return self._array(value, "array")
        if isinstance(value, Graph):
            return self._branch(value.fields.items(), f"graph of {value.kind}", depth)
        if isinstance(value, Mapping):
            return self._branch(value.items(), _count(value, "dict"), depth)
        if isinstance(value, list | tuple | deque):
            return self._sequence(value, depth)
        return _value(value)

    def _add(self, media: Media) -> int:
        self.media.append(media)
        return len(self.media) - 1

    def _file(self, data: bytes, format_name: str) -> Node:
        mime = sniff(data)
        if mime is None and is_tiff(data) and can_draw():
            png = Media("image/png", len(data), partial(tiff_as_png, data))
            return self._leaf("image", "TIFF image", png, len(data))
        if mime is not None:
            kind, _, name = mime.partition("/")
            return self._leaf(kind, f"{name.upper()} {kind}", Media.of_bytes(mime, data), len(data))
        text = readable_text(data)
        if text is not None:
            return self._text(text, format_name)
        node = self._leaf("bytes", format_name, Media.of_bytes(BYTES, data), len(data))
        return {**node, "hex": data[:_HEX].hex(" "), "more": len(data) > _HEX}

    def _leaf(self, kind: str, words: str, media: Media, nbytes: int) -> Node:
        return {"kind": kind, "type": words, "nbytes": nbytes, "media": self._add(media)}

    def _text(self, text: str, words: str) -> Node:
        node: Node = {"kind": "text", "type": words, "length": len(text), "text": text[:_TEXT]}
        if len(text) > _TEXT:
            data = text.encode("utf-8", "replace")
            node |= {"more": True, "media": self._add(Media.of_bytes(TEXT, data))}
        return node

    def _tensor(self, value: Any) -> Node:
        try:
            plain = value.detach().cpu()
            if str(plain.dtype) in ("torch.bfloat16",) or "float8" in str(plain.dtype):
                plain = plain.float()
            array = plain.numpy()
        except (RuntimeError, TypeError):  # sparse or quantized
            return _value(value)
        return {
            **self._array(array, "tensor"),
            "dtype": str(value.dtype).removeprefix("torch."),
        }

    def _array(self, array: NDArray[Any], words: str) -> Node:
        if array.ndim == 0:
            return _value(array[()])
        node: Node = {
            "kind": "array",
            "type": words,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            **_corner(array),
        }
        if array.dtype.kind in "biuf" and 0 < array.size <= _MEASURED:
            node["stats"] = _statistics(array)
        if looks_like_picture(array) and can_draw():
            png = Media("image/png", array.nbytes, partial(array_as_png, array))
            node["media"] = self._add(png)
            span = brightness(array) if array.size <= _MEASURED else None
            if span is not None and array.dtype != np.bool_:
                node["shades"] = [_number(end) for end in span]
        return node

    def _sequence(self, value: Any, depth: int) -> Node:
        words = _count(value, type(value).__name__)
        if value and all(isinstance(one, int | float) for one in value):
            row = [_short(one) for one in islice(value, _ROW)]
            return {"kind": "array", "type": words, "rows": [row], "more": len(value) > _ROW}
        names: Iterable[Any] = getattr(value, "_fields", range(len(value)))
        return self._branch(zip(names, value, strict=True), words, depth)

    def _branch(self, items: Iterable[tuple[Any, Any]], words: str, depth: int) -> Node:
        if depth == _DEPTH:
            return {"kind": "unread", "type": words, "reason": "nested too deeply to be shown"}
        pairs, children = list(items), []
        for name, child in pairs[:_CHILDREN]:
            if self._left <= 0:
                break
            children.append({"name": str(name), **self.node(child, depth + 1)})
        more = len(pairs) - len(children)
        return {"kind": "branch", "type": words, "children": children, "more": more}


def _count(value: Any, name: str) -> str:
    return f"{name} of {len(value):,}"


def _value(value: Any) -> Node:
    if isinstance(value, np.generic):
        return {"kind": "value", "type": str(value.dtype), "text": _short(value.item())}
    name = "none" if value is None else type(value).__name__
    return {"kind": "value", "type": name, "text": _short(value)}


def _corner(array: NDArray[Any]) -> Node:
    """Return the first values: of one dimension as a row, of more as a table of the last two."""
    if array.ndim == 1:
        rows = [array[:_ROW]]
        more = array.size > _ROW
    else:
        table = array[(0,) * (array.ndim - 2)] if array.size else array.reshape(0, 0)
        rows = list(table[:_SIDE, :_SIDE])
        more = array.size > sum(len(row) for row in rows)
    return {"rows": [[_short(one) for one in row.tolist()] for row in rows], "more": more}


def _statistics(array: NDArray[Any]) -> Node:
    values = array
    found: Node = {}
    if array.dtype.kind == "f":
        values = array[np.isfinite(array)]
        if values.size < array.size:
            found["not finite"] = f"{array.size - values.size:,}"
    if not values.size:
        return found
    figures = {"min": values.min(), "max": values.max()}
    if array.dtype.kind != "b":
        figures |= {"mean": values.mean(dtype=np.float64), "std": values.std(dtype=np.float64)}
    return {**{name: _number(one) for name, one in figures.items()}, **found}


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = 200
    return shortener.repr(value)
