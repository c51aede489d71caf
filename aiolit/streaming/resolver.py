"""Where a data set lies, and where its chunks are cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from aiolit.errors import ConfigError
from aiolit.store.connect import is_remote
from aiolit.store.connections import expand
from aiolit.units import parse_size


@dataclass(frozen=True, slots=True)
class Dir:
    """A data set's place given in two parts.

    Attributes:
        path: The folder in which chunks are cached; without ``url``, the data set itself.
        url: Where the data set lies.
        data_connection_id: Taken for compatibility; connections need no id here.
    """

    path: str | Path | None = None
    url: str | Path | None = None
    data_connection_id: str | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """A resolved place.

    Attributes:
        url: What a store is opened with: a URL, or an absolute path.
        direct: Whether chunks are read where they lie (a local folder) and not through the cache.
        cache_dir: The cache folder the user named, or None.
        pattern: A ``*.parquet`` pattern that was the last part of the path, or None.
        trusted: Whether pickled leaves may be loaded: only data from this host's own disks.
    """

    url: str
    direct: bool
    cache_dir: Path | None
    pattern: str | None
    trusted: bool


def resolve(input_dir: str | Path | Dir, cache_dir: str | Path | Dir | None = None) -> Location:
    """Work out where a data set lies.

    ``{%Y-%m-%d}`` in a path becomes today's date; ``local:/mnt/drive/set`` is a folder on a slow
    disk whose chunks are cached; ``/teamspace/...`` may be a bucket (see ``bucket_url``).

    Raises:
        ConfigError: The path is of a wrong type, empty, or has a scheme that no store knows.
    """
    cache = cache_dir.path if isinstance(cache_dir, Dir) else cache_dir
    place: object = input_dir
    if isinstance(input_dir, Dir):
        place = input_dir.path if input_dir.url is None else input_dir.url
        if input_dir.url is not None and input_dir.path is not None:
            cache = cache if cache is not None else input_dir.path
    if not isinstance(place, str | os.PathLike) or not str(place):
        raise ConfigError(f"input_dir must be a path, a URL or a Dir, not {input_dir!r}")
    text = expand(str(place))
    pattern = None
    if text.endswith(".parquet") and "*" in text.rsplit("/", 1)[-1]:
        text, pattern = text.rsplit("/", 1)
    folder = None if cache is None else _cache_folder(cache)
    text = text.removeprefix("file://")
    if text.startswith("local:"):
        path = str(Path(text.removeprefix("local:")).expanduser().absolute())
        return Location(path, False, folder, pattern, True)
    if is_remote(text):
        return Location(text.rstrip("/"), False, folder, pattern, False)
    path = str(Path(text).expanduser().absolute())
    direct = not (isinstance(input_dir, Dir) and input_dir.url is not None and folder is not None)
    return Location(path, direct, folder, pattern, True)


def _cache_folder(cache: object) -> Path:
    if not isinstance(cache, str | os.PathLike) or not str(cache):
        raise ConfigError(f"cache_dir must be a folder, not {cache!r}")
    return Path(cache).expanduser().absolute()


def default_cache_dir() -> Path:
    """Return the folder in which chunks are cached where the user names none."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as containers have them
        base = Path(tempfile.gettempdir()) / f"cache-of-{os.getuid()}"
    return base / "aiolit" / "chunks"


def cache_limit(max_cache_size: int | float | str | None, folder: Path) -> int | None:
    """Turn ``max_cache_size`` into bytes.

    Args:
        max_cache_size: Bytes, a size such as ``"10GB"`` or ``"10GiB"``, a fraction of the disk
            (``0.5`` or ``"0.5"``), None for three quarters of what is free on the disk, or 0 for
            no limit.
        folder: The cache folder, or one that would be made below an existing one.

    Raises:
        ConfigError: It is none of these.
    """
    value = max_cache_size
    if isinstance(value, str) and re.fullmatch(r"\s*\d*\.\d+\s*", value):
        value = float(value)
    if value is None or isinstance(value, float):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        disk = shutil.disk_usage(there)
        if value is None:
            return disk.free * 3 // 4
        if not 0 < value <= 1:
            raise ConfigError(
                f"max_cache_size={value} is no fraction of the disk; give one above 0 and up to 1, "
                "or a size such as '10GB'"
            )
        return int(disk.total * value)
    try:
        return parse_size(value, name="max_cache_size") or None
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def namespace(url: str, index: bytes) -> str:
    """Name a data set's folder in the cache: a new version of the data set has a new folder."""
    place = hashlib.sha256(url.encode()).hexdigest()[:16]
    return f"{place}-{hashlib.sha256(index).hexdigest()[:12]}"
