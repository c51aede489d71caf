"""What a store does on its own, counted where its user looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiolit.errors import StoreError, StoreUnavailableError
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.store.retry import RetryStore


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
