"""The book of a cache folder: which file holds how many bytes, kept in SQLite.

SQLite is the one place where all processes of a host agree on a sum, and its transactions survive
a killed process. What a process *does* with a file (fetching it, reading it) is not in the book but
held by ``flock``, which the system lets go when the process dies. So the book can be behind, but
never wrong in the direction that breaks the limit: a file is entered before its first byte is
written and struck out after it is gone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from aiolit.errors import CacheError

_NAME = "ledger.sqlite3"
_BLOCK = 4096  # disk space is given out in blocks of this size
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, nbytes INTEGER NOT NULL, used REAL NOT NULL, spent INTEGER NOT NULL,
    crc INTEGER
)
"""


def disk_bytes(nbytes: int) -> int:
    """Return what a file of ``nbytes`` takes on disk."""
    return -(-nbytes // _BLOCK) * _BLOCK


class Ledger:
    """The book of one cache folder; may be used from any thread of the process that opened it.

    A connection does not cross a fork: each process opens its own on first use.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            path = self._root / _NAME
            try:
                connection = sqlite3.connect(
                    path, timeout=60, isolation_level=None, check_same_thread=False
                )
                connection.execute("PRAGMA journal_mode=TRUNCATE")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_SCHEMA)
            except sqlite3.Error as error:
                raise CacheError(f"the cache ledger {path} cannot be opened: {error}") from error
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def overhead(self) -> int:
        """Return the disk space of the book itself."""
        total = 0
        for name in (_NAME, f"{_NAME}-journal"):
            with contextlib.suppress(OSError):
                total += (self._root / name).stat().st_blocks * 512
        return total

    def reserve(
        self,
        path: str,
        nbytes: int,
        limit: int | None,
        now: float,
        evict: Callable[[str], bool],
    ) -> int | None:
        """Enter a file of ``nbytes`` if the folder stays within ``limit`` bytes.

        Files that nobody reads are evicted to make room: those that an epoch has used up first,
        then the least recently used.

        Args:
            path: The file, relative to the folder.
            nbytes: Its size.
            limit: What all files may take, the book included; None is no limit.
            now: The time of use, in seconds.
            evict: Removes a file unless it is in use; says whether it is gone.

        Returns:
            How many files were evicted, or None if there is no room and nothing was entered.
        """
        need, evicted = disk_bytes(nbytes), 0
        with self._transaction() as book:
            if limit is not None:
                room = limit - self.overhead() - need
                total = int(book.execute("SELECT total(nbytes) FROM files").fetchone()[0])
                if room < 0:
                    return None
                if total > room:
                    rows = book.execute(
                        "SELECT path, nbytes FROM files ORDER BY spent DESC, used"
                    ).fetchall()
                    for other, size in rows:
                        if other != path and evict(other):
                            book.execute("DELETE FROM files WHERE path = ?", (other,))
                            total -= size
                            evicted += 1
                        if total <= room:
                            break
                if total > room:
                    return None
            book.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, 0, NULL)", (path, need, now)
            )
        return evicted

    def publish(self, path: str, now: float, crc: int, share: Callable[[], None]) -> None:
        """Note the CRC-32 of a fetched file, and run ``share`` while no eviction can happen."""
        with self._transaction() as book:
            book.execute("UPDATE files SET used = ?, crc = ? WHERE path = ?", (now, crc, path))
            share()

    def touch(self, path: str, now: float, *, spent: bool) -> None:
        """Note the use of a file, and whether this epoch is done with it."""
        with self._transaction() as book:
            book.execute(
                "UPDATE files SET used = ?, spent = ? WHERE path = ?", (now, int(spent), path)
            )

    def crc(self, path: str) -> int | None:
        """Return the CRC-32 noted for a file."""
        with self._transaction() as book:
            row = book.execute("SELECT crc FROM files WHERE path = ?", (path,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def remove(self, path: str) -> None:
        """Strike a file out."""
        with self._transaction() as book:
            book.execute("DELETE FROM files WHERE path = ?", (path,))

    def beginning(self, prefix: str) -> list[str]:
        """Return the files, fetched and checked, whose path begins with ``prefix``."""
        with self._transaction() as book:
            rows = book.execute(
                "SELECT path FROM files WHERE path >= ? AND path < ? AND crc IS NOT NULL",
                (prefix, prefix + chr(0x10FFFF)),
            )
            return [path for (path,) in rows]

    def paths(self) -> dict[str, int]:
        """Return every entered file and its bytes."""
        with self._transaction() as book:
            return dict(book.execute("SELECT path, nbytes FROM files").fetchall())
