"""Item loaders: how the items of a chunk become samples. The documented place to import them."""

from aiolit.format.loader import ItemLoader, ParquetLoader, PyTreeLoader, TokensLoader

__all__ = ["ItemLoader", "ParquetLoader", "PyTreeLoader", "TokensLoader"]
