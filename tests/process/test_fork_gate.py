"""Forks of other threads wait while a process is being started."""

from __future__ import annotations

import os
import threading

from aiolit.runtime.fork_gate import no_fork


def test_a_fork_waits_for_the_gate() -> None:
    """The child is a copy of the process after the gate was opened, never of one before."""
    opened: list[bool] = []
    codes: list[int] = []
    begun = threading.Event()

    def fork() -> None:
        begun.set()
        pid = os.fork()
        if not pid:
            os._exit(0 if opened else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    for _ in range(20):
        opened.clear()
        begun.clear()
        thread = threading.Thread(target=fork)
        with no_fork():
            thread.start()
            begun.wait()
            opened.append(True)
        thread.join()
    assert codes == [0] * 20


def test_the_thread_that_holds_it_may_fork_and_so_may_its_child() -> None:
    with no_fork():
        pid = os.fork()
    if not pid:
        with no_fork():
            grandchild = os.fork()
        if not grandchild:
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
