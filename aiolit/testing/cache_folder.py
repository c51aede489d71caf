"""What a cache folder takes on disk, seen at one instant."""

from __future__ import annotations

from pathlib import Path

from aiolit.cache.ledger import Ledger

__all__ = ["cache_disk_usage"]


def cache_disk_usage(root: str | Path) -> int:
    """Return the bytes of disk that a cache folder takes, as ``du`` counts them.

    Looking at one file after the other is not enough while other processes use the folder: a file
    that was counted can be evicted, and the one that takes its place be counted too. So this looks
    while no process can evict, add or rename one.

    Args:
        root: The folder (``cache_dir``). It is made if it is not there.

    Raises:
        CacheError: The folder cannot be used as a cache.
    """
    root = Path(root)
    total = 0

    def look(entered: dict[str, int | None]) -> set[str]:
        nonlocal total
        total = sum(path.lstat().st_blocks * 512 for path in [root, *root.rglob("*")])
        return set(entered)

    ledger = Ledger(root)
    try:
        ledger.sweep(look)
    finally:
        ledger.close()
    return total
