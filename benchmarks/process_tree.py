"""Running a command and watching what it and its descendants hold."""

from __future__ import annotations

__all__ = ["Finished", "run"]

import dataclasses
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LOOK_EVERY_S = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that has ended."""

    output: str
    errors: str
    returncode: int
    peak_bytes: int
    """The most RssAnon + RssShmem that its processes held together, looked at 50 times a second.
    Pages that a fork shares are counted in each process."""


def run(command: list[str], *, env: dict[str, str], timeout_s: float) -> Finished:
    """Run a command to its end, or to its timeout, and leave no descendant of it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=env,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_s
        peak = 0
        try:
            while True:
                try:
                    process.wait(timeout=_LOOK_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    peak = max(peak, sum(map(_held_bytes, _tree(process.pid))))
                if time.monotonic() > deadline:
                    break
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Finished(
            output=_text(out), errors=_text(err), returncode=process.returncode, peak_bytes=peak
        )


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _tree(pid: int) -> list[int]:
    """A process and its descendants, as far as they still live."""
    found = [pid]
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += _tree(int(child))
    return found


def _held_bytes(pid: int) -> int:
    held = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                held += int(line.split()[1]) * 1024
    return held
