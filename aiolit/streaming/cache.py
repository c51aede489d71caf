"""The documented place to import ``Dir`` from."""

from aiolit.streaming.resolver import Dir

__all__ = ["Dir"]
