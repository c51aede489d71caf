"""Unfinished files and work folders, each locked by the process that made it.

A lock ends with its process. So what a killed process left behind can be told from what another
job is still at, and whoever comes next removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["OwnedFolder", "hold", "remove_if_abandoned"]

_LOCK_NAME = ".lock"
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def hold(fd: int) -> bool:
    """Lock a file that was just created, until it is closed.

    Returns:
        False where somebody took it for abandoned in the meantime: it is of no use then.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nobody removes anything there
    return os.fstat(fd).st_nlink > 0


def remove_if_abandoned(path: Path) -> bool:
    """Remove a file that no living process holds; say whether it was removed."""
    with _abandoned(path) as is_abandoned:
        if is_abandoned:
            with suppress(OSError):  # gone, or not ours to remove
                os.unlink(path)
                return True
    return False


@contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Hold a file that no living process holds, and say whether that is so."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


class OwnedFolder:
    """A folder for work, whose name begins with ``prefix``; `remove` removes it.

    Folders of the same prefix beside it whose processes were killed are removed first.

    Args:
        prefix: What the name begins with.
        parent: Where it is made; None for the system's folder for temporary files.

    Attributes:
        path: The folder.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        root = Path(tempfile.gettempdir()) if parent is None else parent
        for lock in root.glob(f"{prefix}*/{_LOCK_NAME}"):
            with _abandoned(lock) as is_abandoned:
                if is_abandoned:
                    _remove_locked(lock.parent)
        self.path, self._fd = _locked_folder(prefix, root)

    def remove(self) -> None:
        """Remove the folder with all that is in it; again is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _remove_locked(self.path)
            os.close(fd)


def _remove_locked(path: Path) -> None:
    """Remove a folder whose lock is held. The lock goes last: where this is killed, the next one
    finds the folder by it and ends the work."""
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.name == _LOCK_NAME:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)
    shutil.rmtree(path, ignore_errors=True)


def _locked_folder(prefix: str, root: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        try:
            fd = os.open(path / _LOCK_NAME, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        if hold(fd):
            return path, fd
        os.close(fd)
