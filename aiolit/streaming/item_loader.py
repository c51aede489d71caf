"""Item loaders: how the items of a chunk become samples. The documented place to import them."""

from aiolit.format.loader import ItemLoader, PyTreeLoader, TokensLoader

__all__ = ["ItemLoader", "PyTreeLoader", "TokensLoader"]
