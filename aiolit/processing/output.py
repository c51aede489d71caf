"""The first look at an output: can it be written, and what did killed processes leave there."""

from __future__ import annotations

import os
from pathlib import Path

from aiolit.errors import ConfigError
from aiolit.processing.journal import FOLDER
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["look_at_output"]


async def look_at_output(store: Store) -> None:
    """Remove the unfinished files of killed processes; nothing is written.

    Raises:
        ConfigError: It is a local folder that cannot be written.
    """
    if isinstance(store, LocalStore):
        await run_in_thread(_check_folder, store.path)
        await run_in_thread(store.remove_abandoned, "", FOLDER)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is none, or lies where none can be made."""
    try:
        place = next(each for each in (folder, *folder.parents) if _exists(each))
    except OSError as error:
        raise ConfigError(f"output_dir {folder} cannot be used: {error.strerror}") from error
    if not place.is_dir():
        raise ConfigError(f"output_dir {folder} cannot be a folder: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir {folder} cannot be written: no permission for {place}")


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
