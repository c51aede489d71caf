"""Files of this machine that are about to be read, brought into memory by the kernel."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

_STEP_BYTES = 16 << 20  # read at once; whoever closes need not wait for more
_LEAST_BYTES = 256 << 10  # the kernel reads about so much ahead by itself


class ReadAhead:
    """Has parts of files read into the page cache, in a thread of its own; on Linux only.

    The kernel reads ahead where a file is read in order. Samples in a random order are waited for
    one after the other, on a disk that could give them all at once. What is in memory already
    costs next to nothing; a file that cannot be read is left to whoever opens it. It is advice:
    nothing waits for it, and no error comes of it.
    """

    def __init__(self) -> None:
        self._wanted: SimpleQueue[tuple[Path, int, int] | None] = SimpleQueue()
        self._closed = Event()
        self._thread: Thread | None = None

    def advise(self, path: Path, start: int, stop: int) -> None:
        """Have the bytes from ``start`` to ``stop`` of a file read, after those before."""
        if sys.platform != "linux" or stop - start < _LEAST_BYTES:
            return
        self._wanted.put((path, start, stop))
        if self._thread is None:
            self._thread = Thread(target=self._run, name="aiolit-read-ahead", daemon=True)
            with suppress(RuntimeError):  # there are too many, or the interpreter is ending
                self._thread.start()

    def close(self) -> None:
        """Have the thread end, after the step that is under way; waits for nothing."""
        self._closed.set()
        self._wanted.put(None)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._closed.is_set():
            self._read(*wanted)

    def _read(self, path: Path, start: int, stop: int) -> None:
        # Pages are passed to /dev/null without a copy. (POSIX_FADV_WILLNEED reads a few megabytes
        # at most, and a loop of small calls would wait for the interpreter's lock.)
        with suppress(OSError), path.open("rb", 0) as file, open(os.devnull, "wb", 0) as nowhere:
            while start < stop and not self._closed.is_set():
                most = min(_STEP_BYTES, stop - start)
                sent = os.sendfile(nowhere.fileno(), file.fileno(), start, most)
                if not sent:
                    return
                start += sent
