"""``decode_threads``: the same batches, errors and states as without, made in other threads."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from PIL import Image

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
    StreamingRawDataset,
)
from aiolit.errors import ChecksumError, ConfigError
from aiolit.runtime.ahead import THREAD_NAME
from aiolit.runtime.portal import Portal, portal
from aiolit.testing.faulty_server import Answer, FaultyServer

pytestmark = pytest.mark.keeps_open(
    "environment", "threads", reason="torch's handler of SIGCHLD; the portal's threads"
)

COUNT, BATCH = 100, 8
PATIENCE_S = 30.0


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


def jpeg(number: int) -> Any:
    """A picture that says which it is, as PIL opens one."""
    pixels = np.full((16, 24, 3), number * 2, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return Image.open(file)


@pytest.fixture
def pictures(write_dataset: WriteDataset) -> Path:
    return write_dataset(
        [{"number": number, "image": jpeg(number)} for number in range(COUNT)], chunk_size=10
    )


@pytest.fixture
def texts(write_dataset: WriteDataset) -> Path:
    return write_dataset([f"text {number}" for number in range(COUNT)], chunk_size=10, name="texts")


class Marked(StreamingDataset):
    """With a transform of its own that says in which thread it ran."""

    def transform(self, sample: Any, /, *args: Any, **kwargs: Any) -> Any:
        return sample, threading.current_thread().name


class Indexed(StreamingDataset):
    """With a ``__getitem__`` of its own."""

    def __getitem__(self, index: Any) -> Any:
        return int(index), super().__getitem__(index)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    equal: bool = one == two
    return equal


def image_of(sample: dict[str, Any]) -> torch.Tensor:
    image: torch.Tensor = sample["image"]
    return image.float() / 255


Make = Callable[[], Any]


def datasets(pictures: Path, texts: Path, cache: Path) -> dict[str, Make]:
    def streamed(of: Path, cls: type[StreamingDataset] = StreamingDataset, **more: Any) -> Any:
        return cls(f"local:{of}", cache_dir=cache, shuffle=True, **more)

    return {
        "images": lambda: streamed(pictures),
        "transformed": lambda: streamed(pictures, transform=image_of),
        "indexed": lambda: streamed(texts, Indexed),
        "mapped": lambda: StreamingDataset(texts, shuffle=True),
        "combined": lambda: CombinedStreamingDataset(
            [streamed(texts), streamed(texts, transform=str.upper)], iterate_over_all=False
        ),
        "parallel": lambda: ParallelStreamingDataset([streamed(texts), streamed(pictures)]),
        "raw": lambda: StreamingRawDataset(texts, cache_dir=cache, shuffle=True, transform=bytes),
    }


@pytest.mark.parametrize(
    "kind", ["images", "transformed", "indexed", "mapped", "combined", "parallel", "raw"]
)
def test_the_same_batches(kind: str, pictures: Path, texts: Path, tmp_path: Path) -> None:
    make = datasets(pictures, texts, tmp_path / "cache")[kind]
    plain = StreamingDataLoader(make(), batch_size=BATCH)
    expected = [list(plain) for _ in range(2)]
    for threads in (1, 3):
        loader = StreamingDataLoader(make(), batch_size=BATCH, decode_threads=threads)
        found = [list(loader) for _ in range(2)]
        assert same(found, expected)
        assert loader.state_dict() == plain.state_dict()


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_transforms_run_in_those_threads(threads: int, num_workers: int, texts: Path) -> None:
    loader = StreamingDataLoader(
        Marked(texts), batch_size=50, decode_threads=threads, num_workers=num_workers
    )
    names = {name for _, batch in loader for name in batch}
    if not threads:
        assert names == {"MainThread"}
    else:
        assert all(name.startswith(THREAD_NAME) for name in names)


def test_several_transforms_at_the_same_time(texts: Path) -> None:
    meeting = threading.Barrier(3)
    met: set[str] = set()

    def meet(text: str) -> str:
        name = threading.current_thread().name
        if name not in met:
            met.add(name)
            meeting.wait(PATIENCE_S)  # nobody goes on until three are here
        return text

    dataset = StreamingDataset(texts, transform=meet)
    batches = list(StreamingDataLoader(dataset, batch_size=50, decode_threads=3))
    assert [text for batch in batches for text in batch] == [f"text {n}" for n in range(COUNT)]
    assert len(met) == 3


def test_the_next_batches_are_made_during_a_step(texts: Path) -> None:
    begun: list[str] = []
    third = threading.Event()

    def note(text: str) -> str:
        begun.append(text)
        if len(begun) == 3 * BATCH:
            third.set()
        return text

    loader = StreamingDataLoader(
        StreamingDataset(texts, transform=note), batch_size=BATCH, decode_threads=1
    )
    for number, _ in enumerate(loader, 1):
        if number == 1:
            assert third.wait(PATIENCE_S)  # two batches follow though nobody asks for them
        assert len(begun) <= (number + 2) * BATCH  # and no more
    assert len(begun) == COUNT


def test_prefetch_factor_is_how_many_are_ahead(texts: Path) -> None:
    begun: list[str] = []

    def note(text: str) -> str:
        begun.append(text)
        return text

    loader = StreamingDataLoader(
        StreamingDataset(texts, transform=note),
        batch_size=BATCH,
        decode_threads=2,
        prefetch_factor=4,
    )
    for number, _ in enumerate(loader, 1):
        assert len(begun) <= (number + 4) * BATCH
    with pytest.raises(ConfigError, match="prefetch_factor must be a positive whole number"):
        StreamingDataLoader(StreamingDataset(texts), decode_threads=1, prefetch_factor=0)
    with pytest.raises(ConfigError, match="decode_threads must be a whole number from 0 on"):
        StreamingDataLoader(StreamingDataset(texts), decode_threads=-1)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_at_its_batch(threads: int, texts: Path) -> None:
    def refuse(text: str) -> str:
        if text in ("text 43", "text 45"):
            raise ValueError(f"not {text}")
        return text

    dataset = StreamingDataset(texts, transform=refuse)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, decode_threads=threads)
    batches = iter(loader)
    assert [len(next(batches)) for _ in range(5)] == [BATCH] * 5  # texts 0 to 39
    with pytest.raises(ValueError, match="not text 43"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert loader.state_dict()["dataset"]["legs"]  # behind the fifth batch, as it was
    fine = StreamingDataLoader(StreamingDataset(texts), batch_size=BATCH)
    fine.load_state_dict(loader.state_dict())
    assert next(iter(fine))[0] == "text 40"


def test_damaged_chunks_are_named_or_skipped(pictures: Path, tmp_path: Path) -> None:
    damaged = pictures / "chunk-0-4.bin"
    data = bytearray(damaged.read_bytes())
    data[300] ^= 1  # in sample 40
    damaged.write_bytes(data)
    source = f"local:{pictures}"
    options: dict[str, Any] = {"batch_size": BATCH, "decode_threads": 2}
    loader = StreamingDataLoader(StreamingDataset(source, cache_dir=tmp_path / "c"), **options)
    with pytest.raises(ChecksumError, match="chunk-0-4"):
        list(loader)
    skipping = StreamingDataset(source, cache_dir=tmp_path / "c", on_error="skip")
    with pytest.warns(UserWarning, match="samples are skipped: .*chunk-0-4"):
        batches = list(StreamingDataLoader(skipping, **options))
    seen = torch.cat([batch["number"] for batch in batches])
    assert len(seen) == COUNT
    assert skipping.stats()["skipped"] == COUNT - len(set(seen.tolist())) <= 10


def test_a_state_within_an_epoch_goes_on_with_the_next_batch(texts: Path) -> None:
    def loader(threads: int) -> StreamingDataLoader:
        dataset = StreamingDataset(texts, shuffle=True)
        return StreamingDataLoader(dataset, batch_size=BATCH, decode_threads=threads)

    whole = list(loader(0))
    first = loader(3)
    batches = iter(first)
    assert [next(batches) for _ in range(4)] == whole[:4]  # more of them are made already
    state = first.state_dict()
    batches.close()  # type: ignore[attr-defined]
    for threads in (0, 2):
        then = loader(threads)
        then.load_state_dict(state)
        assert list(then) == whole[4:]


def test_nothing_is_left_of_a_loop_that_is_broken_off(texts: Path) -> None:
    loader = StreamingDataLoader(StreamingDataset(texts), batch_size=BATCH, decode_threads=3)
    running: list[threading.Thread] = []
    for _ in loader:
        running = [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]
        break
    assert running
    for thread in running:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert len(list(loader)) == 13
    names = [one.name for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]
    assert names == []  # an epoch that ends has joined them


def test_a_break_does_not_wait_for_a_server_that_is_silent(texts: Path, tmp_path: Path) -> None:
    with Portal() as own:
        server, silence = FaultyServer(), asyncio.Event()
        server.objects = {f"/texts/{path.name}": path.read_bytes() for path in texts.iterdir()}
        with own.wrap_async_context_manager(server):
            dataset = StreamingDataset(f"{server.url}/texts", cache_dir=tmp_path / "cache")
            loader = StreamingDataLoader(dataset, batch_size=10, decode_threads=2)
            server.rule = lambda asked: None if "-0-0" in asked.path else Answer(after=silence)
            for batch in loader:
                assert batch == [f"text {number}" for number in range(10)]
                running = [one for one in threading.enumerate() if one.name == THREAD_NAME]
                break
            for thread in running:  # it waits for the second chunk, which never comes
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
            own.loop.call_soon_threadsafe(silence.set)
            portal().call(dataset.source.aclose)


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


SCRIPT = """
    import os, sys
    from aiolit import StreamingDataLoader, StreamingDataset

    def lower(text):
        return text.lower()

    def loader(**options):
        dataset = StreamingDataset("local:" + sys.argv[1], cache_dir=sys.argv[2], transform=lower)
        return StreamingDataLoader(dataset, batch_size=8, decode_threads=2, **options)
"""


@pytest.fixture
def script(texts: Path, tmp_path: Path, run_python: RunPython) -> Callable[[str], str]:
    def run(source: str) -> str:
        found = run_python(SCRIPT + source, str(texts), str(tmp_path / "cache"))
        assert found.returncode == 0, found.stdout + found.stderr
        assert "Traceback" not in found.stderr
        text: str = found.stdout
        return text

    return run


def test_the_program_ends_in_the_midst_of_an_epoch(script: Callable[[str], str]) -> None:
    assert "over" in script("""
    batches = iter(loader())
    next(batches)
    print("over")
    """)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_in_worker_processes(script: Callable[[str], str], method: str) -> None:
    """Begun while the parent's own threads are at work."""
    text = script(f"""
    if __name__ == "__main__":
        own = iter(loader())
        next(own)
        it = loader(num_workers=2, multiprocessing_context="{method}", persistent_workers=True)
        for _ in range(2):
            assert sorted(t for b in it for t in b) == sorted(f"text {{n}}" for n in range(100))
        assert len(list(own)) == 12
        print("done")
    """)
    assert "done" in text


def test_a_forked_child_begins_its_own(script: Callable[[str], str]) -> None:
    script("""
    own = loader()
    batches = iter(own)
    next(batches)
    child = os.fork()
    if not child:
        del batches
        assert len(list(loader())) == 13
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(batches)) == 12
    """)
