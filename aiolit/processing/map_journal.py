"""What an unfinished `map` has made: records of many inputs each, in the output folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiolit.errors import ConfigError
from aiolit.processing.checkpoint import Checkpoint, checkpoint_keys, remove_folder
from aiolit.processing.journal import InputMark, Progress, merge_ranges
from aiolit.processing.nodes import Share
from aiolit.store.base import Store

__all__ = ["Made", "MapJournal"]

_VERSION = 1
_PREFIX = "map-"
_DONE = "done.json"
_EVERY_S = 1.0
_MOST = 4096


@dataclass(frozen=True, slots=True)
class Made:
    """What came of an input.

    Attributes:
        index: Its position among the inputs.
        files: Name and length of each file, relative to the output.
    """

    index: int
    files: tuple[tuple[str, int], ...]


class MapJournal:
    """Writes down which inputs are finished: once a second, or when there are many.

    Args:
        store: The output.
        mark: Says what inputs have come in so far.
        share: Which share of several it is of; None: of the whole job.
        clock: Seconds.

    Attributes:
        made: What earlier attempts have finished.
        marks: What the inputs of earlier attempts were.
    """

    def __init__(
        self,
        store: Store,
        mark: Callable[[], InputMark],
        *,
        share: Share | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._share = share
        self._checkpoint = Checkpoint(store, None if share is None else share.rank)
        self._mark = mark
        self._clock = clock
        self._written_at = clock()
        self._number = 0
        self._pending: list[Made] = []
        self.made: list[Made] = []
        self.marks: list[InputMark] = []

    async def begin(self, job: Mapping[str, Any]) -> Progress:
        """Look at what earlier attempts have finished.

        Raises:
            ConfigError: The output holds the records of another job.
        """
        await self._checkpoint.begin(job)
        for key, data in await self._checkpoint.read_records(_PREFIX):
            number, mark, made = _parse(data, source=self._store.object_url(key))
            self._number = max(self._number, number + 1)
            self.marks.append(mark)
            self.made.extend(made)
        done = merge_ranges((each.index, each.index + 1) for each in self.made)
        return Progress(done=done)

    async def finished(self, made: Sequence[Made]) -> None:
        """Take note of inputs whose files are stored."""
        self._pending.extend(made)
        if len(self._pending) >= _MOST or self._clock() - self._written_at >= _EVERY_S:
            await self.flush()

    async def flush(self) -> None:
        """Write down what is not written down yet."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        number, self._number = self._number, self._number + 1
        self._written_at = self._clock()
        mark = self._mark()
        value = {
            "version": _VERSION,
            "number": number,
            "inputs": [mark.count, mark.digest],
            "made": [[each.index, [list(file) for file in each.files]] for each in pending],
        }
        key = self._checkpoint.key(f"{_PREFIX}{number:08d}.json")
        await self._store.put(key, json.dumps(value).encode())

    async def end(self) -> None:
        """Forget the job: it is complete.

        The records of a share stay until all shares are: so it is not done again with those.
        """
        done: list[str] = []
        if self._share is not None:
            await self.flush()
            done = [Checkpoint(self._store, n).key(_DONE) for n in range(self._share.num_nodes)]
            await self._store.put(done[self._share.rank], b"{}")
        records, jobs = await checkpoint_keys(self._store)
        if not set(done) <= set(records):
            return
        for key in [*records, *jobs]:
            await self._store.delete(key)
        await remove_folder(self._store)


def _parse(data: bytes, *, source: str) -> tuple[int, InputMark, list[Made]]:
    try:
        value = json.loads(data)
        if value["version"] != _VERSION:
            raise ConfigError(f"{source} was written by another version of aiolit")
        made = [
            Made(index, tuple((name, nbytes) for name, nbytes in files))
            for index, files in value["made"]
        ]
        return value["number"], InputMark(*value["inputs"]), made
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source} is no checkpoint record: {error!r}") from error
