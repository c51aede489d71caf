"""How a job is spread over machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiolit.processing.downloads import DownloadingSource
from aiolit.processing.machine import Machine
from aiolit.processing.sources import InputSource

__all__ = ["Downloads", "Nodes", "Share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of a job this process does."""

    rank: int
    num_nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloads:
    """How remote files that inputs name are downloaded."""

    input_dir: str | None
    num_downloaders: int
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None

    def of(self, source: InputSource) -> InputSource:
        """Return the inputs of a source with the names of local copies."""
        return DownloadingSource(
            source,
            input_dir=self.input_dir,
            num_downloaders=self.num_downloaders,
            storage_options=self.storage_options,
            session_options=self.session_options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The machines of a job.

    Attributes:
        num_nodes: How many.
        machine: What is reserved on each of them.
        num_workers: Worker processes on each; None for one on every usable CPU of it.
        most_workers: How many at most, where ``num_workers`` does not say; or None.
        downloads: How they download files.
        is_list: Whether the inputs are a list, of which each node works on a region.
    """

    num_nodes: int
    machine: Machine
    num_workers: int | None
    most_workers: int | None
    downloads: Downloads
    is_list: bool = False
