"""What a store does on its own, counted where its user looks."""

from __future__ import annotations

from functools import partial

from aiolit.errors import StoreError
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.store.retry import RetryStore


def counted(store: Store, stats: Counters) -> Store:
    """Have a store's retries and hedged requests counted, and return the store."""
    if isinstance(store, RetryStore):
        store.on_retry, store.on_hedge = partial(_retried, stats), partial(_hedged, stats)
    return store


def _retried(stats: Counters, error: StoreError) -> None:
    stats.retries += 1
    stats.requests += 1


def _hedged(stats: Counters) -> None:
    stats.hedges += 1
    stats.requests += 1
