"""The files that a function of `map` wrote, on their way into the output."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aiolit.errors import ConfigError, OptimizeError
from aiolit.processing.collector import Arrival
from aiolit.processing.journal import FOLDER
from aiolit.processing.map_journal import Made
from aiolit.processing.protocol import Piece
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["FileOwners", "FinishedInputs", "Uploads"]

# Inputs whose files wait to be stored, for each upload at work, before workers wait.
_AHEAD = 4


class FinishedInputs(Protocol):
    """Who is told of finished inputs."""

    @property
    def made(self) -> Sequence[Made]:
        """What earlier attempts have finished."""

    async def finished(self, made: Sequence[Made]) -> None:
        """Take note of inputs whose files are stored."""


@dataclass(slots=True)
class _Share:
    """The inputs of a run; where the last may write out a buffer, they are finished together."""

    made: dict[int, Made] = field(default_factory=dict)
    storing: int = 0
    ended: bool = False


class FileOwners:
    """Which input wrote which file: two inputs may not write one of the same name."""

    def __init__(self) -> None:
        self._owners: dict[str, int] = {}

    def claim(self, made: Made) -> None:
        """Take note of the files of an input.

        Raises:
            OptimizeError: Another input has written one of that name.
            ConfigError: The name is not free for users.
        """
        for name, _ in made.files:
            if name.partition("/")[0] == FOLDER:
                raise ConfigError(f"input {made.index} wrote {name!r}, a name aiolit needs itself")
            owner = self._owners.setdefault(name, made.index)
            if owner != made.index:
                first, second = sorted((owner, made.index))
                raise OptimizeError(
                    f"inputs {first} and {second} both wrote {name!r}, of which only one can be "
                    "kept; give the files of different inputs different names"
                )


class Uploads:
    """Stores the files of each input, removes its folder, and writes down that it is finished.

    Args:
        store: The output.
        group: Where the uploads run.
        num_uploaders: Files stored at once.
        journal: Told of finished inputs; or None.
        whole_shares: Whether the inputs of a run are finished only all together.

    Attributes:
        made: What came of each input, by index.
    """

    def __init__(
        self,
        store: Store,
        group: asyncio.TaskGroup,
        num_uploaders: int,
        journal: FinishedInputs | None,
        *,
        whole_shares: bool,
    ) -> None:
        self._store = store
        self._group = group
        self._ahead = asyncio.Semaphore(num_uploaders * _AHEAD)
        self._places = asyncio.Semaphore(num_uploaders)
        self._journal = journal
        self._whole_shares = whole_shares
        self._shares: dict[int, _Share] = {}
        self.made: dict[int, Made] = {}
        self._owners = FileOwners()
        for made in () if journal is None else journal.made:
            self.made[made.index] = made
            self._owners.claim(made)

    async def take(self, arrival: Arrival, piece: Piece) -> None:
        """Begin to store the files of the inputs in a piece; waits while many are waiting.

        Raises:
            OptimizeError: Two inputs have written files of one name.
        """
        meta = arrival.meta
        share = self._shares.setdefault(meta.run, _Share())
        start, sizes = 0, iter(piece.sizes.tolist())
        for offset, count in enumerate(meta.counts):
            if not count:
                continue  # the function failed, and the job goes on without the input
            stop = start + next(sizes)
            wrote = json.loads(bytes(piece.data[start:stop]))
            start = stop
            made = Made(arrival.first + offset, tuple(map(tuple, wrote["files"])))
            self._owners.claim(made)
            await self._ahead.acquire()
            share.storing += 1
            self._group.create_task(self._store_files(share, made, Path(wrote["folder"])))
        if meta.ended:
            share.ended = True
            del self._shares[meta.run]
            await self._settle(share)

    async def _store_files(self, share: _Share, made: Made, folder: Path) -> None:
        try:
            for name, _ in made.files:
                async with self._places:
                    await self._store_file(name, folder / name)
            if made.files:  # where there are none, the worker has removed it
                await run_in_thread(shutil.rmtree, folder, ignore_errors=True)
        finally:
            self._ahead.release()
        share.storing -= 1
        self.made[made.index] = share.made[made.index] = made
        await self._settle(share)

    async def _settle(self, share: _Share) -> None:
        """Write down what is finished."""
        if self._journal is None or (self._whole_shares and (share.storing or not share.ended)):
            return
        finished, share.made = list(share.made.values()), {}
        await self._journal.finished(finished)

    async def _store_file(self, name: str, path: Path) -> None:
        store = self._store
        if not isinstance(store, LocalStore) or not await run_in_thread(
            _move, path, store.file_path(name)
        ):
            await store.put_file(name, path)


def _move(source: Path, target: Path) -> bool:
    """Move a file within its file system; say whether that was possible."""
    if source.is_symlink():
        return False  # what it leads to is wanted
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True
