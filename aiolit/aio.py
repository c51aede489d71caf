"""The async twins of aiolit's names, for programs that hold the event loop themselves."""

from __future__ import annotations

from aiolit.streaming.async_dataset import AsyncStreamingDataset as StreamingDataset

__all__ = ["StreamingDataset"]
