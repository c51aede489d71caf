"""Samples of a folder of images, or of folders that are named as what their images show."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiolit.cli.convert.leaves import image_leaf
from aiolit.errors import ChunkFormatError
from aiolit.runtime.portal import portal
from aiolit.store.base import Store

# Of JPEG, PNG, GIF, WebP, BMP, TIFF (BigTIFF too) and the PNM family.
_SHOWN = 10  # classes
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF.{4}WEBP|BM|II[*+]\x00|MM\x00[*+]|P[1-7]\s", re.DOTALL
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


def find_classes(keys: Iterable[str]) -> dict[str, int]:
    """Return the folders at the top and their numbers, by name; none where an image lies in none.

    >>> find_classes(["dog/1.jpg", "cat/2.jpg"])
    {'cat': 0, 'dog': 1}
    """
    tops = {key.partition("/")[0] if "/" in key else None for key in keys}
    named = sorted(top for top in tops if top is not None)
    return {} if None in tops else {name: number for number, name in enumerate(named)}


def classes_line(keys: Sequence[str], classes: Mapping[str, int]) -> str:
    """Say which classes were found, and how many images each has."""
    if not classes:
        return "no classes: not all images lie in folders"
    counts = Counter(key.partition("/")[0] for key in keys)
    shown = [f"{name} ({counts[name]:,})" for name in list(classes)[:_SHOWN]]
    more = len(classes) - len(shown)
    word = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
    return f"{word}: {', '.join(shown)}" + (f" and {more:,} more" if more else "")


def image_problem(data: bytes, *, decode: bool = False) -> str:
    """Say why bytes are no image, in words that follow its name; empty if they seem to be one.

    Args:
        data: The file.
        decode: Decode all of it; else only its first bytes are looked at.
    """
    if not data:
        return "is empty, and no image"
    if not _BEGINNINGS.match(data):
        return f"is no image, although its name says so: it begins with {data[:8]!r}"
    if decode:
        from PIL import Image  # optional, and needed here only

        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"cannot be decoded: {error}"
    return ""


@dataclass(slots=True)
class ImageSample:
    """Reads an image: a dict of ``image``, ``path``, and ``label`` and ``class`` if it has them.

    Attributes:
        store: Where the images lie.
        classes: The class folders and their numbers.
        columns: What to keep of a sample, or None for all.
        undecoded: Whether the image is kept as bytes.
        checks: Whether each image is decoded, to see that it can be.
    """

    store: Store
    classes: Mapping[str, int]
    columns: tuple[str, ...] | None = None
    undecoded: bool = False
    checks: bool = False
    _closes: bool = False

    @property
    def names(self) -> list[str]:
        """The columns of a sample."""
        return ["image", *(["label", "class"] if self.classes else []), "path"]

    async def __call__(self, key: str) -> dict[str, Any]:
        """Return the sample of the image ``key``.

        Raises:
            ChunkFormatError: The file is no image.
            StoreError: It cannot be read.
        """
        if not self._closes:
            self._closes = True
            portal().on_close(self.store.aclose)
        data = await self.store.get(key)
        if problem := image_problem(data, decode=self.checks):
            raise ChunkFormatError(f"{self.store.object_url(key)} {problem}")
        sample: dict[str, Any] = {"image": data if self.undecoded else image_leaf(data)}
        if self.classes:
            name = key.partition("/")[0]
            sample |= {"label": self.classes[name], "class": name}
        sample["path"] = key
        return sample if self.columns is None else {one: sample[one] for one in self.columns}
