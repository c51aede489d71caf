"""Counters that cost nothing to bump and travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Self

__all__ = ["LEVELS", "Counters"]

LEVELS = frozenset(("requests_running", "chunks_ahead", "bytes_ahead"))
"""The counters that say how things are now, and not what has been so far."""


@dataclass(slots=True)
class Counters:
    """What happened so far: plain fields, to be added to directly (``counters.requests += 1``).

    Each thread or process bumps its own and ``merge`` adds them up; a bump is not atomic.

    Attributes:
        bytes_fetched: Bytes received from stores.
        requests: Requests sent to stores, each retry counted.
        retries: Requests that were repeated after a failure.
        hedges: Second requests sent because the first was slow.
        cache_hits: Reads answered by the cache.
        cache_misses: Reads the cache could not answer.
        evictions: Chunks deleted from the cache for space.
        chunks: Chunks opened.
        samples: Samples handed to the user.
        batches: Batches handed to the user.
        skipped: Samples that could not be read and were replaced by others.
        wait_seconds: How long the user waited for data. High: fetching or decoding is too slow.
        fetch_seconds: Time within requests, added over those that ran side by side.
        decode_seconds: Time spent to turn bytes into samples.
        collate_seconds: Time spent to turn samples into batches.
        requests_running: Requests under way now.
        chunks_ahead: Chunks, parts of chunks or raw files that are there or on their way now, for
            samples to come.
        bytes_ahead: Their bytes.
    """

    bytes_fetched: int = 0
    requests: int = 0
    retries: int = 0
    hedges: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    evictions: int = 0
    chunks: int = 0
    samples: int = 0
    batches: int = 0
    skipped: int = 0
    wait_seconds: float = 0.0
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0
    collate_seconds: float = 0.0
    requests_running: int = 0
    chunks_ahead: int = 0
    bytes_ahead: int = 0

    def merge(self, other: Counters) -> None:
        """Add another's figures to these."""
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def values(self) -> tuple[int | float, ...]:
        """Return the figures in the order of the class; quick enough to be asked for each batch."""
        found: tuple[int | float, ...] = _VALUES(self)
        return found

    def as_dict(self) -> dict[str, int | float]:
        """Return the figures by name, in the order of the class."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_dict(cls, figures: Mapping[str, int | float]) -> Self:
        """Build from ``as_dict``; a name that is missing counts zero.

        Raises:
            ValueError: A name that is no counter.
        """
        unknown = sorted(set(figures) - set(_NAMES))
        if unknown:
            raise ValueError(f"no such counters: {', '.join(unknown)}")
        return cls(**figures)  # type: ignore[arg-type]


_NAMES = tuple(field.name for field in fields(Counters))
_VALUES = attrgetter(*_NAMES)
