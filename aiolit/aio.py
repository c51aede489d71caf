"""The async twins of aiolit's names, for programs that hold the event loop themselves."""

from __future__ import annotations

from aiolit.processing.async_functions import Writer, map, merge_datasets, optimize, walk
from aiolit.raw.async_dataset import AsyncStreamingRawDataset as StreamingRawDataset
from aiolit.streaming.async_dataset import AsyncStreamingDataset as StreamingDataset

__all__ = [
    "map",
    "merge_datasets",
    "optimize",
    "StreamingDataset",
    "StreamingRawDataset",
    "walk",
    "Writer",
]
