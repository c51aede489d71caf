"""How the memory of worker processes is kept."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory(nbytes: int) -> None:
    """Have glibc keep so many freed bytes for what comes next; of no effect elsewhere.

    By default it gives back what is larger than 128 KiB, or at the end of its heap, and gets it
    again for the next sample: a page fault for each 4 KiB. For processes that are ours alone.

    Args:
        nbytes: At most 32 MiB.
    """
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, nbytes)
        mallopt(_M_TRIM_THRESHOLD, nbytes)
