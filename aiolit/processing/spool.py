"""A folder of the job's own for results that wait for their turn and do not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiolit.store.owned import OwnedFolder
from aiolit.store.threads import run_in_thread

__all__ = ["Slot", "Spool"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where some bytes lie in the spool."""

    run: int
    start: int
    nbytes: int


class Spool:
    """Appends bytes to one file for each run and reads them back in order, once.

    The folder is made when it is first needed. `close` removes it.

    Attributes:
        used: Bytes in the spool now.
        peak: The most bytes in the spool at once so far.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = None if parent is None else Path(parent)
        self._folder: OwnedFolder | None = None
        self._ends: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self.used = 0
        self.peak = 0

    async def put(self, run: int, parts: Sequence[memoryview]) -> Slot:
        """Store bytes of a run behind those that it has already.

        One call at a time for each run.
        """
        if self._folder is None:
            # Here and not in the threads, of which two may come first at once.
            self._folder = OwnedFolder("aiolit-spool-", self._parent)
        start = self._ends.get(run, 0)
        nbytes = sum(len(part) for part in parts)
        self._ends[run] = start + nbytes
        self._left[run] = self._left.get(run, 0) + nbytes
        self.used += nbytes
        self.peak = max(self.peak, self.used)
        await run_in_thread(self._append, run, parts)
        return Slot(run, start, nbytes)

    async def take(self, slot: Slot) -> memoryview:
        """Return the bytes and free their place; a file that is read to its end is removed."""
        data = await run_in_thread(self._read, slot)
        self.used -= slot.nbytes
        self._left[slot.run] -= slot.nbytes
        if not self._left[slot.run]:
            del self._left[slot.run], self._ends[slot.run]
            await run_in_thread(os.unlink, self._path(slot.run))
        return data

    async def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            folder, self._folder = self._folder, None
            await run_in_thread(folder.remove)

    def _append(self, run: int, parts: Sequence[memoryview]) -> None:
        with self._path(run).open("ab") as file:
            for part in parts:
                file.write(part)

    def _read(self, slot: Slot) -> memoryview:
        buffer = memoryview(bytearray(slot.nbytes))
        with self._path(slot.run).open("rb", buffering=0) as file:
            file.seek(slot.start)
            done = 0
            while done < slot.nbytes and (got := file.readinto(buffer[done:])):
                done += got
        if done < slot.nbytes:
            raise EOFError(f"{self._path(slot.run)} lost {slot.nbytes - done} bytes")
        return buffer

    def _path(self, run: int) -> Path:
        if self._folder is None:
            raise RuntimeError("nothing was ever put into the spool")
        return self._folder.path / f"run-{run}"
