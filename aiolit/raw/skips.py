"""What takes the place of items that cannot be fetched, where the user lets them be skipped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from aiolit.errors import DatasetError, StoreError
from aiolit.runtime.stats import Counters
from aiolit.runtime.tasks import cancelled_first

Fetch = Callable[[int], Coroutine[Any, Any, Any]]

_DRAWS = 16  # items that are tried in the place of a batch of which none can be fetched


@dataclass(frozen=True, slots=True)
class Failed:
    """What a fetch raised, kept until the reader comes to its item."""

    error: Exception


def checked(outcomes: list[Any]) -> list[Any]:
    """Return fetched items.

    Raises:
        Exception: What the fetch of the first failing one of them raised.
    """
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
    return outcomes


class Skips:
    """Replaces items that could not be fetched by others, and counts and reports them.

    The replacement comes from the same batch, else it is the last good item, else another one is
    drawn; so every rank takes as many steps as it would have.

    Args:
        count: How many items there are.
        stats: Where skipped items are counted.
    """

    def __init__(self, count: int, stats: Counters) -> None:
        self._count, self._stats = count, stats
        self._spare: list[Any] = []
        self._warned: set[int] = set()

    async def fill(self, fetch: Fetch, items: Sequence[int], outcomes: list[Any]) -> list[Any]:
        """Return the items of a batch, each failed one replaced.

        Args:
            fetch: Fetches an item.
            items: Their numbers.
            outcomes: The items, or ``Failed``.

        Raises:
            Exception: That of a failed one: it is not about the data, or nothing else can be
                fetched either.
        """
        failed = {
            number: outcome.error
            for number, outcome in zip(items, outcomes, strict=True)
            if isinstance(outcome, Failed)
        }
        for number, error in failed.items():
            if not isinstance(error, DatasetError | StoreError):
                raise error
            if number not in self._warned:
                self._warned.add(number)
                warnings.warn(f"an item is skipped: {error}", stacklevel=2)
        good = [outcome for outcome in outcomes if not isinstance(outcome, Failed)]
        if outcomes and not good:
            good = self._spare or [await self._draw(fetch, items[0], failed)]
        self._spare = good[-1:]
        bad = [place for place, one in enumerate(outcomes) if isinstance(one, Failed)]
        self._stats.skipped += len(bad)
        for turn, place in enumerate(bad):
            outcomes[place] = good[turn % len(good)]
        return outcomes

    async def _draw(self, fetch: Fetch, near: int, failed: dict[int, Exception]) -> Any:
        step = max(1, self._count // _DRAWS)
        for turn in range(min(_DRAWS, self._count)):
            number = (near + 1 + turn * step) % self._count
            if number not in failed:
                try:
                    return await cancelled_first(fetch(number))
                except (DatasetError, StoreError) as error:
                    failed[number] = error
        raise failed[near]
