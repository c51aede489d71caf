"""Worker processes: fresh interpreters, joined to the event loop by a socket.

A worker never imports the user's ``__main__``: its function and arguments travel by cloudpickle, so
scripts without a ``__main__`` guard and notebooks work. It dies with its parent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVarTuple

import cloudpickle

from aiolit.errors import WorkerDiedError
from aiolit.runtime.channel import (
    DEFAULT_LIMITS,
    AsyncChannel,
    BytesLike,
    Channel,
    ChannelClosedError,
    ChannelLimits,
)
from aiolit.runtime.fork_gate import no_fork
from aiolit.runtime.worker_entry import Assignment, Crash

__all__ = ["WorkerProcess", "describe_exit"]

Ts = TypeVarTuple("Ts")

# Sets the parent's import path before anything of ours is imported, from the line that comes first
# on the socket.
_BOOTSTRAP = """\
import json, os, sys
fd = int(sys.argv[1])
with os.fdopen(fd, "rb", 0, closefd=False) as first:
    sys.path[:] = json.loads(first.readline())
from aiolit.runtime.fork_gate import no_fork
from aiolit.runtime.worker_entry import main
main(fd)
"""
# As much as the kernel grants, so that a sender seldom waits for the reader.
_SOCKET_BUFFER_NBYTES = 4 * 2**20


class WorkerProcess(Generic[*Ts]):
    """A fresh interpreter that runs ``function(channel, *args)``.

    ``async with WorkerProcess(function, *args) as worker`` starts it. Leaving the block closes the
    channel and waits for the end of the process, which is killed if it takes longer than
    ``grace_s``, and at once when the block is left by an error or cancellation. Then no process,
    zombie or descriptor is left.

    Start it on a thread that lives as long as the worker shall (the portal's does): Linux kills a
    child with the thread that started it. Ctrl-C does not reach the function; the parent decides.

    Args:
        function: Runs in the worker with its ``Channel``; anything cloudpickle takes, from
            ``__main__`` too.
        args: Its further arguments.
        name: For process lists and error messages.
        limits: What one message may measure.
        grace_s: How many seconds a worker may take to end by itself.
    """

    def __init__(
        self,
        function: Callable[[Channel, *Ts], object],
        *args: *Ts,
        name: str = "aiolit-worker",
        limits: ChannelLimits = DEFAULT_LIMITS,
        grace_s: float = 5.0,
    ) -> None:
        self.name = name
        self._work = (function, args)
        self._limits = limits
        self._grace_s = grace_s
        self._exited = asyncio.Event()
        self._popen: subprocess.Popen[bytes] | None = None
        self._channel: AsyncChannel | None = None

    @property
    def pid(self) -> int:
        """The process id; it stays readable after the end."""
        return self._running().pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs; then the exit code, or minus the number of the fatal signal."""
        return self._running().returncode

    @property
    def channel(self) -> AsyncChannel:
        """The socket to the worker; ``send`` and ``recv`` here also say why a worker is gone."""
        if self._channel is None:
            raise RuntimeError("the worker has not been started: use `async with`")
        return self._channel

    async def send(self, header: object, buffers: Sequence[BytesLike] = ()) -> None:
        """Send a message to the worker.

        Raises:
            WorkerDiedError: The worker has ended; it says how.
            ChannelLimitError: The message is too large; nothing was sent.
        """
        try:
            await self.channel.send(header, buffers)
        except ChannelClosedError as error:
            raise await self._death() from error

    async def recv(self) -> tuple[Any, list[memoryview]]:
        """Wait for a message from the worker; a cancelled wait loses nothing.

        Raises:
            WorkerDiedError: The worker has ended; it says how.
            BaseException: What the worker's function raised, with a note that holds its traceback.
        """
        try:
            header, buffers = await self.channel.recv()
        except ChannelClosedError as error:
            raise await self._death() from error
        if isinstance(header, Crash):
            raise header.error.unpack(f"{self.name} (process {self.pid})")
        return header, buffers

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""
        await self._exited.wait()
        return self._running().wait()

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM); nothing happens if it has ended."""
        self._running().terminate()

    def kill(self) -> None:
        """End the process at once (SIGKILL); nothing happens if it has ended."""
        self._running().kill()

    async def __aenter__(self) -> Self:
        if self._popen is not None:
            raise RuntimeError("a WorkerProcess starts once")
        payload = cloudpickle.dumps(self._work)
        try:
            with no_fork():
                ours, theirs = socket.socketpair()
                self._channel = AsyncChannel(ours, self._limits)
                with theirs:
                    for end in (ours, theirs):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_NBYTES)
                    self._popen = _start(theirs)
            self._watch(self._popen)
            await self._assign(payload)
        except BaseException:
            await self._end(at_once=True)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(at_once=exc is not None)

    async def _assign(self, payload: bytes) -> None:
        paths = [os.fsdecode(path) for path in sys.path]
        assignment = Assignment(
            name=self.name,
            parent=os.getpid(),
            argv=list(sys.argv),
            log_levels={name: logging.getLogger(name).level for name in ("", "aiolit")},
            limits=self._limits,
        )
        try:
            await self.channel.send_line(json.dumps(paths).encode())
            await self.channel.send(assignment, [payload])
        except ChannelClosedError as error:
            raise await self._death() from error

    def _watch(self, popen: subprocess.Popen[bytes]) -> None:
        """Have the loop wake us, and reap the process, when it ends."""
        loop = asyncio.get_running_loop()
        try:
            pidfd = os.pidfd_open(popen.pid)
        except (AttributeError, OSError):  # not Linux, or one before 5.3: a thread waits instead
            ended = loop.run_in_executor(None, popen.wait)
            ended.add_done_callback(lambda _: self._exited.set())
            return

        def readable() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            popen.wait()  # it has ended: this takes its exit code and leaves no zombie
            self._exited.set()

        loop.add_reader(pidfd, readable)

    async def _end(self, *, at_once: bool) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._popen is None:
            return
        try:
            if not at_once:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._grace_s):
                        await self._exited.wait()
        finally:
            # poll() inside asks the kernel, so that a recycled pid is never hit.
            self._popen.kill()
            await self._reaped()

    async def _reaped(self) -> None:
        """Wait for the end of a killed process, also while being cancelled once more."""
        interrupted: asyncio.CancelledError | None = None
        while not self._exited.is_set():
            try:
                await self._exited.wait()
            except asyncio.CancelledError as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    async def _death(self) -> WorkerDiedError:
        """Describe the end of a worker that has closed its channel, and is about to exit or has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                await self._exited.wait()
        return WorkerDiedError(
            f"{self.name} (process {self.pid}) {describe_exit(self.exitcode)} without an answer"
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError("the worker has not been started: use `async with`")
        return self._popen

    def __repr__(self) -> str:
        if self._popen is None:
            return f"<WorkerProcess {self.name}, not started>"
        state = "runs" if self.exitcode is None else describe_exit(self.exitcode)
        return f"<WorkerProcess {self.name}, process {self.pid} {state}>"


def describe_exit(exitcode: int | None) -> str:
    """Say how a process ended: ``describe_exit(-9)`` names SIGKILL and its usual reason."""
    if exitcode is None:
        return "closed its channel"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    why = " (the system does that when memory runs out)" if -exitcode == signal.SIGKILL else ""
    return f"was killed by {name}{why}"


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise WorkerDiedError(
            "sys.executable is empty: there is no interpreter to start workers with"
        )
    fd = theirs.fileno()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # -P: the working directory must not shadow the standard library before the parent's path is
    # set.
    command = [sys.executable, *flags, "-P", "-c", _BOOTSTRAP, str(fd)]
    with _interrupt_blocked():
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(fd,))


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """Have a child started here begin with SIGINT blocked, until it has its handler.

    A Ctrl-C while it imports would end it with a traceback on the terminal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
