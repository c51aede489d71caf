"""What is asked of a store, and what it does on its own, counted where its user looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from aiolit.errors import StoreError, StoreUnavailableError
from aiolit.runtime.stats import Counters
from aiolit.runtime.tracing import side_span
from aiolit.store.base import Store
from aiolit.store.retry import RetryStore


class Reading:
    """Times a request and traces it: ``with Reading(stats, key, nbytes):``.

    A class, since a generator's context manager costs ten times as much.

    Args:
        stats: Where its seconds are counted, and that it is under way.
        key: The object.
        nbytes: How many of its bytes are asked for.
    """

    __slots__ = ("_began", "_span", "_stats")

    def __init__(self, stats: Counters, key: str, nbytes: int) -> None:
        self._stats = stats
        self._span = side_span("fetch", "read", debug=True, key=key, nbytes=nbytes)

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        self._stats.requests_running += 1
        self._span.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._span.__exit__(kind, error, traceback)
        self._stats.requests_running -= 1
        self._stats.fetch_seconds += time.perf_counter() - self._began


def counted(store: Store, stats: Counters, slow_down: Callable[[], None] | None = None) -> Store:
    """Have a store's retries and hedged requests counted, and return the store.

    Args:
        store: The store.
        stats: Where to count.
        slow_down: Called when the server asks for fewer requests.
    """
    if isinstance(store, RetryStore):
        store.on_retry = partial(_retried, stats, slow_down)
        store.on_hedge = partial(_hedged, stats)
    return store


def _retried(stats: Counters, slow_down: Callable[[], None] | None, error: StoreError) -> None:
    stats.retries += 1
    stats.requests += 1
    if slow_down is not None and isinstance(error, StoreUnavailableError) and error.throttled:
        slow_down()


def _hedged(stats: Counters) -> None:
    stats.hedges += 1
    stats.requests += 1
