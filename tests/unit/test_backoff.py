"""The schedule of retries, which needs no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.backoff import Backoff, next_wait_s

SCHEDULE = Backoff(first_s=0.5, factor=2.0, cap_s=10.0)
RNG = st.floats(0, 1, exclude_max=True)


def test_ceilings_grow_to_the_cap() -> None:
    assert [SCHEDULE.ceiling_s(n) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert SCHEDULE.ceiling_s(100_000) == 10


@given(st.integers(1, 1000), RNG)
def test_half_of_a_wait_is_certain_and_half_is_jitter(failures: int, rng: float) -> None:
    ceiling = SCHEDULE.ceiling_s(failures)
    assert ceiling / 2 <= SCHEDULE.delay_s(failures, rng) <= ceiling
    assert SCHEDULE.delay_s(failures, 0) == ceiling / 2


@given(st.integers(1, 50), RNG, st.floats(0, 100))
def test_never_earlier_than_the_server_asks(failures: int, rng: float, asked_s: float) -> None:
    delay = SCHEDULE.delay_s(failures, rng, asked_s)
    assert delay >= asked_s
    assert delay >= SCHEDULE.delay_s(failures, rng)


def test_clients_told_the_same_wait_come_back_apart() -> None:
    assert len({SCHEDULE.delay_s(5, n / 100, 30.0) for n in range(100)}) == 100


@given(st.integers(1, 50), RNG, st.floats(0, 200), st.none() | st.floats(0, 200))
def test_the_wait_ends_by_the_deadline(
    failures: int, rng: float, idle_s: float, asked_s: float | None
) -> None:
    wait = next_wait_s(
        SCHEDULE,
        failures=failures,
        rng=rng,
        retry_after_s=asked_s,
        idle_s=idle_s,
        give_up_after_s=60.0,
    )
    if idle_s >= 60 or (asked_s is not None and asked_s > 60 - idle_s):
        assert wait is None
    else:
        assert wait is not None
        assert 0 <= wait <= 60 - idle_s
        assert asked_s is None or wait >= asked_s


def test_the_last_attempt_is_made_at_the_deadline() -> None:
    wait = next_wait_s(
        SCHEDULE, failures=9, rng=0.5, retry_after_s=None, idle_s=58.0, give_up_after_s=60.0
    )
    assert wait == pytest.approx(2.0)


@pytest.mark.parametrize("wrong", [{"first_s": -1.0}, {"first_s": 9.0, "cap_s": 1.0}])
def test_schedules_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(**wrong)


def test_more_schedules_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="factor"):
        Backoff(factor=0.5)
    with pytest.raises(ValueError, match="failures=0"):
        SCHEDULE.ceiling_s(0)
