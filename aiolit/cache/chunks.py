"""Cached files: fetched once by one process, read by many, evicted when nobody reads them.

A file is written under a name ending in ``.part`` by the process that holds its exclusive
``flock``, checked, and renamed. Readers hold a shared ``flock`` on the finished file. Locks end
with their process, so a killed one leaves nothing that others must guess about: a ``.part`` that
nobody has locked is rubbish, and a finished file that nobody has locked may be evicted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiolit.cache.ledger import Ledger
from aiolit.errors import CacheError
from aiolit.format.checksum import crc32

_PART = ".part"
Fill = Callable[[memoryview], Awaitable[None]]


class Lease:
    """A cached file, mapped for reading; it is not evicted while the lease is open."""

    def __init__(self, cache: ChunkCache, name: str, fd: int, size: int) -> None:
        self._cache, self.name, self._fd = cache, name, fd
        mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""
        self.data = memoryview(mapped)

    def close(self, *, spent: bool = False) -> None:
        """Let the file go; ``spent`` says that this epoch does not need it again."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self.data = memoryview(b"")
        os.close(fd)
        if spent:
            self._cache.note_spent(self.name)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Where a host caches, and how much.

    Attributes:
        root: The cache folder; the limit is for all that lies in it.
        limit: Bytes; None is no limit.
    """

    root: Path
    limit: int | None


class ChunkCache:
    """The cache folder as one data set uses it.

    Methods block (on the disk, or on another process that fetches the same file) and belong in a
    thread; ``get`` is for the event loop and moves them there.
    """

    def __init__(self, config: CacheConfig, namespace: str) -> None:
        self._root, self._limit = config.root, config.limit
        self._folder = config.root / namespace
        self._namespace = namespace
        self._ledger = Ledger(config.root)
        self._trusted: set[str] = set()
        self.evictions = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"the cache folder {self._folder} cannot be made: {error.strerror}; "
                "give another cache_dir"
            ) from error

    async def get(self, name: str, nbytes: int, fill: Fill) -> tuple[Lease, bool] | None:
        """Return a lease on a file, fetching it if no process of this host has it.

        Args:
            name: The file's name in the data set's folder.
            nbytes: Its exact size.
            fill: Fetches it into a mapped buffer of that size, and checks it.

        Returns:
            The lease, and whether this call fetched the file; None where the limit has no room for
            it now. Cancelling, or a failing ``fill``, leaves neither file nor reservation.
        """
        lease = await asyncio.to_thread(self.lookup, name, nbytes)
        if lease is not None:
            return lease, False
        fd = await _in_thread(self._lock_part, name)
        try:
            lease = await asyncio.to_thread(self.lookup, name, nbytes)
            if lease is not None:
                (self._folder / f"{name}{_PART}").unlink(missing_ok=True)
                return lease, False
            if not await asyncio.to_thread(self._reserve, name, nbytes):
                self._discard(name)
                return None
            return await self._fetch(name, nbytes, fd, fill), True
        finally:
            os.close(fd)

    def holds(self, name: str) -> bool:
        """Whether there is a finished file of that name; it may be gone when it is asked for."""
        return (self._folder / name).exists()

    def parts(self, name: str) -> list[tuple[int, int]]:
        """Return the item ranges ``[first, stop)`` of which ``{name}.{first}-{stop}`` is cached."""
        prefix = self._key(name)
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)-(\d+)")
        found = (pattern.fullmatch(path) for path in self._ledger.beginning(f"{prefix}."))
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def lookup(self, name: str, nbytes: int | None = None) -> Lease | None:
        """Return a lease on a finished file, or None if it is not there or not what it should be.

        A file that this process meets for the first time is checked against the CRC-32 that was
        noted when it was fetched; one that fails is removed.
        """
        path = self._folder / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"the cached file {path} cannot be read: {error.strerror}") from error
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not _is_linked(fd, path):  # evicted between open and lock
            os.close(fd)
            return None
        size = os.fstat(fd).st_size
        lease = Lease(self, name, fd, size)
        if name not in self._trusted:
            known = self._ledger.crc(self._key(name)) if nbytes in (None, size) else None
            if known is None or crc32(lease.data) != known:
                lease.close()
                self._remove_unread(name)
                return None
            self._trusted.add(name)
        self._ledger.touch(self._key(name), time.time(), spent=False)
        return lease

    def note_spent(self, name: str) -> None:
        """Say that this epoch has used a file up: it is evicted before others."""
        self._ledger.touch(self._key(name), time.time(), spent=True)

    def reclaim(self) -> None:
        """Remove what dead processes left: parts nobody writes, entries without a file."""
        for key in self._ledger.paths():
            if not (self._root / key).exists():
                part = self._root / f"{key}{_PART}"
                if not part.exists() or _unlink_unlocked(part):
                    self._ledger.remove(key)
        for path in self._root.glob(f"**/*{_PART}"):
            _unlink_unlocked(path)

    def _key(self, name: str) -> str:
        return f"{self._namespace}/{name}"

    def _lock_part(self, name: str) -> int:
        """Take the right to fetch a file; waits while another process has it."""
        path = self._folder / f"{name}{_PART}"
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(path, flags, 0o644)
            except OSError as error:
                raise CacheError(
                    f"the cache cannot write {path}: {error.strerror}; give another cache_dir"
                ) from error
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_linked(fd, path):
                return fd
            os.close(fd)  # the last holder renamed or removed it

    def _reserve(self, name: str, nbytes: int) -> bool:
        now = time.time()
        evicted = self._ledger.reserve(
            self._key(name), nbytes, self._limit, now, lambda key: self._evict(self._root / key)
        )
        self.evictions += evicted or 0
        return evicted is not None

    async def _fetch(self, name: str, nbytes: int, fd: int, fill: Fill) -> Lease:
        part, path = self._folder / f"{name}{_PART}", self._folder / name
        try:
            with _full_disk_is_clear(self._root):
                if nbytes:
                    os.posix_fallocate(fd, 0, nbytes)  # a full disk fails here, not as SIGBUS
            with _writable(fd, nbytes) as target:
                await fill(target)
                crc = await asyncio.to_thread(crc32, target)
            os.rename(part, path)
            # Becoming a reader gives the exclusive lock up for a moment. Evictions run inside a
            # transaction of the ledger, so inside one of ours none can slip into that moment.
            self._ledger.publish(
                self._key(name), time.time(), crc, lambda: fcntl.flock(fd, fcntl.LOCK_SH)
            )
        except BaseException:
            self._discard(name)
            raise
        self._trusted.add(name)
        return Lease(self, name, os.dup(fd), nbytes)

    def _discard(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._folder / f"{name}{_PART}")
        if not (self._folder / name).exists():
            self._ledger.remove(self._key(name))

    def _evict(self, path: Path) -> bool:
        """Remove a finished file unless somebody reads or fetches it."""
        part = path.with_name(f"{path.name}{_PART}")
        if part.exists() and not _unlink_unlocked(part):
            return False
        return not path.exists() or _unlink_unlocked(path)

    def _remove_unread(self, name: str) -> None:
        if _unlink_unlocked(self._folder / name):
            self._ledger.remove(self._key(name))


async def _in_thread(lock: Callable[[str], int], name: str) -> int:
    """Take a file lock in a thread; a lock that is granted after a cancellation is let go."""
    taking = asyncio.get_running_loop().run_in_executor(None, lock, name)
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(lambda done: os.close(done.result()) if _ok(done) else None)
        raise


def _ok(done: asyncio.Future[int]) -> bool:
    return not done.cancelled() and done.exception() is None


def _is_linked(fd: int, path: Path) -> bool:
    """Whether an open file is still the one at the path."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def _unlink_unlocked(path: Path) -> bool:
    """Remove a file that no process has locked; say whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symlink is none of our files
            os.unlink(path)
            return True
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_linked(fd, path):
            os.unlink(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


@contextlib.contextmanager
def _writable(fd: int, nbytes: int) -> Iterator[memoryview]:
    if not nbytes:
        yield memoryview(bytearray())
        return
    with mmap.mmap(fd, nbytes) as mapped, memoryview(mapped) as view:
        yield view


@contextlib.contextmanager
def _full_disk_is_clear(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache folder {root} has no space left: {error.strerror}; "
            "lower max_cache_size or give another cache_dir"
        ) from error
