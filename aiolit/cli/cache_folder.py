"""``aiolit cache``: the chunk cache of this host."""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.cache.ledger import Ledger
from aiolit.cache.locks import FileLock, remove_unlocked
from aiolit.cli.console import Console, columns
from aiolit.errors import CacheError, ConfigError
from aiolit.format.checksum import crc32
from aiolit.streaming.resolver import default_cache_dir, resolve
from aiolit.units import format_size

_NAMESPACE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{12}")
_PART = ".part"


@dataclass(frozen=True, slots=True)
class Cached:
    """A file that the ledger of a cache folder names.

    Attributes:
        key: ``NAMESPACE/NAME``.
        nbytes: Its bytes on disk.
    """

    key: str
    nbytes: int

    @property
    def namespace(self) -> str:
        """Name the data set's folder."""
        return self.key.split("/")[0]


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    root = default_cache_dir() if args.cache_dir is None else Path(args.cache_dir).expanduser()
    root = root.absolute()
    if args.action == "path":
        console.result({"path": str(root)}, [str(root)])
        return 0
    ledger = Ledger(root)
    try:
        wanted = "" if args.url is None else _prefix(args.url)
        files = list(_files(ledger, root, wanted))
        if args.action == "ls":
            return _list(root, files, console)
        if args.action == "clear":
            return _clear(ledger, root, files, _namespaces(root, wanted), console)
        return _verify(ledger, root, files, console)
    finally:
        ledger.close()


def _prefix(url: str) -> str:
    """Return how the names of a data set's folders begin, whatever its version."""
    return hashlib.sha256(resolve(url).url.encode()).hexdigest()[:16]


def _namespaces(root: Path, wanted: str) -> list[str]:
    names = sorted(path.name for path in root.glob(f"{wanted}*-*") if path.is_dir())
    return [name for name in names if _NAMESPACE.fullmatch(name)]


def _files(ledger: Ledger, root: Path, wanted: str) -> Iterator[Cached]:
    """List the entered files; the folder is not made where there is none."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{root} is no cache folder: {error.strerror}") from error
    if not any(name.startswith("ledger.") for name in names):
        return
    for key, nbytes in sorted(ledger.paths().items()):
        folder, _, name = key.partition("/")
        # Another program's ledger may say anything; nothing outside the folder is touched.
        if not _NAMESPACE.fullmatch(folder) or not name or "/" in name or name in (".", ".."):
            continue
        if folder.startswith(wanted):
            yield Cached(key, nbytes)


def _list(root: Path, files: list[Cached], console: Console) -> int:
    sets: dict[str, dict[str, Any]] = {}
    for file in files:
        found = sets.setdefault(
            file.namespace, {"data_set": file.namespace, "files": 0, "bytes": 0, "used": 0.0}
        )
        found["files"] += 1
        found["bytes"] += file.nbytes
        found["used"] = max(found["used"], _used(root / file.key))
    rows = [("data set", "files", "size", "fetched last")]
    for one in sets.values():
        when = datetime.fromtimestamp(one["used"]).isoformat(" ", "minutes") if one["used"] else "-"
        rows.append((one["data_set"], f"{one['files']:,}", format_size(one["bytes"]), when))
    total = sum(file.nbytes for file in files)
    lines = [f"{root}: {len(files):,} files, {format_size(total)}"]
    console.result(
        {"path": str(root), "files": len(files), "bytes": total, "data_sets": list(sets.values())},
        lines + (columns(rows, indent="  ") if sets else []),
    )
    return 0


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # being fetched, or evicted just now
        return 0.0


def _clear(
    ledger: Ledger, root: Path, files: list[Cached], namespaces: list[str], console: Console
) -> int:
    removed = nbytes = 0
    for file in files:
        if ledger.remove(file.key, lambda key: _remove(root / key)):
            removed += 1
            nbytes += file.nbytes
    for namespace in namespaces:
        # What killed processes left; it is in no ledger.
        cache = ChunkCache(CacheConfig(root, None), namespace)
        cache.reclaim()
        cache.close()
    kept = len(files) - removed
    line = f"{removed:,} files removed, {format_size(nbytes)}"
    console.result(
        {"path": str(root), "removed": removed, "bytes": nbytes, "in_use": kept},
        [line + (f"; {kept:,} are in use and stay" if kept else "")],
    )
    return 0


def _remove(path: Path) -> bool:
    """Remove a file unless somebody fetches or reads it; say whether it is gone."""
    return remove_unlocked(path.with_name(f"{path.name}{_PART}")) and remove_unlocked(path)


def _verify(ledger: Ledger, root: Path, files: list[Cached], console: Console) -> int:
    damaged: list[str] = []
    checked = 0
    for file in files:
        found = _is_whole(ledger, root, file.key)
        checked += found is not None
        if found is False:
            damaged.append(file.key)
            ledger.remove(file.key, lambda key: _remove(root / key))
    console.result(
        {"path": str(root), "checked": checked, "damaged": damaged},
        [
            f"{root}: {checked:,} files checked",
            *(f"  damaged, and removed unless in use: {key}" for key in damaged),
            f"damaged: {len(damaged):,} files" if damaged else "nothing is damaged",
        ],
    )
    return 1 if damaged else 0


def _is_whole(ledger: Ledger, root: Path, key: str) -> bool | None:
    """Whether a file has the CRC-32 that was noted for it; None where it is not there (any more).

    It is locked meanwhile as any reader would, so that nobody evicts it.
    """
    path = root / key
    lock = FileLock.of_existing(path)
    if lock is None:
        return None
    try:
        lock.share()
        known = ledger.crc(key)
        if known is None or not lock.is_at(path):
            return None
        size = os.fstat(lock.fd).st_size
        if not size:
            return crc32(b"") == known
        with mmap.mmap(lock.fd, size, access=mmap.ACCESS_READ) as data:
            return crc32(data) == known
    except OSError as error:
        raise CacheError(f"the cached file {path} cannot be read: {error.strerror}") from error
    finally:
        lock.close()
