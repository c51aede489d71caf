"""A trace of what happens, in the Trace Event Format that chrome://tracing and Perfetto open.

Events are written as they end, each with one append to one file, so all processes share the file
and it can be opened while it grows and after a crash: both viewers take an array that is not
closed. The format: "Trace Event Format", Google, 2016 (JSON array form, complete events).
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiolit.errors import ConfigError

CATEGORIES = ("fetch", "decode", "collate", "wait", "optimize")
LEVELS = ("info", "debug")
_DEFAULT = "aiolit_trace.json"
_PIDS = 1 << 22  # Linux has no greater pid or thread id
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Where a trace goes and what is in it; pickles, so that worker processes join in."""

    path: str
    categories: frozenset[str]
    debug: bool


class _Tracer:
    """This process's side of a trace."""

    def __init__(self, config: TraceConfig, process: str) -> None:
        self.config, self.pid, self.process = config, os.getpid(), process
        self._fd: int | None = os.open(config.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._lock = threading.RLock()  # a finalizer may trace in the midst of an event
        self._named: set[int] = set()
        self._free: list[int] = []
        self._lanes = 0
        self._name("process_name", 0, process)

    def complete(
        self, category: str, name: str, began_ns: int, lane: int | None, **args: Any
    ) -> None:
        """Write an event that ends now, in the row of this thread, or of a lane."""
        now = time.perf_counter_ns()
        tid = threading.get_native_id() if lane is None else (lane + 1) * _PIDS + self.pid
        if tid not in self._named:
            self._named.add(tid)
            row = threading.current_thread().name if lane is None else f"{category} {lane + 1}"
            self._name("thread_name", tid, row)
        self._write(
            {
                "name": name,
                "cat": category,
                "ph": "X",
                "ts": began_ns / 1000,
                "dur": (now - began_ns) / 1000,
                "pid": self.pid,
                "tid": tid,
                "args": args,
            }
        )

    def take_lane(self) -> int:
        """Return the lowest row that no event of this process is in: events in one row must not
        overlap, and on an event loop they do."""
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            self._lanes += 1
            return self._lanes - 1

    def give_lane(self, lane: int) -> None:
        """Give a row back."""
        with self._lock:
            heapq.heappush(self._free, lane)

    def close(self) -> None:
        """Write no more."""
        # A forked child is alone, and the lock may have been another thread's at the fork.
        with self._lock if self.pid == os.getpid() else nullcontext():
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)

    def _name(self, what: str, tid: int, name: str) -> None:
        self._write({"name": what, "ph": "M", "pid": self.pid, "tid": tid, "args": {"name": name}})

    def _write(self, event: dict[str, Any]) -> None:
        # One write of one line: appends of several processes do not tear each other.
        line = json.dumps(event, default=str).encode() + b",\n"
        with self._lock:
            if self._fd is None:
                return
            try:
                os.write(self._fd, line)
            except OSError as error:  # a full disk: the training goes on without a trace
                _log.warning("the trace %s ends here: %s", self.config.path, error)
                self.close()


_state: dict[str, _Tracer | None] = {"tracer": None}
_NO_SPAN = nullcontext()  # the usual case, once a request: it may cost nothing


def enable_tracer(
    path: str | os.PathLike[str] = _DEFAULT,
    *,
    level: Literal["info", "debug"] = "info",
    categories: Iterable[str] | None = None,
) -> None:
    """Write a trace of everything aiolit does from now on, in this process and its workers.

    Args:
        path: The file; an existing one is replaced. Open it at ui.perfetto.dev or in
            chrome://tracing, also while it grows.
        level: ``"info"`` writes batches and chunks, ``"debug"`` each request of a store too.
        categories: What to write, of ``fetch``, ``decode``, ``collate``, ``wait`` and
            ``optimize``; by default all.

    Raises:
        ConfigError: There is no such level or category, or the file cannot be written.
    """
    wanted = frozenset(CATEGORIES if categories is None else categories)
    if unknown := wanted - set(CATEGORIES):
        raise ConfigError(f"there are no trace categories {sorted(unknown)}: {list(CATEGORIES)}")
    if level not in LEVELS:
        raise ConfigError(f"there is no trace level {level!r}: {list(LEVELS)}")
    place = Path(path).absolute()
    try:
        place.write_text("[\n")
    except OSError as error:
        raise ConfigError(f"the trace {place} cannot be written: {error.strerror}") from error
    join(TraceConfig(str(place), wanted, level == "debug"))


def disable_tracer() -> None:
    """Stop tracing in this process; the file stays and can be opened."""
    join(None)


def config() -> TraceConfig | None:
    """Return the running trace's configuration, to hand to a worker process."""
    tracer = _state["tracer"]
    return None if tracer is None else tracer.config


def join(config: TraceConfig | None, process: str = "main process") -> None:
    """Take part in a trace that another process began; with None, in none.

    Args:
        config: The trace.
        process: What this process is called in it.
    """
    before = _state["tracer"]
    _state["tracer"] = None
    if before is not None:
        before.close()
    _state["tracer"] = None if config is None else _Tracer(config, process)


def _tracer(category: str, *, debug: bool = False) -> _Tracer | None:
    """Return what writes events of a category, if they are written."""
    tracer = _state["tracer"]
    if tracer is None or category not in tracer.config.categories:
        return None
    if debug and not tracer.config.debug:
        return None
    if tracer.pid != os.getpid():
        join(tracer.config, "forked process")
        return _state["tracer"]
    return tracer


def span(category: str, name: str, **details: Any) -> AbstractContextManager[None]:
    """Write how long the block took, if there is a trace; no other code runs in this thread
    meanwhile."""
    return _NO_SPAN if _tracer(category) is None else _span(category, name, details)


def side_span(
    category: str, name: str, *, debug: bool = False, **details: Any
) -> AbstractContextManager[None]:
    """Write how long a block took beside which others run, as tasks of an event loop do.

    Args:
        category: The event's category.
        name: Its name.
        debug: Write it at the level ``debug`` only.
        details: What is shown with it.
    """
    tracer = _tracer(category, debug=debug)
    return _NO_SPAN if tracer is None else _side_span(tracer, category, name, details)


@contextmanager
def _span(category: str, name: str, details: Mapping[str, Any]) -> Iterator[None]:
    began = time.perf_counter_ns()
    try:
        yield
    finally:
        complete(category, name, began, **details)


@contextmanager
def _side_span(
    tracer: _Tracer, category: str, name: str, details: Mapping[str, Any]
) -> Iterator[None]:
    began, lane = time.perf_counter_ns(), tracer.take_lane()
    try:
        yield
    finally:
        tracer.give_lane(lane)
        if tracer.pid == os.getpid():
            tracer.complete(category, name, began, lane, **details)


def complete(category: str, name: str, began_ns: int, **details: Any) -> None:
    """Write an event that began at ``time.perf_counter_ns() == began_ns`` and ends now."""
    tracer = _tracer(category)
    if tracer is not None:
        tracer.complete(category, name, began_ns, None, **details)
