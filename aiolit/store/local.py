"""Objects are the files of a folder."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from aiolit.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RangeError,
    StoreError,
)
from aiolit.store.base import Buffer, ByteStream, Data, ObjectInfo, Store, buffers, check_range
from aiolit.store.owned import hold, remove_if_abandoned
from aiolit.store.threads import open_in_thread, run_in_thread
from aiolit.store.upload import Upload

_PIECE_NBYTES = 1 << 20
_COPY_NBYTES = 16 << 20
_UNFINISHED = ".aiolit-unfinished"
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

# A store has a method `list`, which hides the type's name within the class.
_Entries = list[tuple[str, ObjectInfo | None]]


class LocalStore(Store):
    """The files of a folder; an object appears whole, by a rename.

    Blocking calls run in the loop's threads. A key cannot leave the folder: ``..``, an absolute
    path or a NUL in it is an error. The folder need not exist until the first write.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.url = str(self.path)

    def file_path(self, key: str) -> Path:
        """Return where the object lies.

        Raises:
            ConfigError: The key would leave the folder, or is reserved.
        """
        parts = key.split("/")
        if not key or "\0" in key or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(
                f"{key!r} cannot be a key of {self.url}: keys are relative, and without empty "
                "parts, '.', '..' or NUL"
            )
        if key.endswith(_UNFINISHED):
            raise ConfigError(f"{key!r} cannot be a key: {_UNFINISHED} marks unfinished files")
        return self.path.joinpath(*parts)

    async def head(self, key: str) -> ObjectInfo:
        path = self.file_path(key)
        with self._mapped(key):
            return _info(key, await run_in_thread(_stat_file, path))

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> str | None:
        check_range(self, key, start, start + len(out))
        path = self.file_path(key)
        with self._mapped(key):
            version = await run_in_thread(self._read, path, key, start, out, etag)
        if on_etag is not None:
            on_etag(version)
        if on_progress is not None and len(out):
            on_progress(len(out))
        return version

    def _read(self, path: Path, key: str, start: int, out: memoryview, etag: str | None) -> str:
        with _opened(path) as fd:
            size = self._check_version(fd, key, etag)
            end = start + len(out)
            if end > size:
                url = self.object_url(key)
                raise RangeError(f"{url} has {size} bytes: no {start} to {end}", url=url)
            done = 0
            while done < len(out) and (count := os.preadv(fd, [out[done:]], start + done)):
                done += count
            # Files are replaced by renames; one that is rewritten in place is caught here.
            version = _etag(os.fstat(fd))
            if done < len(out):
                raise self._changed(key)
            self._check_version(fd, key, version if etag is None else etag)
            return version

    def _check_version(self, fd: int, key: str, etag: str | None) -> int:
        status = os.fstat(fd)
        if etag is not None and _etag(status) != etag:
            raise self._changed(key)
        return status.st_size

    def _changed(self, key: str) -> ObjectChangedError:
        url = self.object_url(key)
        return ObjectChangedError(f"{url} was replaced while it was read", url=url)

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        path = self.file_path(key)
        with self._mapped(key):
            fd = await open_in_thread(lambda: _open_file(path), os.close)
        try:
            self._check_version(fd, key, etag)
            yield _FileStream(fd, start)
        finally:
            os.close(fd)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        head, _, _ = prefix.rpartition("/")
        if ".." in head.split("/") or prefix.startswith("/") or "\0" in prefix:
            raise ConfigError(f"{prefix!r} cannot be a prefix in {self.url}")
        # A stack of sorted folders, the next entry of the deepest one last.
        stack = [await run_in_thread(self._entries, head, prefix, after)]
        while stack:
            if not stack[-1]:
                stack.pop()
                continue
            key, info = stack[-1].pop()
            if info is None:
                stack.append(await run_in_thread(self._entries, key, prefix, after))
            else:
                yield info

    def _entries(self, folder: str, prefix: str, after: str) -> _Entries:
        """Return a folder's entries in descending order; folders have no info.

        A folder sorts as ``name/``: so the keys of the whole tree come out in order.
        """
        found: _Entries = []
        with self._mapped(folder):
            try:
                scan = os.scandir(self.path / folder)
            except (FileNotFoundError, NotADirectoryError):
                return []
            with scan:
                for entry in scan:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        below = f"{key}/"
                        if entry.is_symlink() and _leads_up(entry):
                            continue
                        if _may_hold(below, prefix) and (below > after or after.startswith(below)):
                            found.append((key, None))
                    elif key.startswith(prefix) and key > after and not key.endswith(_UNFINISHED):
                        try:
                            found.append((key, _info(key, entry.stat())))
                        except FileNotFoundError:
                            continue  # deleted since, or a link to nowhere
        found.sort(key=lambda entry: entry[0] if entry[1] else f"{entry[0]}/", reverse=True)
        return found

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        path = self.file_path(key)
        with self._mapped(key):
            await run_in_thread(_write_file, path, buffers(data), if_absent)

    async def put_file(self, key: str, path: str | Path) -> None:
        """Copy the file into the folder; it shows when it is whole."""
        source = await open_in_thread(lambda: _open_file(Path(path)), os.close)
        try:
            async with self._writing(key) as upload:
                while await upload.append_from(source):
                    pass
        finally:
            os.close(source)

    async def put_stream(self, key: str, chunks: AsyncIterator[Buffer]) -> None:
        """Write what the iterator yields to a file that shows when it is whole."""
        async with self._writing(key) as upload:
            async for chunk in chunks:
                await upload.append(memoryview(chunk).cast("B"))

    @asynccontextmanager
    async def _writing(self, key: str) -> AsyncIterator[_LocalUpload]:
        upload = await self.open_upload(key)
        try:
            yield upload
            await upload.complete()
        except BaseException:
            await upload.abort()
            raise

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> _LocalUpload:
        path = self.file_path(key)
        with self._mapped(key):
            fd, unfinished = await open_in_thread(lambda: _begin_file(path), _forget_file)
        return _LocalUpload(fd, unfinished, path, lambda: self._mapped(key))

    async def copy(self, src: str, dst: str) -> None:
        source = self.file_path(src)
        with self._mapped(src):
            await run_in_thread(_stat_file, source)
        await self.put_file(dst, source)

    async def delete(self, key: str) -> None:
        path = self.file_path(key)
        with self._mapped(key):
            await run_in_thread(path.unlink, missing_ok=True)

    def remove_abandoned(self, *folders: str) -> int:
        """Remove the unfinished files of killed processes; blocks.

        Args:
            folders: The folders to look into, relative to this one; ``""`` is this one.

        Returns:
            How many there were.
        """
        found = [path for each in folders for path in (self.path / each).glob(f".*{_UNFINISHED}")]
        return sum(remove_if_abandoned(path) for path in found)

    @contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        """Turn the system's errors into the store's."""
        url = self.object_url(key)
        try:
            yield
        except StoreError:
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectNotFoundError(f"there is no file {url}", url=url) from error
        except FileExistsError as error:
            raise ObjectExistsError(f"{url} is there already", url=url) from error
        except PermissionError as error:
            raise AccessDeniedError(
                f"no permission for {url}: {error.strerror}; check its owner and mode", url=url
            ) from error
        except OSError as error:
            raise StoreError(f"{url}: {error.strerror or error}", url=url) from error


class _FileStream(ByteStream):
    def __init__(self, fd: int, start: int) -> None:
        status = os.fstat(fd)
        self.etag, self.size = _etag(status), status.st_size
        self._fd, self._at = fd, start

    async def __anext__(self) -> bytes:
        piece = await run_in_thread(os.pread, self._fd, _PIECE_NBYTES, self._at)
        if not piece:
            raise StopAsyncIteration
        self._at += len(piece)
        return piece


class _LocalUpload(Upload):
    """Parts are written to their places in an unfinished file beside the object."""

    def __init__(
        self,
        fd: int,
        unfinished: Path,
        path: Path,
        mapped: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._fd, self._unfinished, self._path, self._mapped = fd, unfinished, path, mapped
        self._nbytes = 0

    async def append(self, data: memoryview) -> None:
        with self._mapped():
            await run_in_thread(_pwrite, self._fd, data, self._nbytes)
        self._nbytes += len(data)

    async def append_from(self, source: int) -> int:
        """Copy a piece of another file, from where it stands; return how much, 0 at its end."""
        with self._mapped():
            return await run_in_thread(_sendfile, self._fd, source, _COPY_NBYTES)

    async def put_part(self, number: int, data: memoryview) -> None:
        with self._mapped():
            await run_in_thread(_pwrite, self._fd, data, number * self.part_nbytes)

    async def complete(self) -> None:
        with self._mapped():
            await run_in_thread(os.replace, self._unfinished, self._path)
        self._close()

    async def abort(self) -> None:
        with self._mapped():
            await run_in_thread(self._unfinished.unlink, missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _may_hold(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _leads_up(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder that it lies in: following it would never end."""
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return f"{here}/".startswith(f"{target.rstrip('/')}/")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)


def _stat_file(path: Path) -> os.stat_result:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(str(path))
    return status


def _open_file(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(str(path))
    return fd


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = _open_file(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _begin_file(path: Path) -> tuple[int, Path]:
    """Create an unfinished file beside ``path``, in its folder, so that a rename is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(str(path))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        # Not derived from the name, which may already be as long as the file system allows.
        unfinished = path.parent / f".{secrets.token_hex(8)}{_UNFINISHED}"
        fd = os.open(unfinished, flags, 0o666)
        if hold(fd):
            return fd, unfinished
        os.close(fd)


def _forget_file(begun: tuple[int, Path]) -> None:
    """Remove an unfinished file that nobody will finish."""
    fd, unfinished = begun
    os.close(fd)
    unfinished.unlink(missing_ok=True)


def _write_file(path: Path, parts: list[memoryview], if_absent: bool) -> None:
    fd, unfinished = _begin_file(path)
    try:
        offset = 0
        for part in parts:
            _pwrite(fd, part, offset)
            offset += len(part)
        if if_absent:
            _link_file(unfinished, path)
            unfinished.unlink(missing_ok=True)
        else:
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)  # and with it the lock, once the file has its name


def _link_file(unfinished: Path, path: Path) -> None:
    """Give the file its name unless the name is taken."""
    try:
        os.link(unfinished, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Take the name first; for a moment the object shows as empty.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.replace(unfinished, path)


def _sendfile(target: int, source: int, nbytes: int) -> int:
    return os.sendfile(target, source, None, nbytes)


def _pwrite(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
