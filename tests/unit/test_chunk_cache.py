"""The cache of one process: its limit, its leases, and what it leaves when things fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiolit.cache.base import Fill
from aiolit.cache.chunks import CacheConfig, ChunkCache, Lease
from aiolit.cache.ledger import Ledger, disk_bytes
from aiolit.cache.locks import FileLock
from aiolit.errors import CacheError, ObjectNotFoundError

SPACE = "0123456789abcdef-0123456789ab"
SIZE = 30_000  # takes eight blocks
EMPTY = 61_440  # what the limit sets aside for the book and two folders on a usual file system


def used(root: Path) -> int:
    """Sum the blocks of all that lies in a folder, the folder itself included."""
    total = root.stat().st_blocks * 512
    for path in root.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def content(name: str, nbytes: int) -> bytes:
    return (name.encode() * (nbytes // len(name) + 1))[:nbytes]


class Filler:
    """Fills files with what their name says, and looks at the folder each time."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.peak = root, 0, 0

    def of(self, name: str) -> Fill:
        async def fill(target: memoryview) -> None:
            self.calls += 1
            await asyncio.sleep(0)
            target[:] = content(name, len(target))
            self.peak = max(self.peak, used(self.root))

        return fill


def opened(root: Path, limit: int | None) -> ChunkCache:
    return ChunkCache(CacheConfig(root, limit), SPACE)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / SPACE).iterdir())


async def leased(cache: ChunkCache, filler: Filler, name: str, nbytes: int = SIZE) -> Lease:
    found = await cache.get(name, nbytes, filler.of(name))
    assert found is not None
    return found[0]


@pytest.fixture
def filler(tmp_path: Path) -> Filler:
    return Filler(tmp_path)


async def test_fetched_once_and_mapped(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, None)
    first = await cache.get("a", SIZE, filler.of("a"))
    again = await cache.get("a", SIZE, filler.of("a"))
    assert first is not None
    assert again is not None
    assert (first[1], again[1]) == (True, False)
    assert bytes(first[0].data) == bytes(again[0].data) == content("a", SIZE)
    assert filler.calls == 1
    first[0].close()
    again[0].close()
    again[0].close()
    assert files(tmp_path) == ["a"]
    other = opened(tmp_path, None)
    lease = other.lookup("a", SIZE)
    assert lease is not None
    lease.close()
    assert other.lookup("b") is None


async def test_an_empty_file(tmp_path: Path, filler: Filler) -> None:
    lease = await leased(opened(tmp_path, None), filler, "e", 0)
    assert bytes(lease.data) == b""
    lease.close()


async def test_many_callers_share_one_fetch(tmp_path: Path, filler: Filler) -> None:
    """More of them than the executor has threads."""
    cache = opened(tmp_path, None)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leased(cache, filler, "a")) for _ in range(200)]
    assert filler.calls == 1
    for task in tasks:
        task.result().close()


async def test_a_failure_is_shared_and_leaves_nothing(tmp_path: Path) -> None:
    cache, calls = opened(tmp_path, None), 0
    error = ObjectNotFoundError("there is no object s3://b/a", url="s3://b/a")
    # With one thread all callers have looked, and wait, before the first one's fetch begins.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    async def fill(target: memoryview) -> None:
        nonlocal calls
        calls += 1
        part = target[10:20]
        part[:] = b"0123456789"
        await asyncio.sleep(0)
        raise error

    async def ask() -> None:
        with pytest.raises(ObjectNotFoundError) as caught:
            await cache.get("a", SIZE, fill)
        assert caught.value is error

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(ask())
    assert calls == 1
    assert files(tmp_path) == []
    assert Ledger(tmp_path).paths() == {}
    error.__traceback__ = None


async def test_the_next_takes_over_from_a_cancelled_one(tmp_path: Path, filler: Filler) -> None:
    cache, began = opened(tmp_path, None), asyncio.Event()

    async def never(target: memoryview) -> None:
        began.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(cache.get("a", SIZE, never))  # cancelled below
    await began.wait()
    second = asyncio.create_task(leased(cache, filler, "a"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (await second).close()
    assert files(tmp_path) == ["a"]


@pytest.mark.parametrize("others", [0, 1])
async def test_cancelled_at_every_step(tmp_path: Path, filler: Filler, others: int) -> None:
    """Whatever moment a cancellation hits: no part, no reservation, no descriptor stays."""
    cache, step, ended = opened(tmp_path, None), 0, False
    while not ended:
        name = f"f{step}"
        task = asyncio.create_task(cache.get(name, SIZE, filler.of(name)))
        beside = [asyncio.create_task(leased(cache, filler, name)) for _ in range(others)]
        for _ in range(step):
            await _turn(task)
        ended = task.done()
        task.cancel()
        try:
            found = await task
        except asyncio.CancelledError:
            pass
        else:
            assert found is not None
            found[0].close()
        for one in beside:
            (await one).close()
        assert not [path for path in files(tmp_path) if path.endswith(".part")]
        assert sorted(Ledger(tmp_path).paths()) == [f"{SPACE}/{path}" for path in files(tmp_path)]
        step += 1
    assert step > 5


async def _turn(task: asyncio.Task[object]) -> None:
    """Let a task run to its next wait for a thread, and that thread end."""
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def test_limit_at_every_instant(tmp_path: Path, filler: Filler) -> None:
    """Everything in the folder counts: parts, the book and its journal, the folders."""
    limit = EMPTY + 3 * disk_bytes(SIZE)
    cache = opened(tmp_path, limit)
    for number in range(40):
        lease = await leased(cache, filler, f"c{number}")
        assert used(tmp_path) <= limit
        lease.close()
    assert filler.peak <= limit
    assert len(files(tmp_path)) == 3
    assert cache.evictions == 37


async def test_what_is_read_is_not_evicted(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, EMPTY + 2 * disk_bytes(SIZE))
    held = [await leased(cache, filler, name) for name in ("a", "b")]
    assert await cache.get("c", SIZE, filler.of("c")) is None
    assert files(tmp_path) == ["a", "b"]
    assert bytes(held[0].data) == content("a", SIZE)
    held[0].close()
    (await leased(cache, filler, "c")).close()
    assert files(tmp_path) == ["b", "c"]
    held[1].close()


async def test_used_up_goes_first_then_the_oldest(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, EMPTY + 3 * disk_bytes(SIZE))
    for name in "abc":
        (await leased(cache, filler, name)).close(spent=name == "b")
    (await leased(cache, filler, "d")).close()
    assert files(tmp_path) == ["a", "c", "d"]
    (await leased(cache, filler, "a")).close()  # used again
    (await leased(cache, filler, "e")).close()
    assert files(tmp_path) == ["a", "d", "e"]


async def test_what_the_last_epoch_left_outlives_what_this_one_used_up(
    tmp_path: Path, filler: Filler
) -> None:
    """Read round and round with room for three of five, all but two are there each time."""
    cache, fetched = opened(tmp_path, EMPTY + 3 * disk_bytes(SIZE)), []
    for _ in range(4):
        before = filler.calls
        for name in "abcde":
            (await leased(cache, filler, name)).close(spent=True)
        fetched.append(filler.calls - before)
    assert fetched[0] == 5
    assert max(fetched[1:]) <= 3


@pytest.mark.parametrize("limit", [1, 5000, EMPTY + 4096])
async def test_a_limit_below_one_file(tmp_path: Path, filler: Filler, limit: int) -> None:
    cache = opened(tmp_path, limit)
    assert await cache.get("a", SIZE, filler.of("a")) is None
    assert files(tmp_path) == []
    assert Ledger(tmp_path).paths() == {}


@settings(max_examples=15)
@given(data=st.data())
async def test_random_use_keeps_the_limit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("cache")
    filler, limit = Filler(root), EMPTY + data.draw(st.integers(0, 200_000))
    cache = opened(root, limit)
    held: list[Lease] = []
    try:
        for _ in range(20):
            if data.draw(st.booleans()) and held:
                number = data.draw(st.integers(0, len(held) - 1))
                held.pop(number).close(spent=data.draw(st.booleans()))
                continue
            name = data.draw(st.sampled_from("abcdefgh"))
            found = await cache.get(name, 20_000 + 1000 * ord(name), filler.of(name))
            if found is not None:
                assert bytes(found[0].data) == content(name, len(found[0].data))
                held.append(found[0])
            assert used(root) <= limit
        assert filler.peak <= limit
    finally:
        for lease in held:
            lease.close()


# ---- files that are not what they should be ----------------------------------------------------


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("harm", [_flip, lambda path: os.truncate(path, 100)])
@pytest.mark.parametrize("anew", [True, False])
async def test_a_damaged_file_is_fetched_again(
    tmp_path: Path, filler: Filler, harm: Callable[[Path], None], anew: bool
) -> None:
    cache = opened(tmp_path, None)
    (await leased(cache, filler, "a")).close()
    if anew:
        cache = opened(tmp_path, None)
    else:  # a file that this process has seen, and another one has put in its place since
        path = tmp_path / SPACE / "a"
        raw = path.read_bytes()
        path.unlink()
        path.write_bytes(raw)
    harm(tmp_path / SPACE / "a")
    lease = await leased(cache, filler, "a")
    assert bytes(lease.data) == content("a", SIZE)
    assert filler.calls == 2
    lease.close()


async def test_a_damaged_file_that_is_read_stays_till_then(tmp_path: Path, filler: Filler) -> None:
    lease = await leased(opened(tmp_path, None), filler, "a")
    _flip(tmp_path / SPACE / "a")
    other = opened(tmp_path, None)
    assert await other.get("a", SIZE, filler.of("a")) is None
    lease.close()
    (await leased(other, filler, "a")).close()
    assert filler.calls == 2


async def test_links_are_not_followed(tmp_path: Path, filler: Filler) -> None:
    root, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_bytes(b"x" * SIZE)
    cache = opened(root, None)
    for name in ("a", "a.part", "b.part"):
        (root / SPACE / name).symlink_to(secret)
    for name in "ab":
        lease = await leased(cache, filler, name)
        assert bytes(lease.data) == content(name, SIZE)
        lease.close()
    (root / SPACE / "c").symlink_to(secret)
    cache.reclaim()
    assert files(root) == ["a", "b"]
    assert secret.read_bytes() == b"x" * SIZE


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / SPACE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="symbolic link; give another cache_dir"):
        opened(tmp_path, None)


async def test_names_stay_in_the_folder(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, None)
    names = ["sub/a.bin", "sub%2Fa.bin", "a.part", "a", "a%2Epart"]
    for name in names:
        lease = await leased(cache, filler, name)
        assert bytes(lease.data) == content(name, SIZE)
        lease.close()
    assert filler.calls == len(names)
    assert all(path.is_file() for path in (tmp_path / SPACE).iterdir())


async def test_parts_are_listed(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, None)
    for name in (
        "s/c-0.bin.0-5",
        "s/c-0.bin.10-12",
        "s/c-0.bin",
        "s/c-01.bin.7-9",
        "s/c-0xbin.1-2",
    ):
        (await leased(cache, filler, name)).close()
    assert cache.parts("s/c-0.bin") == [(0, 5), (10, 12)]


# ---- folders that cannot be used ---------------------------------------------------------------


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file" / "cache", Path("/proc/nowhere")):
        with pytest.raises(CacheError, match=r"cannot be made: .*; give another cache_dir"):
            opened(root, None)


async def test_a_ledger_that_is_none(tmp_path: Path, filler: Filler) -> None:
    cache = opened(tmp_path, None)
    (tmp_path / "ledger.sqlite3").write_bytes(b"something else entirely" * 100)
    with pytest.raises(CacheError, match=f"{tmp_path} cannot be used: .*; give another cache_dir"):
        await cache.get("a", SIZE, filler.of("a"))
    with pytest.raises(CacheError):
        cache.reclaim()


async def test_a_folder_cleared_meanwhile(tmp_path: Path, filler: Filler) -> None:
    root = tmp_path / "cache"
    cache = opened(root, EMPTY + 2 * disk_bytes(SIZE))
    held = await leased(cache, filler, "a")
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    assert bytes(held.data) == content("a", SIZE)
    for name in "abcd":
        (await leased(cache, filler, name)).close()
    assert files(root) == ["c", "d"]
    assert len(Ledger(root).paths()) == 2
    held.close()


@pytest.mark.parametrize("what", ["part", "folder", "all"])
async def test_cleared_in_the_middle_of_a_fetch(tmp_path: Path, filler: Filler, what: str) -> None:
    """What is being fetched when somebody clears the folder is not kept, and no error."""
    root = tmp_path / "cache"
    cache = opened(root, EMPTY + 2 * disk_bytes(SIZE))

    async def fill(target: memoryview) -> None:
        target[:] = content("a", SIZE)
        if what == "part":
            (root / SPACE / "a.part").unlink()
        else:
            shutil.rmtree(root / SPACE if what == "folder" else root)

    assert await cache.get("a", SIZE, fill) is None
    for name in "abcd":
        (await leased(cache, filler, name)).close()
    assert files(root) == ["c", "d"]
    assert len(Ledger(root).paths()) == 2


# ---- what the dead leave, and what the living hold ---------------------------------------------


async def test_reclaim(tmp_path: Path, filler: Filler) -> None:
    """What a killed process can leave goes; what is in use, or is not ours, stays."""
    cache = opened(tmp_path, None)
    (await leased(cache, filler, "good")).close()
    folder, ledger = tmp_path / SPACE, Ledger(tmp_path)
    for name in ("dead", "gone", "busy", "unsaid"):
        assert ledger.reserve(f"{SPACE}/{name}", SIZE, None, 0.0, lambda _: True) == 0
    (folder / "dead.part").write_bytes(b"1")
    (folder / "unsaid").write_bytes(b"1")  # renamed, and killed before the book was closed
    (folder / "orphan").write_bytes(b"1")
    (folder / "empty.part").write_bytes(b"")
    (folder / "busy.part").write_bytes(b"1")
    (tmp_path / "movie.part").write_bytes(b"the user's own download")
    lock = FileLock.at(folder / "busy.part")
    lock.exclude()
    cache.reclaim()
    assert files(tmp_path) == ["busy.part", "good"]
    assert sorted(ledger.paths()) == [f"{SPACE}/busy", f"{SPACE}/good"]
    assert (tmp_path / "movie.part").exists()
    lock.close()


async def test_a_dead_reservation_does_not_block_its_own_file(
    tmp_path: Path, filler: Filler
) -> None:
    limit = EMPTY + disk_bytes(SIZE)
    assert Ledger(tmp_path).reserve(f"{SPACE}/a", SIZE, limit, 0.0, lambda _: True) == 0
    cache = opened(tmp_path, limit)
    (tmp_path / SPACE / "a.part").write_bytes(b"0" * 2 * SIZE)
    (await leased(cache, filler, "a")).close()
    assert filler.peak <= limit


async def test_a_foreign_path_in_the_ledger_is_not_removed(tmp_path: Path, filler: Filler) -> None:
    root, victim = tmp_path / "cache", tmp_path / "victim"
    victim.write_bytes(b"1")
    limit = EMPTY + disk_bytes(SIZE)
    cache = opened(root, limit)
    Ledger(root).reserve("x/../../victim", SIZE, limit, 0.0, lambda _: True)
    (await leased(cache, filler, "a")).close()
    assert victim.exists()


@pytest.fixture
def held_parts(tmp_path: Path) -> Iterator[list[FileLock]]:
    """Give the locks of 50 parts that somebody else writes."""
    folder = tmp_path / SPACE
    folder.mkdir()
    locks = [FileLock.at(folder / f"h{n}.part", os.O_RDWR | os.O_CREAT) for n in range(50)]
    for lock in locks:
        lock.exclude()
    yield locks
    for lock in locks:
        lock.close()


async def test_waiting_for_others_starves_nobody(
    tmp_path: Path, filler: Filler, held_parts: list[FileLock]
) -> None:
    """Fifty waits for other processes, more than there are threads, and a fetch goes on."""
    cache = opened(tmp_path, None)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leased(cache, filler, f"h{n}")) for n in range(50)]
        await asyncio.sleep(0)
        (await leased(cache, filler, "free")).close()
        assert not any(task.done() for task in tasks)
        for lock in held_parts:
            lock.close()
    for task in tasks:
        task.result().close()


async def test_a_cancelled_wait_keeps_no_lock(
    tmp_path: Path, filler: Filler, held_parts: list[FileLock]
) -> None:
    cache = opened(tmp_path, None)
    task = asyncio.create_task(leased(cache, filler, "h0"))
    while not _waits():
        await _turn(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / SPACE / "h0.part").exists()  # its writer's
    for lock in held_parts:
        lock.close()
    (await leased(cache, filler, "h0")).close()


def _waits() -> bool:
    return any(thread.name == "aiolit-wait" for thread in threading.enumerate())
