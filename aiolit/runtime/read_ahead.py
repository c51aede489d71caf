"""Files of this machine that are about to be read, brought into memory by the kernel."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


class ReadAhead:
    """Has parts of files read into the page cache, in a thread of its own; on Linux only.

    The kernel reads ahead where a file is read in order. Samples in a random order are waited for
    one after the other, on a disk that could give them all at once. What is in memory already
    costs next to nothing; a file that cannot be read is left to whoever opens it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "aiolit-read-ahead")

    def advise(self, path: Path, start: int, stop: int) -> None:
        """Have the bytes from ``start`` to ``stop`` of a file read, after those before."""
        if sys.platform == "linux":
            self._thread.submit(_read, path, start, stop)

    def close(self) -> None:
        """Forget what is not under way; waits for nothing."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _read(path: Path, start: int, stop: int) -> None:
    # Pages are passed to /dev/null without a copy, in one system call. (POSIX_FADV_WILLNEED reads a
    # few megabytes at most, and a loop of small calls would wait for the interpreter's lock.)
    with suppress(OSError), path.open("rb", 0) as file, open(os.devnull, "wb", 0) as nowhere:
        while start < stop:
            sent = os.sendfile(nowhere.fileno(), file.fileno(), start, stop - start)
            if not sent:
                return
            start += sent
