"""The async twins of aiolit's names, for programs that hold the event loop themselves."""

from __future__ import annotations

from aiolit.processing.async_functions import Writer, optimize
from aiolit.raw.async_dataset import AsyncStreamingRawDataset as StreamingRawDataset
from aiolit.streaming.async_dataset import AsyncStreamingDataset as StreamingDataset

__all__ = ["optimize", "StreamingDataset", "StreamingRawDataset", "Writer"]
