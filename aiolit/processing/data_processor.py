"""The documented import path of `ALL_DONE`."""

from aiolit.processing.sentinel import ALL_DONE

__all__ = ["ALL_DONE"]
