"""Item loaders: the layouts of samples inside chunks."""

from __future__ import annotations

from aiolit.errors import ConfigError
from aiolit.format.dataset_info import DatasetConfig, loader_name
from aiolit.format.loader_base import (
    BoundLoader,
    EncodedItem,
    ItemLoader,
    SampleEncoder,
    SampleReader,
    SampleTable,
)
from aiolit.format.parquet import ParquetLoader
from aiolit.format.pytree import PyTreeLoader
from aiolit.format.temporal import TemporalArrayLoader
from aiolit.format.tokens import TokensLoader

__all__ = [
    "BoundLoader",
    "EncodedItem",
    "ItemLoader",
    "ParquetLoader",
    "PyTreeLoader",
    "SampleEncoder",
    "SampleReader",
    "SampleTable",
    "TemporalArrayLoader",
    "TokensLoader",
    "default_loader",
]


def default_loader(config: DatasetConfig, *, source: str) -> ItemLoader:
    """Make the loader for a data set where the user gave none.

    Raises:
        ConfigError: The data set needs one with options, or one of the user's own.
    """
    name = loader_name(config)
    if name == "PyTreeLoader":
        return PyTreeLoader()
    if name == "ParquetLoader":
        return ParquetLoader()
    if name == "TemporalArrayLoader":
        return TemporalArrayLoader()
    example = "TokensLoader(block_size=...)" if name == "TokensLoader" else f"{name}(...)"
    raise ConfigError(f"{source}: the data set was written with {name}; pass item_loader={example}")
