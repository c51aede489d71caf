"""Parts of files in the page cache before they are read."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from aiolit.runtime.read_ahead import ReadAhead
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.reading import RunsReader
from aiolit.streaming.run import Readers
from aiolit.streaming.state import Position
from aiolit.streaming.topology import Topology
from aiolit.testing.datasets import write_dataset

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to")


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    path = tmp_path / "chunk.bin"
    path.write_bytes(b"x" * 64 * MIB)
    forget(path)
    if in_memory(path, 40 * MIB):
        pytest.skip("this file system drops no pages when it is asked to")
    return path


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(path: Path, at: int) -> bool:
    """Whether a page is there; asked of ``mincore``, since to read it would bring it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        place = np.frombuffer(mapped, np.uint8)[at:].ctypes.data
        found = ctypes.create_string_buffer(1)
        assert not LIBC.mincore(ctypes.c_void_p(place), ctypes.c_size_t(1), found)
        return bool(found.raw[0] & 1)


def finish(ahead: ReadAhead) -> None:
    assert ahead._thread is not None
    ahead._wanted.put(None)
    ahead._thread.join()


def test_the_pages_are_there_before_anyone_reads_them(cold: Path) -> None:
    ahead = ReadAhead()
    ahead.advise(cold, 32 * MIB, 48 * MIB)
    finish(ahead)
    assert all(in_memory(cold, at) for at in range(32 * MIB, 48 * MIB, 1 << 16))
    assert not in_memory(cold, 4 * MIB)


def test_what_lies_behind_the_end_and_what_is_missing_is_left_alone(cold: Path) -> None:
    ahead = ReadAhead()
    ahead.advise(cold.with_name("missing"), 0, MIB)
    ahead.advise(cold, 64 * MIB, 80 * MIB)
    ahead.advise(cold, 60 * MIB, 80 * MIB)
    finish(ahead)
    assert in_memory(cold, 63 * MIB)


def test_closing_forgets_what_has_not_begun(cold: Path) -> None:
    ahead = ReadAhead()
    for _ in range(1000):
        ahead.advise(cold, 0, 16 * MIB)
    ahead.advise(cold, 40 * MIB, 48 * MIB)
    ahead.close()
    finish(ahead)
    assert not in_memory(cold, 40 * MIB)


def test_a_piece_under_way_does_not_hold_up_the_end(cold: Path) -> None:
    """A file that never ends is read step by step, until somebody closes."""
    ahead = ReadAhead()
    ahead.advise(Path("/dev/zero"), 0, 1 << 62)
    ahead.close()
    assert ahead._thread is not None
    ahead._thread.join(20)
    assert not ahead._thread.is_alive()


def test_a_reader_of_local_chunks_has_the_next_ones_brought(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", [bytes(MIB) for _ in range(8)], chunk_size=2)
    first, *others = sorted(folder.glob("*.bin"))
    for path in (first, *others):
        forget(path)
    dataset = StreamingDataset(folder)
    readers = Readers(Topology(0, 1), 1, 1)
    deck = dataset.deck(Position(), dataset.options(), readers)
    with deck.deal(np.array([8]), (0,)).open([0], [0]) as reader:
        assert isinstance(reader, RunsReader)
        assert reader.take(0, 1) == [bytes(MIB)]
        finish(reader._pages)
        assert all(in_memory(path, MIB) for path in others)
