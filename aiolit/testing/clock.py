"""Time that passes only when something sleeps."""

from __future__ import annotations

import asyncio


class ManualClock:
    """A clock, and the sleep that winds it: pass ``clock`` and ``clock.sleep``.

    Attributes:
        now: Seconds.
        slept: Every sleep so far, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
