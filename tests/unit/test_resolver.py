"""Where a data set lies, and how much of it may be cached."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aiolit.errors import ConfigError
from aiolit.streaming.resolver import (
    Dir,
    Location,
    cache_limit,
    default_cache_dir,
    namespace,
    resolve,
)

HERE = Path.cwd()


@pytest.mark.parametrize(
    ("place", "cache", "expected"),
    [
        ("/data/set", None, Location("/data/set", True, None, None, True)),
        ("data/set", None, Location(f"{HERE}/data/set", True, None, None, True)),
        (Path("/data/set"), "/fast", Location("/data/set", True, Path("/fast"), None, True)),
        ("s3://b/p/", None, Location("s3://b/p", False, None, None, False)),
        ("s3://b/p", "/fast", Location("s3://b/p", False, Path("/fast"), None, False)),
        ("local:/mnt/slow", "/fast", Location("/mnt/slow", False, Path("/fast"), None, True)),
        (Dir("/fast", "s3://b/p"), None, Location("s3://b/p", False, Path("/fast"), None, False)),
        (Dir("/data/set"), None, Location("/data/set", True, None, None, True)),
        (Dir(url="s3://b/p"), None, Location("s3://b/p", False, None, None, False)),
        (
            Dir("/fast", "s3://b/p"),
            Dir("/faster"),
            Location("s3://b/p", False, Path("/faster"), None, False),
        ),
        ("/data/*.parquet", None, Location("/data", True, None, "*.parquet", True)),
        (
            "s3://b/p/x-*.parquet",
            None,
            Location("s3://b/p", False, None, "x-*.parquet", False),
        ),
    ],
)
def test_places(place: Any, cache: Any, expected: Location) -> None:
    assert resolve(place, cache) == expected


def test_dates_and_the_home_folder() -> None:
    today = datetime.now().strftime("%Y/%m-%d")
    assert resolve("s3://b/{%Y/%m-%d}/x").url == f"s3://b/{today}/x"
    assert resolve("~/set").url == f"{Path.home()}/set"
    assert resolve("s3://b", "~/cache").cache_dir == Path.home() / "cache"


@pytest.mark.parametrize("place", ["", None, 3, Dir(), b"x"])
def test_what_is_no_place(place: Any) -> None:
    with pytest.raises(ConfigError, match="input_dir must be a path, a URL or a Dir"):
        resolve(place)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1000, 1000),
        ("10GB", 10 * 10**9),
        ("1GiB", 1 << 30),
        (0, None),
        ("0", None),
    ],
)
def test_limits(tmp_path: Path, size: Any, expected: int | None) -> None:
    assert cache_limit(size, tmp_path) == expected


def test_limits_by_the_disk(tmp_path: Path) -> None:
    """Also for a folder that is not there yet."""
    disk, folder = shutil.disk_usage(tmp_path), tmp_path / "a" / "b"
    assert cache_limit(0.5, folder) == disk.total // 2
    assert cache_limit(" .25 ", folder) == disk.total // 4
    free = cache_limit(None, folder)
    assert free is not None
    assert 0 < free < disk.total


@pytest.mark.parametrize("size", [1.5, -0.1, "ten", "1.5", -5, [1]])
def test_what_is_no_limit(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ConfigError, match="max_cache_size"):
        cache_limit(size, tmp_path)


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "aiolit" / "chunks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "aiolit" / "chunks"


def test_a_version_has_a_folder_of_its_own() -> None:
    names = {namespace("s3://b/p", b"1"), namespace("s3://b/p", b"2"), namespace("s3://b/q", b"1")}
    assert len(names) == 3
    assert namespace("s3://b/p", b"1") in names
    assert all(set(name) <= set("0123456789abcdef-") for name in names)
