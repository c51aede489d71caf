"""The portal in every way in which a process forks, ends or is interrupted.

Each runs in an interpreter of its own with a hard timeout.
"""

from __future__ import annotations

import textwrap
import threading
from typing import Any

import pytest

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
