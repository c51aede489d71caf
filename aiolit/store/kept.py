"""Small files that this host keeps: written whole, and read only where they are plain files."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path


def write_kept(path: Path, data: bytes) -> None:
    """Write a file; readers see the old one or the new one, never a part.

    Raises:
        OSError: The folder cannot be written.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def read_kept(path: Path) -> bytes:
    """Read a file that was kept; whoever shares its folder may have put a link or device there.

    Raises:
        OSError: It is not there, or no plain file.
    """
    refuse_link(path.parent)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no file", str(path))
        return file.read()


def refuse_link(folder: Path) -> None:
    """Refuse a folder of ours in whose place there is a link.

    Raises:
        OSError: There is.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a link", str(folder))
