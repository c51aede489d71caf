"""How many requests a link gets, and how large ones: a model fed with what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aiolit.plan.link import LinkModel

MB = 1 << 20


def feed(model: LinkModel, rate: Callable[[int], float], seconds: float, start: float = 0) -> float:
    """Tell a model of requests on a link that brings ``rate(requests at once)`` bytes a second."""
    now = start
    while now < start + seconds:
        nbytes = model.part_bytes
        took = nbytes / rate(model.limit)
        now += took
        mine = took * model.limit  # each of those at once takes so much longer
        model.completed(nbytes, 0.02, 0.02 + mine, now, waiting=True)
    return now


def test_grows_while_it_brings_more_and_no_further() -> None:
    model = LinkModel(limit=4, most=64)
    feed(model, lambda limit: 20e6 * limit, 60)
    assert model.limit == 64
    model = LinkModel(limit=4, most=64)
    feed(model, lambda limit: 20e6 * min(limit, 16), 20)
    settled = model._before[0] if model._before is not None else model.limit  # between two trials
    assert settled == 19


def test_keeps_still_where_more_requests_bring_nothing() -> None:
    model = LinkModel(limit=16)
    seen = set()
    now = 0.0
    for _ in range(200):
        now = feed(model, lambda limit: 500e6, 0.5, now)
        seen.add(model.limit)
    assert seen == {16, 24}
    assert model.limit == 16 or model._before is not None


def test_tells_nothing_while_nobody_waits() -> None:
    model = LinkModel(limit=4)
    for step in range(1000):
        model.completed(8 * MB, 0.02, 0.1, step * 0.1, waiting=False)
    assert model.limit == 4


def test_halves_when_throttled_and_comes_back() -> None:
    model = LinkModel(limit=32)
    now = feed(model, lambda limit: 20e6 * limit, 0.3)
    model.throttled()
    model.throttled()
    assert model.limit == 16
    now = feed(model, lambda limit: 20e6 * limit, 0.1, now)
    model.throttled()
    assert model.limit == 8
    feed(model, lambda limit: 20e6 * limit, 60, now)
    assert model.limit > 32


def test_never_below_the_least() -> None:
    model = LinkModel(limit=3, least=2)
    for step in range(10):
        model.completed(MB, 0.01, 0.1, step, waiting=True)
        model.throttled()
    assert model.limit == 2


@pytest.mark.parametrize(
    ("latency_s", "rate", "part"), [(0.015, 80e6, 4), (0.1, 60e6, 8), (0.001, 50e6, 2)]
)
def test_parts_are_sized_by_latency_and_bandwidth(latency_s: float, rate: float, part: int) -> None:
    model = LinkModel()
    for step in range(50):
        seconds = latency_s + model.part_bytes / rate
        model.completed(model.part_bytes, latency_s, seconds, step * 0.1, waiting=True)
    assert model.part_bytes == part * MB
