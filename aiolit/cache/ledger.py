"""The book of a cache folder: which file holds how many bytes, kept in SQLite.

SQLite is the one place where all processes of a host agree on a sum, and its transactions survive
a killed process. What a process *does* with a file (fetching it, reading it) is not in the book but
held by ``flock``, which the system lets go when the process dies. So the book can be behind, but
never wrong in the direction that breaks the limit: a file is entered before its first byte is
written and struck out after it is gone. Files are removed, and finished ones renamed, only inside a
transaction; so what one process sees on the disk inside its own fits the book.

SQLite waits for another process's transaction by sleeping and looking again. A lock file in front
of it lets the system wake who is next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from aiolit.cache.locks import FileLock, forks
from aiolit.errors import CacheError

_NAME, _LOCK = "ledger.sqlite3", "ledger.lock"
_BLOCK = 4096  # disk space is given out in blocks of this size, or of a part of it
_PAGE = 4096  # of the book
_NOTES = 32  # uses that are noted together, unless a transaction comes along
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, nbytes INTEGER NOT NULL, used REAL NOT NULL, spent INTEGER NOT NULL,
    crc INTEGER
)
"""

# Taken by every transaction of this process, and by a fork: a connection does not cross one, not
# even to be closed in the child, and what SQLite knows of its locks must say "none".
_books = threading.RLock()
_open_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


class DiskFullError(CacheError):
    """The disk has no room for the book itself."""


def disk_bytes(nbytes: int) -> int:
    """Return what a file of ``nbytes`` takes on disk."""
    return -(-nbytes // _BLOCK) * _BLOCK


class Ledger:
    """The book of one cache folder; may be used from any thread, and after a fork.

    Every method waits for the transactions of other threads and processes, which are short.

    Raises:
        CacheError: By every method: the folder, or the book, cannot be read or written.
    """

    def __init__(self, root: Path) -> None:
        _watch_forks()
        self._root = root
        self._connection: sqlite3.Connection | None = None
        self._lock: FileLock | None = None
        self._notes: list[tuple[float, int, str]] = []

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        with _books:
            connection, self._connection = self._connection, None
            lock, self._lock = self._lock, None
            if connection is not None:
                connection.close()
            if lock is not None:
                lock.close()

    def __del__(self) -> None:
        # Without the lock: nobody else has it, and the garbage collector may run under others.
        for one in (getattr(self, "_connection", None), getattr(self, "_lock", None)):
            if one is not None:
                one.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _books:
            try:
                with self._alone():
                    connection = self._open()
                    connection.execute("BEGIN IMMEDIATE")
                    try:
                        self._write_notes(connection)
                        yield connection
                        connection.execute("COMMIT")
                    except BaseException:
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                        raise
            except (sqlite3.Error, OSError) as error:
                kind = DiskFullError if _is_full(error) else CacheError
                raise kind(
                    f"the cache folder {self._root} cannot be used: {error}; give another cache_dir"
                ) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._root / _LOCK
        while True:
            if self._lock is None or self._lock.fd < 0:
                self._root.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock.at(path, os.O_RDWR | os.O_CREAT)
            lock = self._lock
            lock.exclude()
            if lock.is_at(path):
                break
            self.close()  # somebody cleared the folder: its book is another one
        try:
            yield
        finally:
            if lock.fd >= 0:
                lock.unlock()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            for name in (_NAME, f"{_NAME}-journal"):  # SQLite would write through it
                if (self._root / name).is_symlink():
                    raise CacheError(
                        f"{self._root / name} is a symbolic link; give another cache_dir"
                    )
            connection = sqlite3.connect(
                self._root / _NAME, timeout=60, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode=TRUNCATE")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            _open_ledgers.add(self)
        return self._connection

    def overhead(self) -> int:
        """Return the disk space of what is no cached file, as large as it can become.

        The journal of a transaction can hold the old pages of the whole book; a new entry can add
        pages to the book and a block to a folder.
        """
        book = folders = 0
        with contextlib.suppress(FileNotFoundError):
            book = (self._root / _NAME).stat().st_blocks * 512
        found = [self._root]
        with os.scandir(self._root) as entries:
            found += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
        for folder in found:
            folders += folder.stat().st_blocks * 512
        return 2 * book + 6 * _PAGE + folders + _BLOCK

    def reserve(
        self,
        path: str,
        nbytes: int,
        limit: int | None,
        now: float,
        evict: Callable[[str], bool],
    ) -> int | None:
        """Enter a file of ``nbytes`` if the folder stays within ``limit`` bytes.

        Files that nobody reads are evicted to make room. Those that an epoch has used up go first,
        the last of them before the others: their next use is the farthest away, and what the epoch
        before has left is still to come. Then the least recently used.

        Args:
            path: The file, relative to the folder. An older one of that name has to go first.
            nbytes: Its size.
            limit: What the folder may hold, the book included; None is no limit.
            now: The time of use, in seconds.
            evict: Removes a file unless it is in use; says whether it is gone.

        Returns:
            How many files were evicted, or None if there is no room and nothing was entered.
        """
        need, gone = disk_bytes(nbytes), []
        with self._transaction() as book:
            if not evict(path):
                return None
            book.execute("DELETE FROM files WHERE path = ?", (path,))
            if limit is not None:
                room = limit - self.overhead() - need
                total = int(book.execute("SELECT total(nbytes) FROM files").fetchone()[0])
                if total > room >= 0:
                    rows = book.execute(
                        "SELECT path, nbytes FROM files "
                        "ORDER BY spent DESC, CASE WHEN spent THEN -used ELSE used END, path"
                    )
                    for other, size in rows:
                        if evict(other):
                            gone.append((other,))
                            total -= size
                            if total <= room:
                                break
                    rows.close()
                    book.executemany("DELETE FROM files WHERE path = ?", gone)
                if total > room:
                    return None
            book.execute("INSERT INTO files VALUES (?, ?, ?, 0, NULL)", (path, need, now))
        return len(gone)

    def publish(self, path: str, now: float, crc: int, finish: Callable[[], None]) -> None:
        """Note the CRC-32 of a fetched file, and run ``finish`` while no eviction can happen."""
        with self._transaction() as book:
            book.execute("UPDATE files SET used = ?, crc = ? WHERE path = ?", (now, crc, path))
            finish()

    def note(self, path: str, now: float, *, spent: bool) -> None:
        """Remember the use of a file, and whether this epoch is done with it.

        Does not wait: it is written down with the next transaction of this process.
        """
        self._notes.append((now, int(spent), path))

    def write_notes(self) -> None:
        """Write the uses down if there are many."""
        if len(self._notes) >= _NOTES:
            with self._transaction():
                pass

    def _write_notes(self, book: sqlite3.Connection) -> None:
        notes, self._notes = self._notes, []
        book.executemany("UPDATE files SET used = ?, spent = ? WHERE path = ?", notes)

    def crc(self, path: str) -> int | None:
        """Return the CRC-32 noted for a file."""
        with self._transaction() as book:
            row = book.execute("SELECT crc FROM files WHERE path = ?", (path,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def remove(self, path: str, remove: Callable[[str], bool]) -> bool:
        """Strike a file out if ``remove`` says that it is gone; say so too."""
        with self._transaction() as book:
            gone = remove(path)
            if gone:
                book.execute("DELETE FROM files WHERE path = ?", (path,))
        return gone

    def sweep(self, remains: Callable[[dict[str, int | None]], set[str]]) -> None:
        """Strike out all but what ``remains`` says of the files and the CRC-32s noted for them."""
        with self._transaction() as book:
            entered = dict(book.execute("SELECT path, crc FROM files").fetchall())
            gone = entered.keys() - remains(entered)
            book.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in gone])

    def beginning(self, prefix: str) -> list[str]:
        """Return the files, fetched and checked, whose path begins with ``prefix``."""
        with self._transaction() as book:
            rows = book.execute(
                "SELECT path FROM files WHERE path >= ? AND path < ? AND crc IS NOT NULL",
                (prefix, prefix + chr(0x10FFFF)),
            )
            return [path for (path,) in rows]

    def total(self) -> int:
        """Return the bytes on disk of all entered files."""
        with self._transaction() as book:
            return int(book.execute("SELECT total(nbytes) FROM files").fetchone()[0])

    def paths(self) -> dict[str, int]:
        """Return every entered file and its bytes on disk."""
        with self._transaction() as book:
            return dict(book.execute("SELECT path, nbytes FROM files").fetchall())


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _watch_forks() -> None:
    if _before_fork not in forks.before:
        forks.before.append(_before_fork)
        forks.after.append(_books.release)
    forks.register()


def _before_fork() -> None:
    _books.acquire()
    for ledger in list(_open_ledgers):
        ledger.close()
