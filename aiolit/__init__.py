"""Async-first data loading for PyTorch.

``optimize`` turns any data into chunks that stream well; ``StreamingDataset`` and
``StreamingDataLoader`` stream them from any cloud or disk into a training loop. ``aiolit.aio`` has
the same names for those who await. Names are loaded on first use, so ``import aiolit`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiolit import aio, errors
    from aiolit.debugger import breakpoint, enable_tracer
    from aiolit.format.encryption import Encryption, FernetEncryption, RSAEncryption
    from aiolit.format.loader import ParquetLoader, PyTreeLoader, TokensLoader
    from aiolit.processing.functions import map, merge_datasets, optimize
    from aiolit.processing.machine import Machine
    from aiolit.processing.parquet_index import index_hf_dataset, index_parquet_dataset
    from aiolit.processing.sentinel import ALL_DONE
    from aiolit.processing.walking import walk
    from aiolit.raw.dataset import StreamingRawDataset
    from aiolit.streaming.combined import CombinedStreamingDataset
    from aiolit.streaming.dataloader import StreamingDataLoader
    from aiolit.streaming.dataset import StreamingDataset
    from aiolit.streaming.parallel import ParallelStreamingDataset
    from aiolit.streaming.resolver import Dir
    from aiolit.streaming.split import train_test_split

__version__ = "0.1.0"

_MODULES = ("aio", "errors")
_HOME = {
    "ALL_DONE": "aiolit.processing.sentinel",
    "breakpoint": "aiolit.debugger",
    "CombinedStreamingDataset": "aiolit.streaming.combined",
    "Dir": "aiolit.streaming.resolver",
    "enable_tracer": "aiolit.debugger",
    "Encryption": "aiolit.format.encryption",
    "FernetEncryption": "aiolit.format.encryption",
    "index_hf_dataset": "aiolit.processing.parquet_index",
    "index_parquet_dataset": "aiolit.processing.parquet_index",
    "Machine": "aiolit.processing.machine",
    "map": "aiolit.processing.functions",
    "merge_datasets": "aiolit.processing.functions",
    "optimize": "aiolit.processing.functions",
    "ParallelStreamingDataset": "aiolit.streaming.parallel",
    "ParquetLoader": "aiolit.format.loader",
    "PyTreeLoader": "aiolit.format.loader",
    "RSAEncryption": "aiolit.format.encryption",
    "StreamingDataLoader": "aiolit.streaming.dataloader",
    "StreamingDataset": "aiolit.streaming.dataset",
    "StreamingRawDataset": "aiolit.raw.dataset",
    "TokensLoader": "aiolit.format.loader",
    "train_test_split": "aiolit.streaming.split",
    "walk": "aiolit.processing.walking",
}

__all__ = [
    "aio",
    "ALL_DONE",
    "breakpoint",
    "CombinedStreamingDataset",
    "Dir",
    "enable_tracer",
    "Encryption",
    "errors",
    "FernetEncryption",
    "index_hf_dataset",
    "index_parquet_dataset",
    "Machine",
    "map",
    "merge_datasets",
    "optimize",
    "ParallelStreamingDataset",
    "ParquetLoader",
    "PyTreeLoader",
    "RSAEncryption",
    "StreamingDataLoader",
    "StreamingDataset",
    "StreamingRawDataset",
    "TokensLoader",
    "train_test_split",
    "walk",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"aiolit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'aiolit' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
