"""What holds fetched chunks: a folder of the host, or this process's memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

Fill = Callable[[memoryview], Awaitable[None]]


class Leased(Protocol):
    """Fetched bytes that stay while the lease is open.

    Attributes:
        data: The bytes.
    """

    data: memoryview

    def close(self, *, spent: bool = False) -> None:
        """Let the bytes go; ``spent`` says that this epoch does not need them again."""


class ChunkHolder(Protocol):
    """Holds fetched chunks, and parts of chunks, under their names."""

    evictions: int

    async def get(self, name: str, nbytes: int, fill: Fill) -> tuple[Leased, bool] | None:
        """Return a lease, and whether this call fetched; None where there is no room now."""

    def holds(self, name: str) -> bool:
        """Whether there are finished bytes of that name; they may be gone when asked for."""

    def parts(self, name: str) -> list[tuple[int, int]]:
        """Return the item ranges ``[first, stop)`` held as ``{name}.{first}-{stop}``."""

    def lookup(self, name: str, nbytes: int | None = None) -> Leased | None:
        """Return a lease on finished bytes, or None."""

    def reclaim(self) -> None:
        """Remove what dead processes left."""


def close_lease(lease: Leased | None) -> None:
    """Close a lease that nobody waits for any more."""
    if lease is not None:
        lease.close()
