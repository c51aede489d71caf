"""Who is at work on a data set in a folder of this machine, and what killed jobs have left there.

A job leaves a mark in the folder before its first file, and takes it away at its end. The mark is
locked, and a lock ends with its process: so the marks of killed jobs can be told from those of
living ones. A mark says which chunks were the job's to write. Those among them that no index names
are removed by the next job, if no other is at work.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiolit.errors import IndexFormatError
from aiolit.format.dataset_info import plain_name
from aiolit.format.index import parse_index
from aiolit.store.owned import hold

__all__ = ["CHUNK_NAME", "FolderMark"]

# Of a chunk: the number of its node, and its own.
CHUNK_NAME = re.compile(r"chunk-(\d+)-(\d+)\b.*\.bin")
_PREFIX = ".aiolit-writing-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Writes:
    """What a job may leave without an index that names it.

    Attributes:
        first_number: Chunks of this number and higher ones are its own.
        replaced: The chunks that it removes at its end.
    """

    first_number: int
    replaced: frozenset[str]

    def has(self, name: str) -> bool:
        match = CHUNK_NAME.fullmatch(name)
        return match is not None and (int(match[2]) >= self.first_number or name in self.replaced)


class FolderMark:
    """The mark of one job in the folder of a data set; its methods block.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_left = False
        self._path: Path | None = None
        self._fd = -1

    def leave(self, first_number: int, replaced: Collection[str], kept: Collection[str]) -> None:
        """Leave the mark, and remove what killed jobs have left; again is harmless.

        A folder where that is not possible is done without.

        Args:
            first_number: The number of the first chunk that the job writes.
            replaced: The chunks that it removes at its end.
            kept: Chunks that no index names yet, and that are wanted all the same.
        """
        if self._is_left:
            return
        self._is_left = True
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # One job at a time looks and leaves its mark: none begins while another removes.
            with _locked(self._folder):
                _remove_leftovers(self._folder, kept)
                self._create({"first_number": first_number, "replaced": sorted(replaced)})

    def _create(self, value: dict[str, object]) -> None:
        fd, name = tempfile.mkstemp(prefix=_PREFIX, dir=self._folder)
        self._fd, self._path = fd, Path(name)
        hold(fd)
        os.write(fd, json.dumps(value | {"machine": _machine()}).encode())

    def take_away(self) -> None:
        """Take the mark away; again is harmless."""
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)
            os.close(self._fd)


def _machine() -> str:
    """Return what no other machine has: a lock of a process elsewhere may not be seen here."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_leftovers(folder: Path, kept: Collection[str]) -> None:
    marks = list(folder.glob(f"{_PREFIX}*"))
    if not marks or list(folder.glob("*-index.json")):
        return  # nobody was killed; or the shares of several nodes are there, with their chunks
    with ExitStack() as stack:
        writes = [stack.enter_context(_killed(mark)) for mark in marks]
        wanted = _named(folder)
        if None in writes or wanted is None:
            return
        for name in os.listdir(folder):
            if name in wanted or name in kept:
                continue
            if any(each is not None and each.has(name) for each in writes):
                (folder / name).unlink(missing_ok=True)
        for mark in marks:
            mark.unlink(missing_ok=True)


@contextmanager
def _killed(mark: Path) -> Iterator[_Writes | None]:
    """Give what a job was writing whose process was killed; None: that is not certain."""
    try:
        fd = os.open(mark, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> _Writes | None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        if not data:  # it was killed before it began
            return _Writes(sys.maxsize, frozenset())
        value = json.loads(data)
        if not value["machine"] or value["machine"] != _machine():
            return None
        return _Writes(int(value["first_number"]), frozenset(value["replaced"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _named(folder: Path) -> set[str] | None:
    """Return the chunks that the index names, if there is one; None: it cannot be read."""
    path = folder / "index.json"
    try:
        index = parse_index(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        return set()
    except IndexFormatError:
        return None
    # LitData leaves an inflated chunk beside the index, in place of the compressed one.
    names = {chunk.filename for chunk in index.chunks}
    return names | {plain_name(chunk, index.config) for chunk in index.chunks}
