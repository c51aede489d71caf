"""The portal: calls, errors, context managers, and every way in which a process forks and ends.

What forks, exits or is interrupted runs in an interpreter of its own with a hard timeout.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import textwrap
import threading
import time
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


def test_a_crossing_is_cheap(own: Portal) -> None:
    began = time.perf_counter()
    for _ in range(200):
        own.call(add, 1, 2)
    assert (time.perf_counter() - began) / 200 < 0.02


# ---- one interpreter each ---------------------------------------------------------------------

PRELUDE = """\
import asyncio, gc, multiprocessing, os, signal, sys, threading
from aiolit.runtime.portal import Portal, portal

async def add(a, b):
    await asyncio.sleep(0)
    return a + b

async def forever():
    await asyncio.Event().wait()

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def finished(run_python: Any, source: str, *flags: str) -> str:
    """Run a script that must end well and silently; what it printed."""
    done = run_python(PRELUDE + textwrap.dedent(source), flags=flags)
    assert (done.returncode, done.stderr) == (0, ""), done
    return str(done.stdout)


EXITS = {
    "unused": "",
    "used": "assert portal().call(add, 1, 2) == 3",
    "running": "portal().submit(forever); portal().call(add, 1, 2)",
    "executor": "portal().call(asyncio.to_thread, os.getpid)",
    "own": "kept = Portal(); kept.call(add, 1, 2)",
    "own in a cycle": "kept = Portal(); kept.me = [kept]; kept.call(add, 1, 2)",
    "a waiting daemon thread": """
def wait():
    try:
        portal().call(forever)
    except BaseException:
        pass
portal()
threading.Thread(target=wait, daemon=True).start()
""",
    "a stray task": """
async def leave():
    global kept
    kept = asyncio.get_running_loop().create_task(forever())
portal().call(leave)
""",
    "sys.exit": "portal().submit(forever); sys.exit(0)",
    "async generator": """
async def numbers():
    yield 1
    await asyncio.Event().wait()
async def first():
    global kept
    kept = numbers()
    return await anext(kept)
portal().call(first)
""",
}


@pytest.mark.parametrize("source", EXITS.values(), ids=EXITS.keys())
@pytest.mark.parametrize("flag", ["-B", "-Xdev"])
def test_exit_with_a_portal_open(run_python: Any, source: str, flag: str) -> None:
    finished(run_python, source, flag)


def test_clean_ups_run_at_exit_with_threads_still_available(run_python: Any) -> None:
    source = """
    import time
    async def clean():
        await asyncio.to_thread(time.time)
        print("cleaned", flush=True)
    portal().on_close(clean)
    """
    assert finished(run_python, source) == "cleaned\n"


@pytest.mark.parametrize("how", ["os._exit(0)", "sys.exit(0)", "pass"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_fork_after_use(run_python: Any, how: str, when: str) -> None:
    """The child opens its own; the parent's goes on, with a call under way or not."""
    source = f"""
    mine = portal()
    assert mine.call(add, 1, 2) == 3
    if {when!r} == "while":
        mine.submit(forever)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            mine.call(add, 1, 2)
        except RuntimeError as error:
            assert f"belongs to process {{parent}}" in str(error)
        mine.close()
        assert portal() is not mine
        assert portal().call(add, 2, 2) == 4
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("aiolit-loop") == 1, names
        {how}
    else:
        assert status(pid) == 0
        assert portal() is mine
        assert mine.call(add, 3, 2) == 5
    """
    finished(run_python, source)


def test_fork_of_fork(run_python: Any) -> None:
    source = """
    portal().call(add, 1, 2)
    if (child := os.fork()) == 0:
        portal().call(add, 1, 2)
        if (grandchild := os.fork()) == 0:
            assert portal().call(add, 1, 2) == 3
            sys.exit(7)
        assert portal().call(add, 1, 2) == 3
        sys.exit(status(grandchild) + 1)
    assert status(child) == 8
    """
    finished(run_python, source)


def test_fork_while_another_thread_opens_the_portal(run_python: Any) -> None:
    """The lock is held at the moment of the fork, by a thread that the child does not have."""
    source = """
    from aiolit.runtime import portal as module
    process = module._this_process()
    held, go = threading.Event(), threading.Event()

    def hold():
        with process.lock:
            held.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    if (pid := os.fork()) == 0:
        assert portal().call(add, 1, 2) == 3
        os._exit(0)
    assert status(pid) == 0
    go.set()
    thread.join()
    assert portal().call(add, 1, 2) == 3
    """
    finished(run_python, source)


def test_fork_while_threads_open_and_use_it(run_python: Any) -> None:
    source = """
    stop = threading.Event()

    def use():
        while not stop.is_set():
            with Portal() as own:
                own.call(add, 1, 2)
            portal().call(add, 1, 2)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        if (pid := os.fork()) == 0:
            assert portal().call(add, 1, 2) == 3
            os._exit(0)
        assert status(pid) == 0
    stop.set()
    for thread in threads:
        thread.join()
    """
    finished(run_python, source)


def test_collecting_an_inherited_portal_in_the_child(run_python: Any) -> None:
    source = """
    mine = Portal()
    mine.call(add, 1, 2)
    if (pid := os.fork()) == 0:
        del mine
        gc.collect()
        sys.exit(0)
    assert status(pid) == 0
    assert mine.call(add, 1, 2) == 3
    mine.close()
    """
    finished(run_python, source, "-Werror")


CHILD = """
def child(queue, leave_running):
    queue.put(portal().call(add, os.getpid(), 0) - os.getpid())
    if leave_running:
        portal().submit(forever)

    async def clean():
        queue.put("cleaned")
    portal().on_close(clean)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("used", [True, False])
def test_exit_of_a_multiprocessing_child(run_python: Any, method: str, used: bool) -> None:
    """It ends with a portal open, runs the clean-ups, and prints nothing."""
    source = f"""
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    if {used}:
        portal().call(add, 1, 2)
    queue = context.SimpleQueue()
    children = [context.Process(target=child, args=(queue, at)) for at in (False, True)]
    for process in children:
        process.start()
    for process in children:
        process.join(50)
        assert process.exitcode == 0, process
    assert sorted(str(queue.get()) for _ in range(4)) == ["0", "0", "cleaned", "cleaned"]
    queue.close()
"""
    finished(run_python, CHILD + source)


def test_a_child_that_ends_by_multiprocessings_exit_function_alone(run_python: Any) -> None:
    """Neither atexit nor the joining of threads gets a turn."""
    source = """
    import multiprocessing.util

    async def clean():
        print("cleaned", flush=True)

    portal().call(add, 1, 2)
    if (pid := os.fork()) == 0:
        portal().on_close(clean)
        multiprocessing.util._exit_function()
        assert threading.active_count() == 1
        os._exit(0)
    assert status(pid) == 0
    """
    assert finished(run_python, source) == "cleaned\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers(run_python: Any, method: str) -> None:
    source = f"""
import torch.utils.data

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, at):
        return portal().call(add, at, 100)

if __name__ == "__main__":
    data = Numbers()
    assert data[0] == 100
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, num_workers=2, multiprocessing_context={method!r}
    )
    for _ in range(2):
        batches = [batch.tolist() for batch in loader]
        assert sum(batches, []) == list(range(100, 112)), batches
    early = iter(loader)
    next(early)
    del early
"""
    finished(run_python, source)


def test_killing_the_loop_of_a_pool_worker_is_not_needed(run_python: Any) -> None:
    source = """
from concurrent.futures import ProcessPoolExecutor

def work(at):
    return portal().call(add, at, 1)

if __name__ == "__main__":
    portal().call(add, 1, 2)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(work, range(10))) == list(range(1, 11))
"""
    finished(run_python, source)


def test_ctrl_c_cancels_the_task_and_waits_for_its_end(run_python: Any) -> None:
    source = """
    log = []

    async def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await forever()
        finally:
            await asyncio.sleep(0.2)
            log.append("ended")

    try:
        portal().call(work)
    except KeyboardInterrupt:
        log.append("interrupted")
    assert log == ["ended", "interrupted"], log
    assert portal().call(add, 1, 2) == 3
    """
    finished(run_python, source)


def test_a_second_ctrl_c_does_not_wait(run_python: Any) -> None:
    source = """
    release = threading.Event()

    async def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await forever()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.to_thread(release.wait)

    try:
        portal().call(work)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted")
    release.set()
    """
    assert finished(run_python, source) == "interrupted\n"


def test_ctrl_c_that_does_not_wake_the_thread(run_python: Any) -> None:
    """Python notes a signal that comes as a wait begins, but goes on waiting; both times."""
    source = """
    release = threading.Event()

    def note():
        # The system's handler runs in this thread, Python's in the main one when that wakes up.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    async def work():
        try:
            note()
            await forever()
        finally:
            note()
            await asyncio.to_thread(release.wait)

    try:
        portal().call(work)
    except KeyboardInterrupt:
        print("interrupted")
    release.set()
    """
    assert finished(run_python, source) == "interrupted\n"


def test_what_the_handler_of_a_signal_raises_comes_out(run_python: Any) -> None:
    source = """
    def late(*_):
        raise TimeoutError("too late")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        portal().call(forever)
    except TimeoutError as error:
        print(error)
    """
    assert finished(run_python, source) == "too late\n"


def test_ctrl_c_inside_a_context_manager(run_python: Any) -> None:
    source = """
    from contextlib import asynccontextmanager

    log = []

    @asynccontextmanager
    async def manager():
        try:
            yield
        except KeyboardInterrupt:
            log.append("seen")
            raise
        finally:
            log.append("left")

    try:
        with portal().wrap_async_context_manager(manager()):
            os.kill(os.getpid(), signal.SIGINT)
            portal().call(forever)
    except KeyboardInterrupt:
        log.append("interrupted")
    assert log == ["seen", "left", "interrupted"], log
    """
    finished(run_python, source)


def test_opened_while_the_interpreter_ends(run_python: Any) -> None:
    source = """
    import atexit

    def late():
        try:
            portal()
        except RuntimeError as error:
            print(error)

    atexit.register(late)
    if "use" in sys.argv:
        portal().call(add, 1, 2)
    """
    for arguments in ((), ("use",)):
        done = run_python(PRELUDE + textwrap.dedent(source), *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "shut" in done.stdout


def test_python_still_has_the_exit_hook_that_we_use() -> None:
    """A private function: without it the loop's thread is a daemon, joined by atexit."""
    assert callable(threading._register_atexit)  # type: ignore[attr-defined]


def test_without_the_exit_hook(run_python: Any) -> None:
    source = """
    import concurrent.futures.thread
    del threading._register_atexit

    async def clean():
        print("cleaned", flush=True)

    portal().on_close(clean)
    portal().submit(forever)
    assert portal().call(add, 1, 2) == 3
    """
    assert finished(run_python, source) == "cleaned\n"


def test_without_uvloop(run_python: Any) -> None:
    source = """
    import sys
    sys.modules["uvloop"] = None
    import asyncio, os
    from aiolit.runtime.portal import portal

    async def kind():
        return type(asyncio.get_running_loop()).__module__

    assert portal().call(kind).startswith("asyncio"), portal().call(kind)
    if os.fork() == 0:
        assert portal().call(kind).startswith("asyncio")
        sys.exit()
    assert os.wait()[1] == 0
    """
    done = run_python(textwrap.dedent(source))
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_it_starts_nothing(run_python: Any) -> None:
    source = """
    assert threading.active_count() == 1
    assert not multiprocessing.util._finalizer_registry
    """
    finished(run_python, source)
