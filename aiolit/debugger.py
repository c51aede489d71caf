"""Looking into a running program: the documented place of tracing, and a debugger for workers."""

from __future__ import annotations

import pdb
import sys
from types import FrameType

from aiolit.runtime.tracing import disable_tracer, enable_tracer

__all__ = ["breakpoint", "disable_tracer", "enable_tracer"]


class _WorkerPdb(pdb.Pdb):
    """A debugger that talks to the terminal: a worker process has no standard input of its own."""

    def interaction(self, frame: FrameType | None, traceback: object) -> None:
        standard = sys.stdin
        with open("/dev/stdin") as terminal:
            sys.stdin = terminal
            try:
                super().interaction(frame, traceback)  # type: ignore[arg-type]
            finally:
                sys.stdin = standard


def breakpoint() -> None:
    """Stop here in the Python debugger, also in a worker process of a loader or of ``optimize``."""
    _WorkerPdb().set_trace(sys._getframe().f_back)
