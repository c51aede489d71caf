"""File locks that end with their holder, and never pass to a forked child.

A ``flock`` belongs to the open file, and a forked child shares its parent's open files: a lock that
the parent has let go would live on in the child. So a child closes what it inherits, at once, and
no fork happens between the opening of a file and its entry in the list of those to close. Until the
child has run that far, a file of its parent's may for a moment seem to be in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe of that name does not block us


class _Forks:
    """What to do about a fork. Registered with Python once, when the first lock is made."""

    def __init__(self) -> None:
        self.gate = threading.RLock()
        self.locks: weakref.WeakSet[FileLock] = weakref.WeakSet()
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self._registered = False

    def register(self) -> None:
        with self.gate:
            if not self._registered:
                self._registered = True
                os.register_at_fork(
                    before=self._before, after_in_parent=self._after, after_in_child=self._in_child
                )

    def _before(self) -> None:
        for call in self.before:
            call()
        self.gate.acquire()

    def _after(self) -> None:
        self.gate.release()
        for call in self.after:
            call()

    def _in_child(self) -> None:
        for lock in list(self.locks):
            lock.close()
        self._after()


forks = _Forks()


class FileLock:
    """A file that can be locked once it is open; closing it gives the lock back."""

    def __init__(self) -> None:
        self.fd = -1

    @classmethod
    def at(cls, path: Path, flags: int = os.O_RDONLY) -> Self:
        """Open the file at a path."""
        lock = cls()
        lock.open(path, flags)
        return lock

    def open(self, path: Path, flags: int = os.O_RDONLY) -> None:
        """Open a file; this must not have one open."""
        forks.register()
        with forks.gate:
            self.fd = os.open(path, flags | _FLAGS, 0o644)
            forks.locks.add(self)

    @classmethod
    def of_existing(cls, path: Path) -> Self | None:
        """Open a regular file; None where there is none. Symbolic links are not followed."""
        try:
            lock = cls.at(path)
        except OSError:
            if path.is_symlink() or not path.exists():
                return None
            raise
        if stat.S_ISREG(os.fstat(lock.fd).st_mode):
            return lock
        lock.close()
        return None

    def twin(self) -> FileLock:
        """Return another handle of the same lock: it is given back when both are closed."""
        return self._new(os.dup)

    def moved(self) -> FileLock:
        """Return the lock as another object, whose it is from now on; this one is closed."""
        return self._new(lambda fd: fd, closes=True)

    def _new(self, fd_of: Callable[[int], int], *, closes: bool = False) -> FileLock:
        other = FileLock()
        with forks.gate:
            other.fd = fd_of(self.fd)
            forks.locks.add(other)
            if closes:
                self.fd = -1
        return other

    def close(self) -> None:
        """Give the lock back; again is harmless."""
        with forks.gate:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def share(self) -> None:
        """Lock with others who read; waits for one who has it alone."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def exclude(self) -> None:
        """Lock alone; waits for all others."""
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def try_exclude(self) -> bool:
        """Lock alone if nobody has a lock; say whether it was granted."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Unlock, and keep the file open."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_at(self, path: Path) -> bool:
        """Whether the open file is still the one at the path."""
        try:
            named = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        held = os.fstat(self.fd)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def remove_unlocked(path: Path) -> bool:
    """Remove a file unless somebody has locked it; say whether it is gone."""
    lock = FileLock.of_existing(path)
    if lock is None:
        if path.is_symlink():  # none of our files
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return not path.exists()
    try:
        if not lock.try_exclude():
            return False
        if lock.is_at(path):
            path.unlink()
        return not path.exists()
    finally:
        lock.close()
