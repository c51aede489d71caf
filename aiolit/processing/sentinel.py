"""The mark that ends a queue of inputs."""

from __future__ import annotations

from typing import Final, final

__all__ = ["ALL_DONE", "AllDone"]


@final
class AllDone:
    """The type of `ALL_DONE`. There is one instance, also after pickling."""

    __slots__ = ()

    def __new__(cls) -> AllDone:
        """Return the one instance."""
        return _instance[0] if _instance else object.__new__(cls)

    def __reduce__(self) -> str:
        # A bare name pickles by reference, so the object that arrives is the very same.
        return "ALL_DONE"

    def __repr__(self) -> str:
        return "ALL_DONE"


_instance: list[AllDone] = []
ALL_DONE: Final = AllDone()
"""Put this once into a queue of inputs, after the last input, however many workers there are."""
_instance.append(ALL_DONE)
