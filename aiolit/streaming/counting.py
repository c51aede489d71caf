"""What is asked of a store, and what it does on its own, counted where its user looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from aiolit.errors import StoreError, StoreUnavailableError
from aiolit.runtime.stats import Counters
from aiolit.runtime.tracing import side_span
from aiolit.store.base import Store
from aiolit.store.retry import RetryStore


@contextmanager
def reading(stats: Counters, key: str, nbytes: int) -> Iterator[None]:
    """Time a request, and trace it.

    Args:
        stats: Where its seconds are counted, and that it is under way.
        key: The object.
        nbytes: How many of its bytes are asked for.
    """
    began = time.perf_counter()
    stats.requests_running += 1
    try:
        with side_span("fetch", "read", debug=True, key=key, nbytes=nbytes):
            yield
    finally:
        stats.requests_running -= 1
        stats.fetch_seconds += time.perf_counter() - began


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
