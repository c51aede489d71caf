"""A trace of what happens, in the Trace Event Format that chrome://tracing and Perfetto open.

Events are written as they end, each with one append to one file, so all processes share the file
and it can be opened while it grows and after a crash: both viewers take an array that is not
closed. The format: "Trace Event Format", Google, 2016 (JSON array form, complete events).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError

CATEGORIES = ("fetch", "decode", "collate", "wait", "optimize")
_DEFAULT = "aiolit_trace.json"


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Where a trace goes and what is in it; pickles, so that worker processes join in."""

    path: str
    categories: frozenset[str]


class _Tracer:
    """This process's side of a trace."""

    def __init__(self, config: TraceConfig) -> None:
        self.config = config
        self._pid = os.getpid()
        self._fd = os.open(config.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, event: dict[str, Any]) -> None:
        # One write of one line: appends of several processes do not tear each other.
        os.write(self._fd, json.dumps(event).encode() + b",\n")

    def close(self) -> None:
        os.close(self._fd)


_state: dict[str, _Tracer | None] = {"tracer": None}


def enable_tracer(
    path: str | os.PathLike[str] = _DEFAULT, *, categories: Iterable[str] | None = None
) -> None:
    """Write a trace of everything aiolit does from now on, in this process and its workers.

    Args:
        path: The file; an existing one is replaced. Open it at ui.perfetto.dev or in
            chrome://tracing, also while it grows.
        categories: What to write, of ``fetch``, ``decode``, ``collate``, ``wait`` and
            ``optimize``; by default all.

    Raises:
        ConfigError: There is no such category, or the file cannot be written.
    """
    wanted = frozenset(CATEGORIES if categories is None else categories)
    if unknown := wanted - set(CATEGORIES):
        raise ConfigError(f"there are no trace categories {sorted(unknown)}: {list(CATEGORIES)}")
    place = Path(path).absolute()
    try:
        place.write_text("[\n")
    except OSError as error:
        raise ConfigError(f"the trace {place} cannot be written: {error.strerror}") from error
    join(TraceConfig(str(place), wanted))


def disable_tracer() -> None:
    """Stop tracing in this process; the file stays and can be opened."""
    join(None)


def config() -> TraceConfig | None:
    """Return the running trace's configuration, to hand to a worker process."""
    tracer = _state["tracer"]
    return None if tracer is None else tracer.config


def join(config: TraceConfig | None) -> None:
    """Take part in a trace that another process began; with None, in none."""
    before = _state["tracer"]
    if before is not None:
        _state["tracer"] = None
        before.close()
    _state["tracer"] = None if config is None else _Tracer(config)


def enabled(category: str) -> bool:
    """Whether events of a category are written."""
    tracer = _state["tracer"]
    return tracer is not None and category in tracer.config.categories


@contextmanager
def span(category: str, name: str, **details: Any) -> Iterator[None]:
    """Write how long the block took, if there is a trace."""
    if not enabled(category):
        yield
        return
    began = time.perf_counter_ns()
    try:
        yield
    finally:
        complete(category, name, began, **details)


def complete(category: str, name: str, began_ns: int, **details: Any) -> None:
    """Write an event that began at ``time.perf_counter_ns() == began_ns`` and ends now."""
    tracer = _state["tracer"]
    if tracer is None or category not in tracer.config.categories:
        return
    now = time.perf_counter_ns()
    tracer.write(
        {
            "name": name,
            "cat": category,
            "ph": "X",
            "ts": began_ns / 1000,
            "dur": (now - began_ns) / 1000,
            "pid": os.getpid(),
            "tid": threading.get_native_id(),
            "args": details,
        }
    )
