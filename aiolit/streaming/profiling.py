"""A trace of a loader's first batches, written as ``result.json``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError
from aiolit.runtime import tracing


class BatchProfile:
    """Traces some batches of one iteration and writes them as a Chrome trace.

    Args:
        batches: How many batches to trace.
        skip: How many to leave out before.
        folder: Where ``result.json`` goes.
    """

    def __init__(self, batches: int, skip: int, folder: str | Path | None) -> None:
        self._batches, self._skip = batches, skip
        self._path = Path(folder or ".").absolute() / "result.json"
        self._growing = self._path.with_name("result.json.part")
        self._began_ns = time.perf_counter_ns()
        self.running = False

    def start(self) -> None:
        """Begin to trace, in this process and in the workers that start from now on."""
        tracing.enable_tracer(self._growing)
        self._began_ns = time.perf_counter_ns()
        self.running = True

    def batch(self, number: int) -> None:
        """Note that batch ``number`` (from 1) was handed out."""
        if not self.running:
            return
        if number == self._skip:
            self._began_ns = time.perf_counter_ns()
        if number == self._skip + self._batches:
            self.finish()

    def finish(self) -> None:
        """Write ``result.json`` and stop tracing; harmless when done."""
        if not self.running:
            return
        self.running = False
        tracing.complete("wait", "profiled batches", self._began_ns)
        tracing.disable_tracer()
        events = [
            event
            for event in read_trace(self._growing)
            if event["ph"] == "M" or event["ts"] + event["dur"] >= self._began_ns / 1000
        ]
        self._path.write_text(json.dumps({"traceEvents": events}))
        self._growing.unlink()


def read_trace(path: str | Path) -> list[dict[str, Any]]:
    """Return the events of a trace, also of one that is still growing."""
    lines = Path(path).read_text().splitlines()
    return [json.loads(line[:-1]) for line in lines if line.endswith("},")]


def checked_profile(
    batches: int | bool, skip: int, folder: str | Path | None
) -> tuple[int, int, str | Path | None] | None:
    """Check the loader's profiling arguments; None is no profile.

    Raises:
        ConfigError: One is no whole number.
    """
    if not batches:
        return None
    for name, value in (("profile_batches", batches), ("profile_skip_batches", skip)):
        if not _is_count(value):
            raise ConfigError(f"{name} must be a whole number, not {value!r}")
    return batches, skip, folder


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
