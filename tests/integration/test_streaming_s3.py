"""Streaming from an S3 server that counts what it is asked for."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiolit.errors import AiolitError, ChecksumError, ObjectNotFoundError, RangeError
from aiolit.format.assemble import assemble
from aiolit.format.fernet import FernetEncryption
from aiolit.format.index import dump_index
from aiolit.format.loader import TokensLoader
from aiolit.streaming.async_dataset import AsyncStreamingDataset
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from benchmarks.s3_server import S3Server, missing_programs

Options = dict[str, Any]

pytestmark = pytest.mark.keeps_open(
    "sockets",
    "threads",
    "files",
    "environment",
    reason="connections of the process's portal; torch's handler of SIGCHLD",
)

COUNT = 600
FERNET = FernetEncryption("secret", level="chunk")
KINDS: dict[str, tuple[Options, Options]] = {
    "plain": ({}, {}),
    "zstd": ({"compression": "zstd"}, {}),
    "framed": ({"compression": "zstd", "compression_level": "batch"}, {}),
    "encrypted": ({"encryption": FERNET}, {"encryption": FERNET}),
}


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": np.random.default_rng(number).bytes(2000)}


def put(folder: Path, samples: list[Any], **options: Any) -> None:
    folder.mkdir(parents=True)
    index, files = assemble(samples, **options)
    (folder / "index.json").write_bytes(dump_index(index))
    for name, data in files.items():
        (folder / name).write_bytes(data)


def numbers(samples: Any) -> list[int]:
    return [one["n"] for one in samples]


def first_numbers(samples: list[Any]) -> list[int]:
    return [int(one["n"]) for one in samples]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("chunk-*"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    samples = [sample(number) for number in range(COUNT)]
    for kind, (written, _) in KINDS.items():
        put(root / "bucket" / kind, samples, chunk_size=30, **written)
    rows = [torch.arange(n, n + 100) for n in range(0, 60_000, 100)]
    put(root / "bucket" / "tokens", rows, chunk_size=6000, item_loader=TokensLoader())
    put(root / "bucket" / "small", [{"n": n} for n in range(20_000)], chunk_size=500)
    with S3Server(root) as running:
        yield running


class Bucket:
    """Opens data sets of the server, and says what they cost it."""

    def __init__(self, server: S3Server, cache: Path) -> None:
        self.server, self.cache = server, cache

    def options(self, **options: Any) -> Options:
        return {"storage_options": self.server.storage_options, "cache_dir": self.cache, **options}

    def open(self, name: str, **options: Any) -> StreamingDataset:
        return StreamingDataset(f"s3://bucket/{name}", **self.options(**options))

    def folder(self, name: str) -> Path:
        return self.server.root / "bucket" / name

    def copy(self, name: str, to: str) -> Path:
        return Path(shutil.copytree(self.folder(name), self.folder(to)))

    def cost(self) -> tuple[int, int]:
        """Return requests and bytes since the last call."""
        counters = self.server.counters()
        self.server.reset()
        return counters.requests, counters.bytes_out


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path) -> Bucket:
    server.reset()
    return Bucket(server, tmp_path / "cache")


# ---- every kind, every way ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_chunk(bucket: Bucket, kind: str) -> None:
    dataset = bucket.open(kind, shuffle=True, **KINDS[kind][1])
    read = list(dataset)
    assert sorted(numbers(read)) == list(range(COUNT))
    assert all(one == sample(one["n"]) for one in read[::37])
    local = StreamingDataset(str(bucket.folder(kind)), shuffle=True, **KINDS[kind][1])
    assert numbers(local) == numbers(read)
    assert dataset[599] == sample(599)
    assert numbers(dataset[10:20:3]) == [10, 13, 16, 19]


def test_tokens(bucket: Bucket) -> None:
    dataset = bucket.open("tokens", item_loader=TokensLoader(64), shuffle=True, shuffle_window=50)
    blocks = sorted(one.tolist() for one in dataset)
    assert blocks == [
        list(range(chunk * 6000 + n * 64, chunk * 6000 + n * 64 + 64))
        for chunk in range(10)
        for n in range(93)
    ]
    bucket.cost()
    cold = Bucket(bucket.server, bucket.cache.with_name("cold"))
    assert cold.open("tokens", item_loader=TokensLoader(64))[94].tolist()[:2] == [6064, 6065]
    requests, nbytes = bucket.cost()
    assert requests <= 1 + 2  # the index
    assert nbytes < 60_000  # tokens are checked in runs of 64 KiB


# ---- bytes and requests ------------------------------------------------------------------------


def test_one_sample_costs_two_requests(bucket: Bucket) -> None:
    dataset = bucket.open("plain")
    bucket.cost()
    assert dataset[123] == sample(123)
    requests, nbytes = bucket.cost()
    assert requests == 2
    assert 2000 < nbytes < 3000  # and two answers' headers


def test_a_hundred_random_samples_cost_little_more_than_themselves(bucket: Bucket) -> None:
    dataset = bucket.open("plain")
    chosen = np.random.default_rng(0).permutation(COUNT)[:100].tolist()
    bucket.cost()
    assert numbers(dataset[chosen]) == chosen
    requests, _ = bucket.cost()
    assert requests <= 3 * 20  # neighbours share requests: twenty chunks


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_fetches_the_data_once_and_the_next_one_nothing(bucket: Bucket, kind: str) -> None:
    dataset = bucket.open(kind, shuffle=True, **KINDS[kind][1])
    bucket.cost()
    one = numbers(dataset)
    _, nbytes = bucket.cost()
    assert nbytes <= 1.05 * size_of(bucket.folder(kind))
    two = numbers(dataset)
    assert sorted(one) == sorted(two) == list(range(COUNT))
    assert bucket.cost() == (0, 0)


def test_lanes_of_ranks_and_workers_share_chunks_without_fetching_twice(bucket: Bucket) -> None:
    """Two ranks of two workers cut chunks; epoch 2 cuts them elsewhere and costs nothing."""
    seen: list[int] = []
    costs = []
    ranks = [bucket.open("plain", shuffle=True, rank=rank, world_size=2) for rank in (0, 1)]
    loaders = [
        StreamingDataLoader(one, batch_size=7, num_workers=2, collate_fn=first_numbers)
        for one in ranks
    ]
    bucket.cost()
    for _ in range(2):
        for loader in loaders:
            seen += [n for batch in loader for n in batch]
        costs.append(bucket.cost()[1])
    assert len(set(seen[: len(seen) // 2])) == len(seen) // 2 == 14 * (COUNT // 14)
    assert costs[0] <= 1.05 * size_of(bucket.folder("plain"))
    assert costs[1] <= 0.03 * size_of(bucket.folder("plain"))  # what epoch 1 dropped


def test_few_samples_of_each_chunk_cost_themselves(bucket: Bucket) -> None:
    dataset = bucket.open("plain", subsample=0.02, shuffle=True)
    bucket.cost()
    assert len(numbers(dataset)) == 12
    _, nbytes = bucket.cost()
    assert nbytes < 0.04 * size_of(bucket.folder("plain"))


def test_less_room_than_a_chunk(bucket: Bucket) -> None:
    expected = numbers(StreamingDataset(str(bucket.folder("plain")), shuffle=True))
    dataset = bucket.open("plain", shuffle=True, max_cache_size=50_000)
    bucket.cost()
    assert numbers(dataset) == expected
    _, nbytes = bucket.cost()
    assert nbytes <= 1.05 * size_of(bucket.folder("plain"))


# ---- workers and processes ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_twenty_thousand_samples_by_two_workers(bucket: Bucket, method: str) -> None:
    def epochs(count: int) -> list[list[int]]:
        dataset = bucket.open("small", shuffle=True, seed=5)
        assert dataset[17] == {"n": 17}  # the parent has read before it forks
        loader = StreamingDataLoader(
            dataset,
            batch_size=64,
            num_workers=2,
            multiprocessing_context=method,
            persistent_workers=method != "fork",  # to start fewer interpreters
            collate_fn=first_numbers,
        )
        return [[n for batch in loader for n in batch] for _ in range(count)]

    one, two = epochs(2)
    (again,) = epochs(1)
    assert sorted(one) == sorted(two) == list(range(20_000))
    assert one == again
    assert one != two


RESUMED = """
import json, sys
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset

def first_numbers(samples):
    return [one["n"] for one in samples]

options, state, workers = map(json.loads, sys.argv[1:4])
dataset = StreamingDataset("s3://bucket/small", shuffle=True, seed=5, **options)
loader = StreamingDataLoader(
    dataset, batch_size=64, num_workers=workers, collate_fn=first_numbers
)
loader.load_state_dict(state)
print(json.dumps([list(loader), next(iter(loader))]))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_a_new_process(bucket: Bucket, workers: int, run_python: Any) -> None:
    dataset = bucket.open("small", shuffle=True, seed=5)
    loader = StreamingDataLoader(
        dataset, batch_size=64, num_workers=workers, collate_fn=first_numbers
    )
    list(loader)  # so that it is epoch 2 that is interrupted
    batches, states = [], {}
    for number, batch in enumerate(loader, 1):
        batches.append(batch)
        if number in (1, 100, 312):
            states[number] = json.dumps(loader.state_dict())
    assert len(batches) == 313
    third = next(iter(loader))
    for number, state in states.items():
        options = json.dumps(bucket.options() | {"cache_dir": str(bucket.cache)})
        found = run_python(RESUMED, options, state, str(workers))
        assert found.returncode == 0, found.stderr
        rest, following = json.loads(found.stdout)
        assert rest == batches[number:]
        assert following == third


# ---- damage ------------------------------------------------------------------------------------


@pytest.fixture
def damaged(bucket: Bucket) -> Iterator[Bucket]:
    """Give a copy of the data set whose chunk 3 has a flipped bit in its eleventh sample."""
    folder = bucket.copy("plain", "damaged")
    path = folder / "chunk-0-3.bin"
    raw = bytearray(path.read_bytes())
    (start,) = np.frombuffer(raw, "<u4", 1, 4 + 4 * 10)
    raw[int(start) + 700] ^= 16
    path.write_bytes(raw)
    yield bucket
    shutil.rmtree(folder)


ITEM = r"s3://bucket/damaged/chunk-0-3\.bin: damaged: item 10\b"


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": True, "shuffle_window": 20}, {"max_cache_size": 1}]
)
def test_a_flipped_bit_on_every_way(damaged: Bucket, options: Options) -> None:
    """In whole chunks, parts of chunks, and ranges into memory: found, and its item named."""
    dataset = damaged.open("damaged", **options)
    with pytest.raises(ChecksumError, match=ITEM):
        list(dataset)
    with pytest.raises(ChecksumError, match=ITEM):
        dataset[100]
    with pytest.raises(ChecksumError, match=ITEM):
        dataset[95:105]
    assert dataset[99] == sample(99)
    assert dataset[101] == sample(101)
    kept = [path.name for path in damaged.cache.rglob("chunk-0-3.bin*")]
    assert "chunk-0-3.bin" not in kept


async def test_a_flipped_bit_by_the_async_data_set(damaged: Bucket) -> None:
    async with AsyncStreamingDataset("s3://bucket/damaged", **damaged.options()) as dataset:
        with pytest.raises(ChecksumError, match=ITEM):
            await dataset.get(100)
        assert (await dataset.get(99))["n"] == 99
        with pytest.raises(ChecksumError, match=ITEM):
            async for _ in dataset:
                pass


def _first_error(dataset: StreamingDataset) -> tuple[list[int], AiolitError]:
    loader = StreamingDataLoader(dataset, batch_size=30, collate_fn=first_numbers)
    read: list[int] = []
    with pytest.raises(AiolitError) as caught:
        read.extend(chain.from_iterable(loader))
    return read, caught.value


def test_a_missing_object(bucket: Bucket) -> None:
    """What comes before it is read; the message names it; other samples stay within reach."""
    folder = bucket.copy("plain", "missing")
    (folder / "chunk-0-2.bin").unlink()
    dataset = bucket.open("missing")
    read, error = _first_error(dataset)
    assert read == list(range(60))
    assert isinstance(error, ObjectNotFoundError)
    assert "s3://bucket/missing/chunk-0-2.bin" in str(error)
    assert dataset[90] == sample(90)
    with pytest.raises(ObjectNotFoundError, match=r"chunk-0-2\.bin"):
        dataset[60]
    shutil.rmtree(folder)


def test_a_truncated_object(bucket: Bucket) -> None:
    folder = bucket.copy("plain", "short")
    os.truncate(folder / "chunk-0-2.bin", 30_000)
    dataset = bucket.open("short")
    read, error = _first_error(dataset)
    assert read == list(range(60))
    assert isinstance(error, RangeError)
    assert "s3://bucket/short/chunk-0-2.bin" in str(error)
    with pytest.raises(RangeError, match=r"chunk-0-2\.bin"):
        dataset[61]
    shutil.rmtree(folder)


# ---- other ways to leave -----------------------------------------------------------------------


def test_left_early_and_begun_again(bucket: Bucket) -> None:
    dataset = bucket.open("plain", shuffle=True)
    for count in (1, 40, 300):
        assert len(list(islice(dataset, count))) == count
    assert sorted(numbers(dataset)) == list(range(COUNT))
    assert not list(bucket.cache.rglob("*.part"))


async def test_async_batches_are_those_of_the_thread(bucket: Bucket) -> None:
    expected = numbers(StreamingDataset(str(bucket.folder("plain")), shuffle=True))
    options = bucket.options(shuffle=True)
    async with AsyncStreamingDataset("s3://bucket/plain", **options) as dataset:
        assert [one["n"] async for one in dataset] == expected
        chosen = [3, 500, 3, 77]
        assert numbers(await dataset.get_many(chosen)) == chosen
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(dataset.get(n)) for n in range(0, 600, 7)]
        assert numbers(task.result() for task in tasks) == list(range(0, 600, 7))
