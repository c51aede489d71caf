"""A cache that writes nothing: fetched chunks in this process's memory."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, field

from aiolit.cache.base import Fill


@dataclass(slots=True)
class _Entry:
    data: bytearray
    leases: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False


class MemoryLease:
    """Bytes in memory that are not dropped while the lease is open."""

    def __init__(self, cache: MemoryCache, entry: _Entry) -> None:
        self._cache, self._entry = cache, entry
        entry.leases += 1
        self.data = memoryview(entry.data)
        self._open = True

    def close(self, *, spent: bool = False) -> None:
        """Let the bytes go; the least recently used are dropped when others need the room."""
        if self._open:
            self._open = False
            self.data = memoryview(b"")
            self._entry.leases -= 1


class MemoryCache:
    """Chunks in the memory of this process, within a byte limit; used on one loop.

    Args:
        limit: Bytes that may be held.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.evictions = 0

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    async def get(self, name: str, nbytes: int, fill: Fill) -> tuple[MemoryLease, bool] | None:
        """Return a lease, fetching once for all who ask; None where there is no room now.

        Cancelling, or a failing ``fill``, leaves nothing held.
        """
        while (entry := self._entries.get(name)) is not None:
            await entry.ready.wait()
            if self._entries.get(name) is entry:  # neither failed nor dropped again since
                self._entries.move_to_end(name)
                return MemoryLease(self, entry), False
        if not self._make_room(nbytes):
            return None
        entry = self._entries[name] = _Entry(bytearray(nbytes), leases=1)
        self._used += nbytes
        try:
            await fill(memoryview(entry.data))
        except BaseException:
            entry.failed = True
            self._drop(name)
            raise
        finally:
            entry.ready.set()
            entry.leases -= 1
        return MemoryLease(self, entry), True

    def holds(self, name: str) -> bool:
        """Whether finished bytes of that name are held."""
        entry = self._entries.get(name)
        return entry is not None and entry.ready.is_set()

    def parts(self, name: str) -> list[tuple[int, int]]:
        """Return the item ranges held as ``{name}.{first}-{stop}``."""
        pattern = re.compile(re.escape(name) + r"\.(\d+)-(\d+)")
        found = (pattern.fullmatch(one) for one in list(self._entries) if self.holds(one))
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def lookup(self, name: str, nbytes: int | None = None) -> MemoryLease | None:
        """Return a lease on finished bytes, or None."""
        entry = self._entries.get(name)
        return None if entry is None or not entry.ready.is_set() else MemoryLease(self, entry)

    def reclaim(self) -> None:
        """Nothing outlives its process here."""

    def _make_room(self, nbytes: int) -> bool:
        idle = [name for name, entry in self._entries.items() if not entry.leases]
        held = self._used - sum(len(self._entries[name].data) for name in idle)
        if held + nbytes > self._limit:
            return False
        for name in idle:
            if self._used + nbytes <= self._limit:
                break
            self._drop(name)
            self.evictions += 1
        return True

    def _drop(self, name: str) -> None:
        self._used -= len(self._entries.pop(name).data)
