"""What a worker process runs: its first message, then the function that came with it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import cloudpickle

from aiolit.runtime.channel import Channel, ChannelClosedError, ChannelLimits
from aiolit.runtime.remote_error import RemoteError

__all__ = ["Assignment", "Crash", "main"]

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


@dataclass(frozen=True, slots=True)
class Assignment:
    """The header of the first message; its one buffer is the pickled function and arguments.

    Attributes:
        name: What to call the process.
        parent: The pid of the process that must outlive this one.
        argv: ``sys.argv`` of the parent.
        log_levels: Levels of the loggers by name.
        limits: What a message may measure.
    """

    name: str
    parent: int
    argv: list[str]
    log_levels: dict[str, int]
    limits: ChannelLimits


@dataclass(frozen=True, slots=True)
class Crash:
    """The header of the last message of a worker whose function raised."""

    error: RemoteError


def main(fd: int) -> None:
    """Run the assignment that arrives on a socket, and end the interpreter.

    Exit code 0: the function returned. 1: it raised, which the parent is told; or the channel was
    closed under it.
    """
    signal.signal(signal.SIGINT, _leave_to_parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    try:
        assignment, (payload,) = Channel(sock).recv()
    except ChannelClosedError:
        sys.exit(1)
    assert isinstance(assignment, Assignment)
    _tie_to_parent(assignment.parent, assignment.name)
    sys.argv[:] = assignment.argv
    for name, level in assignment.log_levels.items():
        logging.getLogger(name).setLevel(level)
    channel = Channel(sock, assignment.limits)
    sys.exit(_work(channel, payload))


def _work(channel: Channel, payload: memoryview) -> int:
    try:
        function, args = cloudpickle.loads(payload)
        payload.release()
        function(channel, *args)
    except ChannelClosedError:
        return 1  # the parent has left or died, and knows
    except Exception as error:  # noqa: BLE001 - travels to the parent
        with suppress(ChannelClosedError):
            channel.send(Crash(RemoteError.pack(error)))
            return 1
        traceback.print_exc()  # nobody is left to tell
        return 1
    finally:
        channel.close()
    return 0


def _leave_to_parent(signum: int, frame: FrameType | None) -> None:
    """Do nothing on Ctrl-C, which the terminal sends to every process: the parent decides.

    A handler, not SIG_IGN, which programs started by the function would inherit.
    """


def _tie_to_parent(parent: int, name: str) -> None:
    """Have the kernel kill this process when its parent dies, even while the function computes."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
