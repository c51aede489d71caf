"""Worker processes and their channels, on asyncio's loop and on uvloop."""

# ruff: noqa: PT012 - what raises is the leaving of a block
from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from aiolit.errors import WorkerDiedError
from aiolit.runtime.channel import (
    AsyncChannel,
    Channel,
    ChannelClosedError,
    ChannelLimitError,
    ChannelLimits,
)
from aiolit.runtime.loop_thread import new_loop
from aiolit.runtime.portal import portal
from aiolit.runtime.remote_error import RemoteFailure
from aiolit.runtime.worker_process import WorkerProcess, describe_exit

T = TypeVar("T")
Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=["asyncio", "uvloop", "portal"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Give a function that runs a coroutine function on one of the loops, for at most a minute."""

    async def bounded(func: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(60):
            return await func()

    if request.param == "portal":
        yield lambda func: portal().call(bounded, func)
        return
    factory = asyncio.new_event_loop
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        factory = new_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda func: runner.run(bounded(func))


# ---- what workers run -------------------------------------------------------------------------


def echo(channel: Channel) -> None:
    while True:
        header, buffers = channel.recv()
        channel.send(header, buffers)


def call(channel: Channel, func: Callable[[], object]) -> None:
    channel.send(func())


def wait_for_ever(channel: Channel) -> None:
    channel.send("began")
    threading.Event().wait()


async def answer(func: Callable[[], object]) -> Any:
    """Run a function in a worker of its own."""
    async with WorkerProcess(call, func) as worker:
        header, _ = await worker.recv()
        return header


# ---- messages ---------------------------------------------------------------------------------

SIZES = {
    "none": [],
    "empty": [0, 0],
    "odd": [1, 0, 7, 8, 9, 0, 15],
    "many": [3] * 3000,
    "large": [16 * 2**20 + 1, 5, 2**20],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_messages_go_there_and_back(run: Run, sizes: list[int]) -> None:
    random = np.random.default_rng(0)
    sent = [random.bytes(size) for size in sizes]

    async def main() -> None:
        async with WorkerProcess(echo) as worker:
            for header in ({"at": 1}, None, "last"):
                await worker.send(header, sent)
                answer, received = await worker.recv()
                assert (answer, [bytes(buffer) for buffer in received]) == (header, sent)

    run(main)


def test_received_buffers_are_writable_and_aligned(run: Run) -> None:
    arrays: list[NDArray[Any]] = [
        np.arange(5, dtype=np.int64),
        np.arange(3, dtype=np.uint8),
        np.ones(4),
    ]

    async def main() -> None:
        async with WorkerProcess(echo) as worker:
            await worker.send("arrays", [array.data for array in arrays])
            _, buffers = await worker.recv()
        for array, buffer in zip(arrays, buffers, strict=True):
            received = np.frombuffer(buffer, dtype=array.dtype)
            assert received.flags.aligned
            np.testing.assert_array_equal(received, array)
            received[:] = 0

    run(main)


def test_many_messages_in_flight(run: Run) -> None:
    async def main() -> None:
        async with WorkerProcess(echo) as worker:

            async def send() -> None:
                for at in range(300):
                    await worker.send(at, [bytes(at * 50)])

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                for at in range(300):
                    header, (buffer,) = await worker.recv()
                    assert (header, buffer.nbytes) == (at, at * 50)

    run(main)


def test_a_receive_that_timed_out_loses_nothing(run: Run) -> None:
    def trickle(channel: Channel) -> None:
        while True:
            at, _ = channel.recv()
            channel.send(at, [bytes(3_000_000)])

    async def main() -> None:
        async with WorkerProcess(trickle) as worker:
            timeouts = 0
            for at in range(10):
                await worker.send(at)
                while True:
                    try:
                        async with asyncio.timeout(0.0005):
                            header, (buffer,) = await worker.recv()
                    except TimeoutError:
                        timeouts += 1
                    else:
                        break
                assert (header, buffer.nbytes) == (at, 3_000_000)
            assert timeouts

    run(main)


def test_one_receiver_and_one_sender_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with WorkerProcess(echo) as worker:
            waiting = asyncio.create_task(worker.recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task is receiving"):
                await worker.recv()
            large = asyncio.create_task(worker.send("large", [bytes(50_000_000)]))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task is sending"):
                await worker.send("small")
            await large
            await waiting

    run(main)


# ---- channels without a process ---------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        yield one, two


SMALL = ChannelLimits(header_nbytes=100, buffers=3, nbytes=1000)
TOO_LARGE: dict[str, tuple[object, list[bytes]]] = {
    "header bytes": (bytes(101), []),
    "buffers": ("", [b""] * 4),
    "bytes in buffers": ("", [bytes(1001)]),
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_too_large_to_send(ends: tuple[socket.socket, socket.socket], what: str) -> None:
    header, buffers = TOO_LARGE[what]
    with pytest.raises(ChannelLimitError, match=what):
        Channel(ends[0], SMALL).send(header, buffers)
    channel = AsyncChannel(ends[0], SMALL)
    with pytest.raises(ChannelLimitError, match=what):
        await channel.send(header, buffers)
    await channel.send("small")  # nothing of the large one was sent
    assert Channel(ends[1]).recv() == ("small", [])


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_too_large_to_receive(ends: tuple[socket.socket, socket.socket], what: str) -> None:
    """Refused before any memory is reserved for it."""
    for receiving, sending in (ends, ends[::-1]):
        Channel(sending).send(*TOO_LARGE[what])
        with pytest.raises(ChannelLimitError, match=what):
            if receiving is ends[0]:
                await AsyncChannel(receiving, SMALL).recv()
            else:
                Channel(receiving, SMALL).recv()


async def test_a_lie_about_the_sizes(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall((1).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8))
    ends[0].sendall((2**40).to_bytes(8, "little") + b"N")
    with pytest.raises(ChannelLimitError, match="do not add up"):
        Channel(ends[1]).recv()


@pytest.mark.parametrize("nbytes", [0, 1, 15, 16, 30, 1000])
async def test_the_other_end_is_gone(
    ends: tuple[socket.socket, socket.socket], nbytes: int
) -> None:
    """At every part of a message, the error says whether it was cut short."""
    probe, far = socket.socketpair()
    with probe, far:
        Channel(probe).send({"some": "header"}, [bytes(2000)])
        whole = far.recv(10_000)
    how = "in the middle of a message" if nbytes else "between two messages"
    for blocking in (True, False):
        near, far = socket.socketpair()
        with near, far:
            far.sendall(whole[:nbytes])
            far.close()
            with pytest.raises(ChannelClosedError, match=how):
                if blocking:
                    Channel(near).recv()
                else:
                    await AsyncChannel(near).recv()
            with pytest.raises(ChannelClosedError):
                Channel(near).send("anything")
            with pytest.raises(ChannelClosedError):
                await AsyncChannel(near).send("anything")


async def test_closing_wakes_the_receiver(ends: tuple[socket.socket, socket.socket]) -> None:
    channel = AsyncChannel(ends[0])
    waiting = asyncio.create_task(channel.recv())
    await asyncio.sleep(0)
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosedError, match="this end"):
        await waiting
    with pytest.raises(ChannelClosedError, match="this end"):
        await channel.recv()
    with pytest.raises(ChannelClosedError, match="this end"):
        await channel.send(1)


async def test_after_a_send_cut_short_no_other_follows(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel = AsyncChannel(ends[0])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await channel.send("large", [bytes(50_000_000)])
    with pytest.raises(ChannelClosedError, match="cut short"):
        await channel.send("next")


# ---- errors and deaths ------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.two = two

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return OwnError, (1, self.two)


class StubbornError(Exception):
    """Cannot be read back: pickle calls it with the message alone."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_the_function_s_error_arrives_as_itself_with_its_traceback(run: Run) -> None:
    def fail() -> None:
        raise OwnError(1, 2)

    with pytest.raises(OwnError, match="1 and 2") as caught:
        run(lambda: answer(fail))
    assert caught.value.two == 2
    (note,) = caught.value.__notes__
    assert note.startswith("raised in aiolit-worker (process ")
    assert "raise OwnError(1, 2)" in note


def test_an_error_that_cannot_travel_is_named(run: Run) -> None:
    def fail() -> None:
        raise StubbornError(1, 2)

    with pytest.raises(RemoteFailure, match="StubbornError: 1 and 2") as caught:
        run(lambda: answer(fail))
    assert "raise StubbornError(1, 2)" in caught.value.__notes__[0]


def test_a_function_that_cannot_be_read_back_is_an_error(run: Run) -> None:
    class Vanished:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return __import__, ("no_such_module_anywhere",)

    vanished = Vanished()
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        run(lambda: answer(lambda: vanished))


DEATHS = {
    "os._exit(3)": "ended with exit code 3",
    "os._exit(0)": "ended with exit code 0",
    "os.kill(os.getpid(), 9)": r"killed by SIGKILL \(the system does that when memory runs out\)",
    "os.kill(os.getpid(), 15)": "killed by SIGTERM",
    "os.abort()": "killed by SIGABRT",
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_dead_worker_is_an_error_that_says_how(run: Run, how: str) -> None:
    def die() -> None:
        exec("import os; " + how)

    async def main() -> None:
        async with WorkerProcess(call, die, name="victim") as worker:
            with pytest.raises(WorkerDiedError, match=rf"victim \(process \d+\).*{DEATHS[how]}"):
                await worker.recv()
            with pytest.raises(WorkerDiedError, match=DEATHS[how]):
                await worker.send("anything")
            assert await worker.wait() == worker.exitcode
            worker.terminate()
            worker.kill()

    run(main)


@pytest.mark.parametrize("nbytes", [0, 30_000])
def test_what_a_worker_sent_before_it_died_arrives(run: Run, nbytes: int) -> None:
    """Also when it died with messages unread, which the kernel reports as a reset."""

    def send_and_die(channel: Channel) -> None:
        for at in range(3):
            channel.send(at, [bytes(nbytes)])
        channel.recv()
        os._exit(0)

    async def main() -> None:
        async with WorkerProcess(send_and_die) as worker:
            for _ in range(3):
                await worker.send("unread", [bytes(10_000)])
            await worker.wait()
            for at in range(3):
                header, (buffer,) = await worker.recv()
                assert (header, buffer.nbytes) == (at, nbytes)
            with pytest.raises(WorkerDiedError, match="exit code 0"):
                await worker.recv()

    run(main)


def test_describe_exit() -> None:
    assert describe_exit(0) == "ended with exit code 0"
    assert describe_exit(-11) == "was killed by SIGSEGV"
    assert describe_exit(-99) == "was killed by signal 99"
    assert describe_exit(None) == "closed its channel"


def test_a_worker_that_closes_its_channel_and_stays(run: Run) -> None:
    def leave(channel: Channel) -> None:
        channel.close()
        threading.Event().wait()

    async def main() -> None:
        async with WorkerProcess(leave, grace_s=0.1) as worker:
            with pytest.raises(WorkerDiedError, match="closed its channel without an answer"):
                await worker.recv()

    run(main)


# ---- ends -------------------------------------------------------------------------------------


def test_leaving_lets_a_waiting_worker_end_by_itself(run: Run) -> None:
    async def main() -> int | None:
        async with WorkerProcess(echo, grace_s=50) as worker:
            await worker.send("hello")
            await worker.recv()
        return worker.exitcode

    assert run(main) == 1


def test_a_function_that_returns_ends_the_process_well(run: Run) -> None:
    async def main() -> int:
        async with WorkerProcess(call, os.getpid) as worker:
            header, _ = await worker.recv()
            assert header == worker.pid != os.getpid()
            return await worker.wait()

    assert run(main) == 0


def test_a_worker_that_takes_too_long_is_killed(run: Run) -> None:
    async def main() -> int | None:
        async with WorkerProcess(wait_for_ever, grace_s=0.05) as worker:
            await worker.recv()
        return worker.exitcode

    assert run(main) == -signal.SIGKILL


def test_leaving_by_an_error_kills_at_once(run: Run) -> None:
    workers: list[WorkerProcess[()]] = []

    async def main() -> None:
        async with WorkerProcess(wait_for_ever, grace_s=50) as worker:
            workers.append(worker)
            await worker.recv()
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        run(main)
    assert workers[0].exitcode == -signal.SIGKILL


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, 50, 500])
def test_cancelled_at_every_moment(run: Run, ticks: int) -> None:
    async def use() -> None:
        async with WorkerProcess(echo, grace_s=50) as worker:
            while True:
                await worker.send("large", [bytes(1_000_000)])
                await worker.recv()

    async def main() -> None:
        task = asyncio.create_task(use())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main)  # that no process or descriptor is left is checked after every test


def test_cancelled_while_it_ends(run: Run) -> None:
    entered = asyncio.Event()

    async def use() -> None:
        async with WorkerProcess(wait_for_ever, grace_s=50) as worker:
            await worker.recv()
            entered.set()

    async def main() -> None:
        task = asyncio.create_task(use())
        await entered.wait()
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main)


def test_terminate(run: Run) -> None:
    async def main() -> None:
        async with WorkerProcess(wait_for_ever) as worker:
            assert repr(worker) == f"<WorkerProcess aiolit-worker, process {worker.pid} runs>"
            await worker.recv()
            worker.terminate()
            assert await worker.wait() == -signal.SIGTERM
        assert repr(worker).endswith("was killed by SIGTERM>")

    run(main)


def test_many_workers_at_once(run: Run) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(os.getpid)) for _ in range(6)]
        assert len({task.result() for task in tasks}) == 6

    run(main)


async def test_it_starts_once() -> None:
    worker = WorkerProcess(call, os.getpid)
    assert repr(worker) == "<WorkerProcess aiolit-worker, not started>"
    for use in (worker.kill, worker.terminate, lambda: worker.pid, lambda: worker.channel):
        with pytest.raises(RuntimeError, match="async with"):
            use()
    async with worker:
        await worker.recv()
    with pytest.raises(RuntimeError, match="starts once"):
        async with worker:
            pass


async def test_what_cannot_be_pickled_starts_nothing() -> None:
    with pytest.raises(TypeError, match="pickle"):
        async with WorkerProcess(call, threading.Lock()):  # type: ignore[arg-type]
            pass


# ---- the interpreter --------------------------------------------------------------------------


async def test_path_folder_arguments_and_level_are_the_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("value = 42")
    # Would break an interpreter that looked for its own modules here.
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["train.py", "--fast"])
    logger = logging.getLogger("aiolit")
    monkeypatch.setattr(logger, "level", logging.DEBUG)

    def look() -> tuple[object, ...]:
        value = __import__("only_here").value
        level = logging.getLogger("aiolit").level
        stdin = sys.stdin.read()
        return value, sys.path, os.getcwd(), sys.argv, level, stdin

    expected = (42, sys.path, str(tmp_path), ["train.py", "--fast"], logging.DEBUG, "")
    assert await answer(look) == expected


async def test_it_inherits_no_descriptor_but_its_socket() -> None:
    def look() -> list[int]:
        return [fd for fd in range(1000) if os.path.exists(f"/proc/self/fd/{fd}")][3:]

    near, far = socket.socketpair()
    near.set_inheritable(True)
    with near, far:
        assert len(await answer(look)) == 1


async def test_what_it_starts_does_not_hold_the_socket() -> None:
    """Else the parent would wait for the end of the stream until the grandchild ends."""

    def start() -> int:
        return subprocess.Popen(["sleep", "100"], close_fds=False).pid

    async with WorkerProcess(call, start) as worker:
        grandchild, _ = await worker.recv()
        with pytest.raises(WorkerDiedError, match="exit code 0"):
            await worker.recv()
    os.kill(grandchild, signal.SIGKILL)


async def test_ctrl_c_is_left_to_the_parent() -> None:
    def survive(channel: Channel) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        # What the function starts dies of it as usual.
        other = subprocess.Popen(["sleep", "100"])
        other.send_signal(signal.SIGINT)
        channel.send((signal.SIGINT in mask, other.wait()))

    async with WorkerProcess(survive) as worker:
        assert (await worker.recv())[0] == (False, -signal.SIGINT)


async def test_ctrl_c_while_it_starts(capfd: pytest.CaptureFixture[str]) -> None:
    async with WorkerProcess(call, os.getpid) as worker:
        for _ in range(3):
            os.kill(worker.pid, signal.SIGINT)
            await asyncio.sleep(0)
        assert (await worker.recv())[0] == worker.pid
    assert capfd.readouterr() == ("", "")


async def test_output_passes_through(capfd: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        sys.stdout.write("out\n")
        sys.stderr.write("err\n")

    await answer(speak)
    assert capfd.readouterr() == ("out\n", "err\n")


async def test_the_function_s_own_exit_code() -> None:
    def leave(channel: Channel) -> None:
        sys.exit(9)

    async with WorkerProcess(leave) as worker:
        assert await worker.wait() == 9


SCRIPT = """\
import asyncio, os, sys, warnings
from aiolit.runtime.portal import portal
from aiolit.runtime.worker_process import WorkerProcess

print("the script runs", flush=True)

class Mine:
    def __init__(self, value):
        self.value = value

class MineError(Exception):
    pass

def work(channel):
    while True:
        mine, _ = channel.recv()
        if mine.value > 2:
            raise MineError(mine.value)
        channel.send(Mine(mine.value + 1))

async def main():
    async with WorkerProcess(work) as worker:
        await worker.send(Mine(1))
        answer, _ = await worker.recv()
        assert type(answer) is Mine and answer.value == 2
        await worker.send(Mine(3))
        try:
            await worker.recv()
        except MineError as error:
            print("error", error, flush=True)

"""


@pytest.mark.parametrize("run_line", ["asyncio.run(main())", "portal().call(main)"])
def test_main_is_never_imported_and_its_classes_travel(run_python: Any, run_line: str) -> None:
    """A script without a ``__main__`` guard."""
    done = run_python(SCRIPT + run_line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the script runs\nerror 3\n"


@pytest.mark.parametrize("flags", [["-O"], ["-OO"], ["-Xutf8"], ["-Werror::UserWarning"], ["-s"]])
def test_interpreter_flags_are_inherited(run_python: Any, flags: list[str]) -> None:
    source = """
    import asyncio, sys
    from aiolit.runtime.worker_process import WorkerProcess

    def look(channel):
        kept = ("optimize", "utf8_mode", "no_user_site", "dev_mode")
        channel.send(([getattr(sys.flags, name) for name in kept], sys.warnoptions))

    async def main():
        async with WorkerProcess(look) as worker:
            return (await worker.recv())[0]

    class Here:
        def send(self, found):
            self.found = found

    here = Here()
    look(here)
    found = asyncio.run(main())
    if found != here.found:
        sys.exit(f"{found} is not {here.found}")
    """
    done = run_python(source, flags=flags)
    assert (done.returncode, done.stderr) == (0, "")


DYING = """\
import asyncio, os, sys
from aiolit.runtime.portal import portal
from aiolit.runtime.worker_process import WorkerProcess

def busy(channel):
    channel.send("began")
    while True:
        pass

async def main():
    async with WorkerProcess(busy) as worker:
        await worker.recv()
        print(worker.pid, flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), 9)

"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("run_line", ["asyncio.run(main())", "portal().call(main)"])
def test_a_busy_worker_dies_with_its_parent(run_line: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, "-c", DYING + run_line],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.stdin.write(b"die\n")
            parent.stdin.flush()
            assert parent.wait(30) == -signal.SIGKILL
            ended, _, _ = select.select([pidfd], [], [], 30)
            assert ended
        finally:
            os.close(pidfd)


INTERRUPTED = """\
import asyncio, os, signal, sys, threading
from aiolit.runtime.portal import portal
from aiolit.runtime.worker_process import WorkerProcess

def wait(channel):
    channel.send("began")
    threading.Event().wait()

async def main():
    async with WorkerProcess(wait, grace_s=50) as worker:
        await worker.recv()
        print(worker.pid, flush=True)
        os.killpg(0, signal.SIGINT)
        await asyncio.Event().wait()

try:
    portal().call(main)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_to_all_ends_them_quietly(run_python: Any) -> None:
    done = run_python(INTERRUPTED)
    pid, word = done.stdout.split()
    assert (done.returncode, done.stderr, word) == (0, "", "interrupted")
    assert not Path(f"/proc/{pid}").exists()


def test_exit_while_a_worker_runs(run_python: Any) -> None:
    source = INTERRUPTED.replace("os.killpg(0, signal.SIGINT)", "began.set()")
    source = source[: source.index("try:")]
    done = run_python(source + "began = threading.Event(); portal().submit(main); began.wait()")
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
