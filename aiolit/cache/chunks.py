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
import hashlib
import logging
import mmap
import os
import re
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiolit.cache.base import Fill, close_lease
from aiolit.cache.file_map import FileMap
from aiolit.cache.ledger import DiskFullError, Ledger, disk_bytes
from aiolit.cache.locks import FileLock, remove_unlocked
from aiolit.errors import CacheError
from aiolit.format.checksum import crc32
from aiolit.runtime.blocking import in_own_thread, in_thread

_log = logging.getLogger(__name__)

_MOST_TRUSTED = 1 << 16  # files whose check is remembered
_PART = ".part"
_ESCAPED = "%2Epart"
_LONGEST = 200  # bytes of a name; file systems have 255, with what is put behind it
_EXTENT = re.compile(r"\.\d{1,16}-\d{1,16}$")  # behind the name of a chunk: the items of a part
Identity = tuple[int, int, int, int]


class Lease:
    """A cached file, mapped for reading; it is not evicted while the lease is open."""

    def __init__(self, cache: ChunkCache, name: str, lock: FileLock, data: memoryview) -> None:
        self._cache, self._lock = cache, lock
        self.name, self.data = name, data

    def close(self, *, spent: bool = False) -> None:
        """Let the file go; ``spent`` says that this epoch does not need it again."""
        if self._lock.fd < 0:
            return
        self.data = memoryview(b"")
        self._lock.close()
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

    Methods block (on the disk, or shortly on another process) and belong in a thread; ``get`` is
    for the event loop and moves them there.

    Raises:
        CacheError: By every method: the folder cannot be read or written.
    """

    def __init__(self, config: CacheConfig, namespace: str) -> None:
        self._root, self._limit = config.root, config.limit
        self._folder = config.root / namespace
        self._namespace = namespace
        self._ledger = Ledger(config.root)
        self._trusted: dict[str, Identity] = {}
        self._flights: dict[tuple[int, str], asyncio.Future[bool]] = {}
        self.evictions = 0
        self._warned = False
        self._make_folder()

    async def get(self, name: str, nbytes: int, fill: Fill) -> tuple[Lease, bool] | None:
        """Return a lease on a file, fetching it if no process of this host has it.

        Who asks for a file that is just being fetched waits for that, in this process and in
        others; a failure is shared by those who wait in this process.

        Args:
            name: The file's name in the data set's folder.
            nbytes: Its exact size.
            fill: Fetches it into a mapped buffer of that size, and checks it.

        Returns:
            The lease, and whether this call fetched the file; None where the limit has no room for
            it now. Cancelling, or a failing ``fill``, leaves neither file nor reservation.
        """
        try:
            return await self._get_shared(name, nbytes, fill)
        except DiskFullError:
            self._warn_of_full_disk()
            return None

    async def _get_shared(self, name: str, nbytes: int, fill: Fill) -> tuple[Lease, bool] | None:
        loop = asyncio.get_running_loop()
        key = (id(loop), name)
        while True:
            lease = await self._look_up(name, nbytes)
            if lease is not None:
                return lease, False
            flight = self._flights.get(key)
            if flight is None:
                break
            await asyncio.wait([flight])
            if not flight.cancelled() and not flight.result():
                return None
        flight = self._flights[key] = loop.create_future()
        try:
            found = await self._get_alone(name, nbytes, fill)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # nobody may be waiting
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(found is not None)
            return found
        finally:
            del self._flights[key]

    def holds(self, name: str) -> bool:
        """Whether there is a finished file of that name; it may be gone when it is asked for."""
        return self._path(name).exists()

    def parts(self, name: str) -> list[tuple[int, int]]:
        """Return the item ranges ``[first, stop)`` of which ``{name}.{first}-{stop}`` is cached."""
        prefix = self._key(name)
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)-(\d+)")
        try:
            paths = self._ledger.beginning(f"{prefix}.")
        except DiskFullError:
            return []
        found = (pattern.fullmatch(path) for path in paths)
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def lookup(self, name: str, nbytes: int | None = None) -> Lease | None:
        """Return a lease on a finished file, or None if it is not there or not what it should be.

        A file that this process meets for the first time is checked against the CRC-32 that was
        noted when it was fetched; one that fails is removed.
        """
        path = self._path(name)
        try:
            lock = FileLock.of_existing(path)
            if lock is None:
                return None
            try:
                lease = self._leased(name, nbytes, lock, path)
            except BaseException:
                lock.close()
                raise
        except (FileNotFoundError, DiskFullError):  # removed this very moment, or nobody vouches
            return None
        except OSError as error:
            raise CacheError(f"the cached file {path} cannot be read: {error.strerror}") from error
        with contextlib.suppress(DiskFullError):  # it is noted another time
            if lease is None:
                lock.close()
                self._ledger.remove(self._key(name), lambda key: remove_unlocked(self._root / key))
            else:
                self._ledger.note(self._key(name), time.time(), spent=False)
                self._ledger.write_notes()
        return lease

    def note_spent(self, name: str) -> None:
        """Say that this epoch has used a file up: it is evicted before others. Does not block."""
        self._ledger.note(self._key(name), time.time(), spent=True)

    def reclaim(self) -> None:
        """Remove what dead processes left: parts nobody writes, files nobody can vouch for."""
        self._ledger.sweep(self._remaining)

    def try_reclaim(self) -> None:
        """Reclaim beside the reading; where the folder cannot be used, that says so itself."""
        try:
            self.reclaim()
        except CacheError as error:
            _log.debug("nothing is reclaimed: %s", error)

    def close(self) -> None:
        """Close the ledger; leases stay open, and the next use opens it again."""
        self._ledger.close()

    # ---- paths -----------------------------------------------------------------------------

    def _make_folder(self) -> None:
        try:
            if self._folder.is_symlink():
                raise CacheError(f"{self._folder} is a symbolic link; give another cache_dir")
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"the cache folder {self._folder} cannot be made: {error.strerror}; "
                "give another cache_dir"
            ) from error

    def _path(self, name: str) -> Path:
        return self._root / self._key(name)

    def _part(self, name: str) -> Path:
        return self._root / f"{self._key(name)}{_PART}"

    def _key(self, name: str) -> str:
        """Name a file in the ledger and in the folder, which has no folders within."""
        flat = _short(name.replace("%", "%25").replace("/", "%2F"))
        if flat.endswith(_PART):
            flat = flat.removesuffix(_PART) + _ESCAPED
        return f"{self._namespace}/{flat}"

    # ---- reading ---------------------------------------------------------------------------

    async def _look_up(self, name: str, nbytes: int) -> Lease | None:
        return await in_thread(partial(self.lookup, name, nbytes), close_lease)

    def _leased(self, name: str, nbytes: int | None, lock: FileLock, path: Path) -> Lease | None:
        lock.share()
        if not lock.is_at(path):  # evicted between open and lock
            return None
        status = os.fstat(lock.fd)
        if nbytes is not None and nbytes != status.st_size:
            return None
        data = _mapped(path, status.st_size, mmap.ACCESS_READ)
        if self._trusted.get(name) != _identity(status):
            known = self._ledger.crc(self._key(name))
            if known is None or crc32(data) != known:
                return None
            self._trust(name, status)
        return Lease(self, name, lock, data)

    def _trust(self, name: str, status: os.stat_result) -> None:
        """Remember a file that was checked; of very many the oldest are checked again."""
        self._trusted[name] = _identity(status)
        if len(self._trusted) > _MOST_TRUSTED:
            for old in list(self._trusted)[: _MOST_TRUSTED // 2]:
                self._trusted.pop(old, None)

    # ---- fetching --------------------------------------------------------------------------

    async def _get_alone(self, name: str, nbytes: int, fill: Fill) -> tuple[Lease, bool] | None:
        """Fetch a file unless another process has fetched it meanwhile."""
        while True:
            lock = FileLock()
            try:
                holder = await in_thread(partial(self._lock_part, name, lock))
                if not holder:
                    await _wait_for_holder(lock)
                lease = await self._look_up(name, nbytes)
                if lease is None and holder:
                    return await self._fetch(name, nbytes, lock, fill)
                if lease is not None:
                    return await self._found(name, lock, lease)
            except BaseException:
                await in_thread(partial(self._discard, name, lock))
                raise
            finally:
                lock.close()  # in vain where it has become a lease's

    async def _found(self, name: str, lock: FileLock, lease: Lease) -> tuple[Lease, bool]:
        """Return what another process has fetched, and leave no part behind."""
        await in_thread(partial(self._discard, name, lock), lambda _: lease.close())
        return lease, False

    def _lock_part(self, name: str, lock: FileLock) -> bool:
        """Take the right to fetch a file, unless another process has it; say whether it is ours."""
        path = self._part(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():  # none of our files
                path.unlink()
            lock.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise CacheError(
                f"the cache cannot write {path}: {error.strerror}; give another cache_dir"
            ) from error
        if lock.try_exclude():
            if lock.is_at(path):
                return True
            # The last holder is just now renaming it, and waits to become one of its readers.
            lock.unlock()
        return False

    async def _fetch(
        self, name: str, nbytes: int, lock: FileLock, fill: Fill
    ) -> tuple[Lease, bool] | None:
        if not await in_thread(partial(self._reserve, name, nbytes, lock)):
            await in_thread(partial(self._discard, name, lock))
            return None
        try:
            target = _mapped(self._part(name), nbytes, mmap.ACCESS_WRITE)
        except FileNotFoundError:  # somebody clears the folder
            target = None
        if target is not None:
            await fill(target)
            lease = await in_thread(partial(self._publish, name, target, lock), close_lease)
            if lease is not None:
                return lease, True
        await in_thread(partial(self._strike_out, name))
        return None

    def _strike_out(self, name: str) -> None:
        """Forget a file of ours that somebody has removed, unless it is being fetched anew."""
        path, part = self._path(name), self._part(name)
        self._ledger.remove(self._key(name), lambda _: not (path.exists() or part.exists()))

    def _reserve(self, name: str, nbytes: int, lock: FileLock) -> bool:
        os.ftruncate(lock.fd, 0)  # a dead process may have left some of it
        if not self._enter(name, nbytes):
            return False
        try:
            if nbytes:
                os.posix_fallocate(lock.fd, 0, nbytes)  # a full disk fails here, not as SIGBUS
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise CacheError(
                    f"the cache cannot write to {self._root}: {error.strerror}; "
                    "give another cache_dir"
                ) from error
            self._warn_of_full_disk()
            return False  # as where the limit has no room: it is read by range
        taken = os.fstat(lock.fd).st_blocks * 512
        return taken <= disk_bytes(nbytes) or self._enter(
            name, taken
        )  # the file system may need some more

    def _warn_of_full_disk(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the disk of the cache folder {self._root} is full: what does not fit is read by "
                "range and not kept; lower max_cache_size or give another cache_dir",
                stacklevel=2,
            )

    def _enter(self, name: str, nbytes: int) -> bool:
        own = self._key(name)

        def evict(key: str) -> bool:
            return remove_unlocked(self._root / key) if key == own else self._evict(key)

        evicted = self._ledger.reserve(own, nbytes, self._limit, time.time(), evict)
        self.evictions += evicted or 0
        return evicted is not None

    def _publish(self, name: str, target: memoryview, lock: FileLock) -> Lease | None:
        """Make a fetched part a finished file; None where somebody has removed it meanwhile."""
        crc, path, part = crc32(target), self._path(name), self._part(name)
        published = False

        def finish() -> None:
            nonlocal published
            if lock.is_at(part):
                os.rename(part, path)
                # Becoming a reader gives the exclusive lock up for a moment. Evictions run inside
                # a transaction, as this does, so none can slip into that moment.
                lock.share()
                published = True

        try:
            data = _mapped(part, len(target), mmap.ACCESS_READ)
        except FileNotFoundError:
            return None
        self._ledger.publish(self._key(name), time.time(), crc, finish)
        if not published:
            return None
        self._trust(name, os.fstat(lock.fd))
        return Lease(self, name, lock.moved(), data)

    def _discard(self, name: str, lock: FileLock) -> None:
        """Remove what a fetch that ended has left, and its reservation; not another one's."""
        part = self._part(name)

        def remove(key: str) -> bool:
            if (
                lock.fd >= 0 and lock.try_exclude() and lock.is_at(part)
            ):  # else it is another process's
                part.unlink()
                return not (self._root / key).exists()
            return False

        self._ledger.remove(self._key(name), remove)

    # ---- removing --------------------------------------------------------------------------

    def _evict(self, key: str) -> bool:
        """Remove a finished file unless somebody reads or fetches it."""
        path = self._root / key
        if path.parent.parent != self._root:  # a ledger that we did not write
            return True
        return remove_unlocked(path.with_name(f"{path.name}{_PART}")) and remove_unlocked(path)

    def _remaining(self, entered: dict[str, int | None]) -> set[str]:
        """Clear up; return the entered files that are there, or being fetched."""
        found = set()
        for key, crc in entered.items():
            path = self._root / key
            fetched = not remove_unlocked(path.with_name(f"{path.name}{_PART}"))
            if fetched or (path.exists() if crc is not None else not remove_unlocked(path)):
                found.add(key)
        for path in self._folder.iterdir():
            key = f"{self._namespace}/{path.name.removesuffix(_PART)}"
            if key not in found and not path.is_dir():
                remove_unlocked(path)
        return found


async def _wait_for_holder(lock: FileLock) -> None:
    """Wait while another process fetches a file, for as long as that takes.

    The shared lock is granted once that process has become a reader itself, or has died; to wait
    for the exclusive one would be to wait for all readers.
    """
    waiting = lock.twin()

    def wait() -> None:
        try:
            waiting.share()
        finally:
            waiting.unlock()
            waiting.close()

    await in_own_thread(wait, lambda _: None)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _mapped(path: Path, nbytes: int, access: int) -> memoryview:
    """Map a file that is locked already.

    The map keeps its file open. It is opened anew for that, so that the lock is not kept with it;
    and nobody closes the map: it goes with the last view of it, which an error on its way may hold.
    """
    if not nbytes:
        return memoryview(bytearray())
    flags = os.O_RDONLY if access == mmap.ACCESS_READ else os.O_RDWR
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if access == mmap.ACCESS_WRITE:
            return memoryview(FileMap(fd, nbytes))
        return memoryview(mmap.mmap(fd, nbytes, access=access))
    finally:
        os.close(fd)


def _short(name: str) -> str:
    """Return a name that a folder can hold; parts of a chunk are still known by their chunk's."""
    extent = _EXTENT.search(name)
    stem = name if extent is None else name[: extent.start()]
    if len(os.fsencode(stem)) <= _LONGEST:
        return name
    return hashlib.sha256(os.fsencode(stem)).hexdigest() + name[len(stem) :]
