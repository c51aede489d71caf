"""How long to wait before the next attempt, and when to give up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """An exponential back-off with jitter.

    Attributes:
        first_s: The longest wait after the first failure, in seconds.
        factor: By how much the longest wait grows with each further failure.
        cap_s: The longest wait of all, in seconds.
    """

    first_s: float = 0.1
    factor: float = 2.0
    cap_s: float = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.cap_s:
            raise ValueError(f"first_s={self.first_s} must lie between 0 and cap_s={self.cap_s}")
        if self.factor < 1:
            raise ValueError(f"factor={self.factor} must be at least 1")

    def ceiling_s(self, failures: int) -> float:
        """Return the longest wait after so many failures in a row, in seconds."""
        if failures < 1:
            raise ValueError(f"failures={failures} must be at least 1")
        ceiling = self.first_s
        for _ in range(failures - 1):
            ceiling *= self.factor
            if ceiling >= self.cap_s:
                return self.cap_s
        return ceiling

    def delay_s(self, failures: int, rng: float, retry_after_s: float | None = None) -> float:
        """Return how long to wait after so many failures in a row, in seconds.

        Half of the ceiling is certain and half is jitter, so that a thousand clients thrown out
        together come back apart.

        Args:
            failures: How many attempts have failed since the last new byte; at least 1.
            rng: A random number in [0, 1).
            retry_after_s: What the server asked for; the wait is never shorter than that.
        """
        ceiling = self.ceiling_s(failures)
        own = ceiling * (0.5 + 0.5 * rng)
        if retry_after_s is None:
            return own
        return max(own, retry_after_s + ceiling * rng)


def next_wait_s(
    backoff: Backoff,
    *,
    failures: int,
    rng: float,
    retry_after_s: float | None,
    idle_s: float,
    give_up_after_s: float,
) -> float | None:
    """Return how long to wait for the next attempt, in seconds, or None to give up.

    What counts is the time without a new byte, not the whole time: a long object over a line
    that fails every minute still arrives. The last attempt is made at the deadline itself; where
    the server asks to wait beyond the deadline, waiting is pointless and the answer is None.

    Args:
        backoff: The schedule.
        failures: How many attempts have failed since the last new byte; at least 1.
        rng: A random number in [0, 1).
        retry_after_s: What the server asked for, in seconds, or None.
        idle_s: Seconds since the last new byte, or since the start.
        give_up_after_s: The longest time without a new byte, in seconds.
    """
    left_s = give_up_after_s - idle_s
    if left_s <= 0:
        return None
    if retry_after_s is not None and retry_after_s > left_s:
        return None
    return min(backoff.delay_s(failures, rng, retry_after_s), left_s)
