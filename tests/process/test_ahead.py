"""Results made ahead: order, errors, bounds, early ends, forks and exits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

import pytest

from aiolit.runtime.ahead import THREAD_NAME, Ahead, spread
from aiolit.runtime.portal import portal

PATIENCE_S = 30.0


class Numbers:
    """Counts up, tells how far it was asked, and where it ran and ended."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.begun: list[int] = []
        self.threads: set[str] = set()
        self.closed = threading.Event()

    def __iter__(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                self.begun.append(number)
                self.threads.add(threading.current_thread().name)
                if number == self.fail_at:
                    raise ValueError(f"number {number}")
                yield number
        finally:
            self.closed.set()


def ahead(numbers: Numbers, *, threads: int = 1, depth: int = 2) -> Ahead[int]:
    return Ahead(iter(numbers), threads=threads, depth=depth)


def decode_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith(THREAD_NAME)]


@pytest.mark.parametrize("threads", [1, 3])
def test_all_results_in_order_from_another_thread(threads: int) -> None:
    numbers = Numbers(50)
    assert list(ahead(numbers, threads=threads)) == list(range(50))
    assert numbers.threads == {THREAD_NAME}
    assert numbers.closed.is_set()
    assert not decode_threads()  # joined, not only told to end


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_than_the_depth_is_ahead(depth: int) -> None:
    numbers = Numbers(20)
    made = ahead(numbers, depth=depth)
    assert made.ready == 0
    for taken, number in enumerate(made, 1):
        assert number == taken - 1
        assert len(numbers.begun) <= taken + depth
        assert made.ready <= depth


def test_an_error_comes_behind_the_results_before_it() -> None:
    numbers = Numbers(20, fail_at=5)
    made = iter(ahead(numbers))
    assert [next(made) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="number 5") as failure:
        next(made)
    assert str(failure.traceback[-1].path) == __file__  # it says where it was raised
    assert not decode_threads()


def test_ctrl_c_that_does_not_wake_the_thread(run_python: Any) -> None:
    """Python notes a signal that another thread has got, but goes on waiting."""
    source = """
import signal, threading
from aiolit.runtime.ahead import Ahead

release = threading.Event()

def results():
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    release.wait()
    yield 0

try:
    next(iter(Ahead(results(), threads=1, depth=1)))
except KeyboardInterrupt:
    print("interrupted")
release.set()
"""
    done = run_python(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_an_early_end_closes_what_is_advanced() -> None:
    numbers = Numbers(1000)
    results = iter(ahead(numbers))
    assert next(results) == 0
    (thread,) = decode_threads()
    results.close()  # type: ignore[attr-defined]
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert numbers.closed.is_set()
    assert len(numbers.begun) <= 4


def test_an_early_end_does_not_wait_for_the_loop() -> None:
    waiting, ended = threading.Event(), threading.Event()

    async def for_ever() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def results() -> Generator[int, None, None]:
        yield 0
        portal().call(for_ever)

    made = iter(Ahead(results(), threads=2, depth=2))
    assert next(made) == 0
    assert waiting.wait(PATIENCE_S)
    threads = decode_threads()
    made.close()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert ended.is_set()


def test_a_call_is_given_up_at_whatever_moment() -> None:
    """Also between its task's birth and its first step."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    def results() -> Generator[int, None, None]:
        yield 0
        portal().call(for_ever)

    for _ in range(200):
        made = iter(Ahead(results(), threads=1, depth=2))
        assert next(made) == 0
        (thread,) = decode_threads()
        made.close()  # type: ignore[attr-defined]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_one_that_was_told_to_end_does_not_begin_to_wait() -> None:
    told, called = threading.Event(), []

    async def never() -> None:
        called.append(1)

    def results() -> Generator[int, None, None]:
        yield 0
        told.wait(PATIENCE_S)
        portal().call(never)

    made = iter(Ahead(results(), threads=1, depth=2))
    assert next(made) == 0
    (thread,) = decode_threads()
    made.close()  # type: ignore[attr-defined]
    told.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not called


def test_two_at_a_time() -> None:
    one, two = Numbers(30), Numbers(30)
    pairs = list(zip(ahead(one), ahead(two, threads=2), strict=True))
    assert pairs == [(number, number) for number in range(30)]


# ---- spreading ---------------------------------------------------------------------------------


def spreading(
    count: int, work: Callable[[int, int], list[Any]], rounds: int = 1
) -> Generator[list[Any], None, None]:
    for _ in range(rounds):
        yield spread(count, work)


def test_spread_work_keeps_its_order_and_uses_every_thread() -> None:
    meeting = threading.Barrier(3)
    met: set[str] = set()

    def work(first: int, stop: int) -> list[int]:
        name = threading.current_thread().name
        if name not in met:  # each thread once: so that none can do it all
            met.add(name)
            meeting.wait(PATIENCE_S)
        return list(range(first, stop))

    results = list(Ahead(spreading(64, work), threads=3, depth=1))
    assert results == [list(range(64))]
    assert len(met) == 3


@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_spread_work_of_any_size(count: int) -> None:
    def work(first: int, stop: int) -> list[int]:
        return list(range(first, stop))

    results = list(Ahead(spreading(count, work, rounds=3), threads=4, depth=2))
    assert results == [list(range(count))] * 3
    assert spread(count, work) == list(range(count))  # here it is not spread


def test_the_first_error_of_spread_work_is_raised() -> None:
    both = threading.Barrier(2)

    def work(first: int, stop: int) -> list[int]:
        both.wait(PATIENCE_S)
        raise ValueError(f"slice {first}")

    with pytest.raises(ValueError, match="slice 0"):
        list(Ahead(spreading(2, work), threads=2, depth=1))
    assert not decode_threads()


# ---- processes ---------------------------------------------------------------------------------


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


COMMON = """
    import os, sys
    from aiolit.runtime.ahead import Ahead
    from aiolit.runtime.portal import portal

    def numbers():
        try:
            for number in range(1000):
                yield number
        finally:
            print("closed", flush=True)
"""


@pytest.fixture
def script(run_python: RunPython) -> Callable[[str], str]:
    def run(source: str) -> str:
        found = run_python(COMMON + source)
        assert found.returncode == 0, found.stdout + found.stderr
        assert found.stderr == ""
        text: str = found.stdout
        return text

    return run


def test_the_interpreter_ends_in_the_midst_of_it(script: Callable[[str], str]) -> None:
    assert "closed" in script("""
    made = iter(Ahead(numbers(), threads=3, depth=2))
    next(made)
    """)


def test_the_interpreter_ends_while_the_loop_is_waited_for(script: Callable[[str], str]) -> None:
    assert "given up" in script("""
    import asyncio, threading
    waiting = threading.Event()

    async def for_ever():
        waiting.set()
        await asyncio.Event().wait()

    def results():
        yield 0
        try:
            portal().call(for_ever)
        finally:
            print("given up", flush=True)

    made = iter(Ahead(results(), threads=1, depth=2))
    next(made)
    waiting.wait()
    """)


def test_a_forked_child_leaves_it_alone(script: Callable[[str], str]) -> None:
    text = script("""
    made = iter(Ahead(numbers(), threads=2, depth=2))
    next(made)
    child = os.fork()
    if not child:
        try:
            next(made)
        except RuntimeError as error:
            print("refused:", error, flush=True)
        own = list(Ahead(numbers(), threads=2, depth=2))
        assert own == list(range(1000))
        del made
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert list(made) == list(range(1, 1000))
    """)
    assert "refused: process" in text
    assert text.count("closed") == 2


def test_a_child_of_multiprocessing_ends(script: Callable[[str], str]) -> None:
    assert "closed" in script("""
    import multiprocessing
    kept = []

    def child():
        kept.append(iter(Ahead(numbers(), threads=2, depth=2)))
        next(kept[0])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(50)
    assert process.exitcode == 0
    """)
