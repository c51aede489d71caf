"""The portal: calls, errors, context managers, clean-ups, many threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiolit.runtime.portal import THREAD_NAME, Portal, PortalClosedError, portal


@pytest.fixture
def own() -> Iterator[Portal]:
    with Portal() as opened:
        yield opened


async def add(one: int, two: int) -> int:
    await asyncio.sleep(0)
    return one + two


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


class Blocker:
    """A coroutine function that waits for ever, and tells when it began and ended."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended.set()


def test_one_portal_for_the_process() -> None:
    assert portal() is portal()
    found: list[Portal] = []
    threads = [threading.Thread(target=lambda: found.append(portal())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [portal()] * 8


def test_results_cross(own: Portal) -> None:
    assert own.call(add, 1, 2) == 3
    assert own.submit(add, 3, 4).result(10) == 7


def test_runs_on_the_named_thread_under_a_named_task(own: Portal) -> None:
    async def names() -> tuple[str, str]:
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.get_running_loop() is own.loop
        return threading.current_thread().name, task.get_name()

    thread, task = own.call(names)
    assert thread == THREAD_NAME == "aiolit-loop"
    assert task.startswith("aiolit:")
    assert task.endswith("names")


def test_uses_uvloop_where_it_is_installed(own: Portal) -> None:
    uvloop = pytest.importorskip("uvloop")
    assert isinstance(own.loop, uvloop.Loop)


def test_context_variables_cross(own: Portal) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def read() -> str:
        return variable.get()

    variable.set("mine")
    assert own.call(read) == "mine"
    assert own.submit(read).result(10) == "mine"


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
)
def test_errors_cross_as_themselves_and_the_loop_survives(
    own: Portal, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        own.call(fail, error)
    assert caught.value is error
    assert own.call(add, 1, 1) == 2


def test_a_lone_error_leaves_its_group(own: Portal) -> None:
    error = OSError("alone")

    async def nested() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.Event().wait())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(error))

    with pytest.raises(OSError, match="alone") as caught:
        own.call(nested)
    assert caught.value is error


def test_several_errors_stay_a_group(own: Portal) -> None:
    async def two() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(OSError("one")))
            group.create_task(fail(KeyError("two")))

    with pytest.raises(ExceptionGroup) as caught:
        own.call(two)
    assert len(caught.value.exceptions) == 2


def test_a_failed_call_keeps_nothing_alive(own: Portal) -> None:
    class Large:
        pass

    gone = threading.Event()

    async def use(large: Large) -> None:
        raise ValueError

    def call() -> None:
        large = Large()
        weakref.finalize(large, gone.set)
        with pytest.raises(ValueError):
            own.call(use, large)

    gc.disable()  # reference counts alone must do
    try:
        call()
        # The loop's thread lets go of the task a moment after the caller has its error.
        own.call(add, 0, 0)
        assert gone.wait(10)
    finally:
        gc.enable()


def test_a_kept_future_keeps_no_arguments_alive(own: Portal) -> None:
    class Large:
        pass

    async def use(large: Large) -> int:
        return 1

    gone = threading.Event()
    large = Large()
    weakref.finalize(large, gone.set)
    future = own.submit(use, large)
    del large
    assert future.result(10) == 1
    assert gone.wait(10)


def test_refused_on_the_loops_own_thread(own: Portal) -> None:
    async def inside() -> None:
        own.call(add, 1, 2)

    async def close() -> None:
        own.close()

    with pytest.raises(RuntimeError, match=r"Portal.call\(add\) from the event loop's own thread"):
        own.call(inside)
    with pytest.raises(RuntimeError, match="own thread"):
        own.call(close)

    async def submit() -> int:
        return await asyncio.wrap_future(own.submit(add, 1, 2))

    assert own.call(submit) == 3


def test_cancelling_the_future_cancels_the_task(own: Portal) -> None:
    blocker = Blocker()
    future = own.submit(blocker)
    assert blocker.began.wait(10)
    assert future.cancel()
    assert blocker.ended.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)


def test_a_coroutine_that_cancels_itself(own: Portal) -> None:
    with pytest.raises(CancelledError):
        own.call(fail, asyncio.CancelledError())
    assert own.call(add, 1, 1) == 2


def test_closing_cancels_what_runs_and_awaits_its_end() -> None:
    own, blocker, errors = Portal(), Blocker(), list[BaseException]()

    def call() -> None:
        try:
            own.call(blocker)
        except PortalClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert blocker.began.wait(10)
    future = own.submit(Blocker())
    own.close()
    assert blocker.ended.is_set()
    thread.join(10)
    assert len(errors) == 1
    assert future.cancelled()


def test_closed_it_refuses() -> None:
    own = Portal()
    assert repr(own).endswith("0 running>")
    own.close()
    own.close()
    assert own.closed
    assert own.loop.is_closed()
    for refused in (own.call, own.submit):
        with pytest.raises(PortalClosedError):
            refused(add, 1, 2)
    with pytest.raises(PortalClosedError):
        own.on_close(Blocker())
    with pytest.raises(PortalClosedError), own.wrap_async_context_manager(Manager()):
        pass
    assert repr(own).endswith("closed>")


def test_clean_ups_run_in_reverse_after_the_calls_ended() -> None:
    blocker, log = Blocker(), list[str]()

    async def clean(name: str) -> None:
        await asyncio.sleep(0)
        assert blocker.ended.is_set()
        log.append(name)

    with Portal() as own:
        own.submit(blocker)
        assert blocker.began.wait(10)
        own.on_close(lambda: clean("first"))
        withdraw = own.on_close(lambda: clean("never"))
        own.on_close(lambda: clean("last"))
        withdraw()
        withdraw()
    assert log == ["last", "first"]


def test_a_failed_clean_up_stops_no_other_and_is_raised() -> None:
    log = list[str]()

    async def clean() -> None:
        log.append("clean")

    own = Portal()
    own.on_close(clean)
    own.on_close(lambda: fail(OSError("not clean")))
    with pytest.raises(OSError, match="not clean"):
        own.close()
    assert log == ["clean"]
    own.close()

    own = Portal()
    own.on_close(lambda: fail(OSError("one")))
    own.on_close(lambda: fail(OSError("two")))
    with pytest.raises(ExceptionGroup) as caught:
        own.close()
    assert [str(error) for error in caught.value.exceptions] == ["two", "one"]


class Manager:
    """An async context manager that notes what happens to it."""

    def __init__(self, *, swallow: bool = False) -> None:
        self.swallow = swallow
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.seen: BaseException | None = None

    async def __aenter__(self) -> str:
        self.tasks.append(asyncio.current_task())
        return "value"

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        await asyncio.sleep(0)
        self.tasks.append(asyncio.current_task())
        self.seen = error
        return self.swallow


def test_a_context_manager_is_left_in_the_task_that_entered_it(own: Portal) -> None:
    manager = Manager()
    with own.wrap_async_context_manager(manager) as value:
        assert value == "value"
        assert own.call(add, 1, 2) == 3
    assert manager.tasks[0] is manager.tasks[1] is not None
    assert manager.seen is None


def test_a_context_manager_sees_and_may_swallow_the_bodys_error(own: Portal) -> None:
    error = ValueError("body")
    manager = Manager()
    with pytest.raises(ValueError, match="body") as caught, own.wrap_async_context_manager(manager):
        raise error
    assert caught.value is error
    assert manager.seen is error

    def body() -> None:
        raise error

    manager = Manager(swallow=True)
    with own.wrap_async_context_manager(manager):
        body()
    assert manager.seen is error


@asynccontextmanager
async def group_that_fails(began: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    async def later() -> None:
        await began.wait()
        raise OSError("inside the manager")

    async with asyncio.TaskGroup() as group:
        group.create_task(later())
        yield began


def test_a_failure_inside_the_manager_is_raised_when_it_is_left(own: Portal) -> None:
    async def begin(event: asyncio.Event) -> None:
        event.set()

    with (
        pytest.raises(OSError, match="inside the manager"),
        own.wrap_async_context_manager(group_that_fails(asyncio.Event())) as began,
    ):
        own.call(begin, began)
    assert own.call(add, 1, 2) == 3


def test_a_manager_that_fails_on_the_way_in_or_out(own: Portal) -> None:
    class Bad(Manager):
        async def __aenter__(self) -> str:
            raise KeyError("in")

    with pytest.raises(KeyError, match="in"), own.wrap_async_context_manager(Bad()):
        pytest.fail("it was not entered")

    class Worse(Manager):
        async def __aexit__(self, *exc: object) -> bool:
            raise KeyError("out")

    with pytest.raises(KeyError, match="out"), own.wrap_async_context_manager(Worse()):
        pass


def test_closing_leaves_open_context_managers() -> None:
    own, manager = Portal(), Manager()
    held = own.wrap_async_context_manager(manager)
    held.__enter__()
    own.close()
    assert isinstance(manager.seen, asyncio.CancelledError)
    with pytest.raises(PortalClosedError):
        held.__exit__(None, None, None)


def test_a_forgotten_portal_ends_its_thread() -> None:
    own = Portal()
    thread = own._thread
    cycle: list[object] = [own]
    cycle.append(cycle)
    del own, cycle
    with pytest.warns(ResourceWarning, match="without close"):
        gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_many_threads_call_at_once(own: Portal) -> None:
    results: list[int] = []

    def call(start: int) -> None:
        results.extend(own.call(add, start, at) for at in range(50))

    threads = [threading.Thread(target=call, args=(1000 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [1000 * at + more for at in range(8) for more in range(50)]
