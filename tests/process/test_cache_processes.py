"""One cache folder, several real processes: some of them die, some of them fork."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import pytest

from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.cache.ledger import Ledger, disk_bytes

SPACE = "0123456789abcdef-0123456789ab"
SIZE = 30_000
EMPTY = 61_440  # what the limit sets aside for the book and two folders on a usual file system

# Obeys one line at a time. Every fill is logged in a file that all children share, with what then
# lay in the folder.
CHILD = """
import asyncio, json, os, random, sys
from pathlib import Path
from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.testing.cache_folder import cache_disk_usage

root, limit, log, seed = Path(sys.argv[1]), int(sys.argv[2]) or None, sys.argv[3], int(sys.argv[4])
SPACE, SIZE = sys.argv[5], int(sys.argv[6])
cache = ChunkCache(CacheConfig(root, limit), SPACE)
held, chance = {}, random.Random(seed)


def say(*words):
    print(json.dumps(words), flush=True)


def content(name):
    return (name.encode() * SIZE)[:SIZE]


def fill_of(name, stuck):
    async def fill(target):
        target[: SIZE // 2] = content(name)[: SIZE // 2]
        if stuck:
            say("filling")
            await asyncio.Event().wait()
        target[:] = content(name)
        note = json.dumps([name, cache_disk_usage(root), os.getpid()]) + "\\n"
        with open(log, "a") as file:
            file.write(note)

    return fill


async def get(name, stuck=False):
    found = await cache.get(name, SIZE, fill_of(name, stuck))
    if found is None:
        return None
    assert bytes(found[0].data) == content(name), name
    return found


async def work(names, rounds):
    got = refused = 0
    for _ in range(rounds):
        some = chance.sample(names, 2)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(get(name)) for name in some]
        for task in tasks:
            found = task.result()
            if found is None:
                refused += 1
            else:
                got += 1
                found[0].close(spent=chance.random() < 0.5)
    return got, refused


async def main():
    loop = asyncio.get_running_loop()
    say("ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        verb, *rest = json.loads(line)
        if verb == "get":
            found = await get(rest[0])
            if found is not None:
                held[rest[0]] = found[0]
            say(found is not None, found is not None and found[1])
        elif verb == "stuck":
            await get(rest[0], stuck=True)
        elif verb == "release":
            held.pop(rest[0]).close()
            say("released")
        elif verb == "work":
            say(*await work(*rest))


asyncio.run(main())
"""


class Child:
    """A process that uses the cache as it is told."""

    def __init__(self, script: Path, *arguments: str) -> None:
        root = Path(__file__).parent.parent.parent
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root), "PYTHONFAULTHANDLER": "1"},
            text=True,
        )
        assert self.answer() == ["ready"]

    def tell(self, *words: object) -> Self:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self

    def answer(self) -> list[Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait(10)}"
        found: list[Any] = json.loads(line)
        return found

    def ask(self, *words: object) -> list[Any]:
        return self.tell(*words).answer()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait(30)


class Host:
    """A cache folder and the processes that share it."""

    def __init__(self, folder: Path) -> None:
        self.root, self._log, self._script = folder / "cache", folder / "log", folder / "child.py"
        self._script.write_text(CHILD)
        self._log.touch()
        self._children: list[Child] = []

    def child(self, limit: int = 0) -> Child:
        seed = str(len(self._children))
        arguments = (str(self.root), str(limit), str(self._log), seed, SPACE, str(SIZE))
        self._children.append(Child(self._script, *arguments))
        return self._children[-1]

    def fills(self) -> list[tuple[str, int]]:
        """List each fill with the bytes that lay in the folder at its end."""
        return [tuple(json.loads(line)[:2]) for line in self._log.read_text().splitlines()]

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.root / SPACE).iterdir())

    def close(self) -> None:
        for child in self._children:
            child.kill()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    opened = Host(tmp_path)
    yield opened
    opened.close()


def test_a_file_is_fetched_once_by_all(host: Host) -> None:
    """Four processes want the same twenty files at the same time, in other orders."""
    names = [f"c{n}" for n in range(20)]
    children = [host.child() for _ in range(4)]
    for child in children:
        child.tell("work", names, 60)
    assert [child.answer() for child in children] == [[120, 0]] * 4
    assert Counter(name for name, _ in host.fills()) == dict.fromkeys(names, 1)
    assert host.files() == sorted(names)


def test_the_limit_holds_at_every_instant(host: Host) -> None:
    """Four processes fight for room for three files: none waits, none breaks the limit."""
    limit = EMPTY + 3 * disk_bytes(SIZE)
    children = [host.child(limit) for _ in range(4)]
    for child in children:
        child.tell("work", [f"c{n}" for n in range(10)], 60)
    answers = [child.answer() for child in children]
    assert all(got + refused == 120 for got, refused in answers)
    assert sum(got for got, _ in answers) > 100
    fills = host.fills()
    assert len(fills) > 30
    assert max(used for _, used in fills) <= limit
    assert sum(Ledger(host.root).paths().values()) <= limit
    assert sorted(Ledger(host.root).paths()) == [f"{SPACE}/{name}" for name in host.files()]


def test_another_takes_over_from_a_killed_one(host: Host) -> None:
    filling, waiting = host.child(), host.child()
    assert filling.ask("stuck", "a") == ["filling"]
    waiting.tell("get", "a")
    filling.kill()
    assert waiting.answer() == [True, True]
    assert host.files() == ["a"]


def test_a_killed_reader_holds_nothing(host: Host) -> None:
    limit = EMPTY + disk_bytes(SIZE)
    reading, other = host.child(limit), host.child(limit)
    assert reading.ask("get", "a") == [True, True]
    assert other.ask("get", "b") == [False, False]
    reading.kill()
    assert other.ask("get", "b") == [True, True]
    assert host.files() == ["b"]


def test_a_killed_fetcher_reserves_nothing(host: Host) -> None:
    limit = EMPTY + disk_bytes(SIZE)
    filling, other = host.child(limit), host.child(limit)
    assert filling.ask("stuck", "a") == ["filling"]
    assert other.ask("get", "b") == [False, False]
    filling.kill()
    assert other.ask("get", "b") == [True, True]
    assert host.files() == ["b"]


def test_killed_at_random(host: Host) -> None:
    """Whenever a process dies, those that are left go on, and a new one finds all in order."""
    limit, chance = EMPTY + 4 * disk_bytes(SIZE), random.Random(7)
    names = [f"c{n}" for n in range(8)]
    steady = host.child(limit).tell("work", names, 300)
    for _ in range(6):
        doomed = host.child(limit).tell("work", names, 10_000)
        seen = len(host.fills())
        while len(host.fills()) < seen + chance.randrange(2, 12):
            assert steady.process.poll() is None
        doomed.kill()
    assert sum(steady.answer()) == 600
    assert max(used for _, used in host.fills()) <= limit
    cache = ChunkCache(CacheConfig(host.root, limit), SPACE)
    cache.reclaim()
    assert [name for name in host.files() if name.endswith(".part")] == []
    assert sorted(Ledger(host.root).paths()) == [f"{SPACE}/{name}" for name in host.files()]
    assert sum(host.child(limit).ask("work", names, 20)) == 40


# ---- forks -------------------------------------------------------------------------------------


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Any: ...


COMMON = """
    import asyncio, os, sys, threading
    from pathlib import Path
    from aiolit.cache.chunks import CacheConfig, ChunkCache
    from aiolit.cache.ledger import Ledger

    root, limit = Path(sys.argv[1]), int(sys.argv[2]) or None
    SPACE, SIZE = "0123456789abcdef-0123456789ab", 30_000
    cache = ChunkCache(CacheConfig(root, limit), SPACE)

    async def fill(target):
        target[:] = b"x" * len(target)

    def get(cache, name):
        found = asyncio.run(cache.get(name, SIZE, fill))
        return None if found is None else found[0]

    def child(work):
        seen, begun = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.write(begun, b"x")
                code = work() or 0
            finally:
                os._exit(code)
        os.read(seen, 1)  # until then it may hold what it inherited
        os.close(seen)
        os.close(begun)
        return pid

    go, wait = os.pipe()

    def until_told():
        # What a child does: wait for the parent's word, or its end.
        os.close(wait)
        os.read(go, 1)

    def ended(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def script(tmp_path: Path, run_python: RunPython) -> Callable[[str, int], None]:
    def run(source: str, limit: int) -> None:
        found = run_python(COMMON + source, str(tmp_path / "cache"), str(limit))
        assert found.returncode == 0, found.stdout + found.stderr

    return run


def test_a_forked_child_keeps_no_lock(script: Callable[[str, int], None]) -> None:
    """A parent with open leases forks a child that lives on: what the parent lets go is free."""
    source = """
    lease = get(cache, "a")
    pid = child(lambda: until_told() or lease.close())
    assert get(cache, "b") is None
    lease.close()
    again = get(cache, "b")
    assert again is not None
    assert os.listdir(root / SPACE) == ["b"]
    os.write(wait, b"x")
    assert ended(pid) == 0
    again.close()
    """
    script(source, EMPTY + disk_bytes(SIZE))


def test_a_fork_in_a_fetch(script: Callable[[str, int], None]) -> None:
    """The child of a fetching process neither holds nor harms the fetch."""
    source = """
    async def forking(target):
        global pid
        pid = child(until_told)
        target[:] = b"y" * len(target)

    found = asyncio.run(cache.get("a", SIZE, forking))
    found[0].close()
    lease = get(cache, "b")
    assert lease is not None and os.listdir(root / SPACE) == ["b"]
    os.write(wait, b"x")
    assert ended(pid) == 0
    """
    script(source, EMPTY + disk_bytes(SIZE))


def test_forks_while_the_ledger_is_written(script: Callable[[str, int], None]) -> None:
    """A fork never falls into a transaction of another thread."""
    source = """
    stop = threading.Event()

    def write():
        ledger, number = Ledger(root), 0
        while not stop.is_set():
            number += 1
            ledger.reserve(f"x/{number % 50}", 1000, None, float(number), lambda key: True)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()

    def work():
        get(cache, "mine").close()
        Ledger(root).reserve(f"y/{os.getpid()}", 1000, None, 0.0, lambda key: True)

    for _ in range(40):
        assert ended(child(work)) == 0
    stop.set()
    for thread in threads:
        thread.join()
    import sqlite3
    book = sqlite3.connect(root / "ledger.sqlite3")
    assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert book.execute("SELECT count(*) FROM files WHERE path LIKE 'y/%'").fetchone() == (40,)
    """
    script(source, 0)


def test_a_waiting_process_can_end(host: Host, script: Callable[[str, int], None]) -> None:
    """Nobody waits at exit for a file that another process fetches."""
    assert host.child().ask("stuck", "a") == ["filling"]
    source = """
    async def main():
        task = asyncio.create_task(cache.get("a", SIZE, fill))
        while not any(thread.name == "aiolit-wait" for thread in threading.enumerate()):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    """
    script(source, 0)
    assert host.files() == ["a.part"]


def test_a_stopped_process_is_waited_for(host: Host) -> None:
    filling, waiting = host.child(), host.child()
    filling.tell("work", [f"c{n}" for n in range(5)], 200)
    waiting.tell("work", [f"c{n}" for n in range(5)], 200)
    filling.process.send_signal(signal.SIGSTOP)
    filling.process.send_signal(signal.SIGCONT)
    assert filling.answer() == waiting.answer() == [400, 0]
