"""Samples of a folder of images, or of folders that are named as what their images show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiolit.cli.convert.leaves import image_leaf
from aiolit.errors import ChunkFormatError
from aiolit.runtime.portal import portal
from aiolit.store.base import Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")


def find_classes(keys: Iterable[str]) -> dict[str, int]:
    """Return the folders at the top and their numbers, by name; none where an image lies in none.

    >>> find_classes(["dog/1.jpg", "cat/2.jpg"])
    {'cat': 0, 'dog': 1}
    """
    tops = {key.partition("/")[0] if "/" in key else None for key in keys}
    named = sorted(top for top in tops if top is not None)
    return {} if None in tops else {name: number for number, name in enumerate(named)}


@dataclass(slots=True)
class ImageSample:
    """Reads an image: a dict of ``image``, ``path``, and ``label`` and ``class`` if it has them.

    Attributes:
        store: Where the images lie.
        classes: The class folders and their numbers.
        columns: What to keep of a sample, or None for all.
        undecoded: Whether the image is kept as bytes.
    """

    store: Store
    classes: Mapping[str, int]
    columns: tuple[str, ...] | None = None
    undecoded: bool = False
    _closes: bool = False

    @property
    def names(self) -> list[str]:
        """The columns of a sample."""
        return ["image", *(["label", "class"] if self.classes else []), "path"]

    async def __call__(self, key: str) -> dict[str, Any]:
        """Return the sample of the image ``key``.

        Raises:
            ChunkFormatError: The file is empty.
            StoreError: It cannot be read.
        """
        if not self._closes:
            self._closes = True
            portal().on_close(self.store.aclose)
        data = await self.store.get(key)
        if not data:
            raise ChunkFormatError(f"{self.store.object_url(key)} is empty, and no image")
        sample: dict[str, Any] = {"image": data if self.undecoded else image_leaf(data)}
        if self.classes:
            name = key.partition("/")[0]
            sample |= {"label": self.classes[name], "class": name}
        sample["path"] = key
        return sample if self.columns is None else {one: sample[one] for one in self.columns}
