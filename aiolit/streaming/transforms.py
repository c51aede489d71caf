"""What a user's functions make of samples, the same for chunks and raw files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aiolit.errors import ConfigError

Transform = Callable[..., Any]


class Transforming:
    """A data set whose samples go through ``transform``: the functions it was given, an override of
    the method in a subclass, or a function assigned in its place."""

    _transforms: list[Transform]

    def transform(self, sample: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Change a sample; overridden, or made of the functions given as ``transform``."""
        for function in self._transforms:
            sample = function(sample)
        return sample

    def transformed(self, values: Iterable[Any], where: Callable[[int], str]) -> list[Any]:
        """Return samples after ``transform``; an error of it says of which sample it came.

        Args:
            values: The samples.
            where: Names one of them by its place.
        """
        found: list[Any] = []
        try:
            found.extend(map(self.transform, values))
        except Exception as error:
            error.add_note(f"while transform was called for {where(len(found))}")
            raise
        return found

    def changes_samples(self) -> bool:
        """Whether ``transform`` does anything."""
        own = "transform" in vars(self) or type(self).transform is not Transforming.transform
        return own or bool(self._transforms)


def checked_transforms(transform: Transform | Sequence[Transform] | None) -> list[Transform]:
    """Return the functions that an argument ``transform`` names, in order.

    Raises:
        ConfigError: One of them is no function.
    """
    if transform is None:
        return []
    found: list[Any] = list(transform) if isinstance(transform, Sequence) else [transform]
    for one in found:
        if not callable(one):
            raise ConfigError(f"transform must be a function or a list of functions, not {one!r}")
    return found
