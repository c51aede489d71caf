"""What reading costs, counted by the server: requests, and bytes with the answers' headers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit.format.assemble import assemble
from aiolit.format.index import dump_index
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from benchmarks.s3_server import S3Server, missing_programs

pytestmark = pytest.mark.keeps_open(
    "sockets", "threads", "files", reason="connections of the process's portal"
)

COUNT, NBYTES, PER_CHUNK = 500, 50_000, 20
TINY = 20_000
HEADERS = 450  # of an answer, at most
BLOB = np.random.default_rng(0).bytes(NBYTES + COUNT)


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": BLOB[number : number + NBYTES]}


def put(folder: Path, samples: Any, chunk_size: int) -> None:
    folder.mkdir(parents=True)
    index, files = assemble(samples, chunk_size=chunk_size)
    (folder / "index.json").write_bytes(dump_index(index))
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    put(root / "bucket" / "large", map(sample, range(COUNT)), PER_CHUNK)
    put(root / "bucket" / "tiny", ({"a": n, "b": -n} for n in range(TINY)), 2000)
    with S3Server(root) as running:
        yield running


class Cost:
    """Opens data sets of the server, and says what they cost it."""

    def __init__(self, server: S3Server, cache: Path) -> None:
        self._server, self._cache = server, cache

    def open(self, name: str = "large", **options: Any) -> StreamingDataset:
        dataset = StreamingDataset(
            f"s3://bucket/{name}",
            cache_dir=self._cache,
            storage_options=self._server.storage_options,
            **options,
        )
        self._server.reset()
        return dataset

    def __call__(self) -> tuple[int, int]:
        """Return requests, and bytes, since the last call."""
        counters = self._server.counters()
        self._server.reset()
        return counters.requests, counters.bytes_out

    def size(self, name: str = "large") -> int:
        folder = self._server.root / "bucket" / name
        return sum(path.stat().st_size for path in folder.glob("chunk-*"))


@pytest.fixture
def cost(server: S3Server, tmp_path: Path) -> Cost:
    return Cost(server, tmp_path / "cache")


def numbers(samples: list[Any]) -> list[int]:
    return [int(one["n"]) for one in samples]


def read(dataset: StreamingDataset, **options: Any) -> list[int]:
    loader = StreamingDataLoader(dataset, batch_size=10, collate_fn=numbers, **options)
    return [number for batch in loader for number in batch]


def test_one_sample(cost: Cost) -> None:
    """Where it lies, and its bytes."""
    dataset = cost.open()
    for number in (123, 124, 499):
        assert dataset[number] == sample(number)
        requests, nbytes = cost()
        assert requests == 2
        assert nbytes <= NBYTES + 2 * HEADERS + 200


def test_a_hundred_random_samples(cost: Cost) -> None:
    dataset = cost.open()
    chosen = np.random.default_rng(7).permutation(COUNT)[:100].tolist()
    assert numbers(dataset[chosen]) == chosen
    requests, nbytes = cost()
    assert requests <= 2 * 100
    assert nbytes <= 1.1 * 100 * NBYTES


def test_an_epoch_of_two_ranks_and_the_next(cost: Cost) -> None:
    """Each byte is fetched once for the host, and epoch 2 is the cache's."""
    ranks = [cost.open(shuffle=True, rank=rank, world_size=2) for rank in (0, 1)]
    one = [read(dataset) for dataset in ranks]
    assert sorted(one[0] + one[1]) == list(range(COUNT))
    assert cost()[1] <= 1.05 * cost.size()
    two = [read(dataset) for dataset in ranks]
    assert sorted(two[0] + two[1]) == list(range(COUNT))
    assert two != one
    assert cost() == (0, 0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs_of_a_data_set_that_does_not_fit(cost: Cost, shuffle: bool) -> None:
    """What an epoch has used up makes room for what it needs: the rest is there in the next."""
    room = cost.size() * 6 // 10
    dataset = cost.open(shuffle=shuffle, shuffle_window=PER_CHUNK, max_cache_size=room)
    assert sorted(read(dataset)) == list(range(COUNT))
    assert cost()[1] <= 1.05 * cost.size()
    for _ in range(2):
        assert sorted(read(dataset)) == list(range(COUNT))
        assert cost()[1] <= 0.75 * cost.size()


def test_a_hundredth_of_the_samples(cost: Cost) -> None:
    dataset = cost.open(subsample=0.01, shuffle=True)
    assert len(read(dataset)) == COUNT // 100
    requests, nbytes = cost()
    assert requests <= 2 * COUNT // 100
    assert nbytes <= 1.1 * NBYTES * COUNT // 100


def test_a_hundredth_of_tiny_samples(cost: Cost) -> None:
    """Single requests would cost more than the chunks: they are few, and no byte comes twice."""
    dataset = cost.open("tiny", subsample=0.01, shuffle=True)
    assert len(dataset[:]) == TINY // 100
    requests, nbytes = cost()
    assert requests <= 3 * 10
    assert nbytes <= cost.size("tiny") + requests * HEADERS
    assert sum(1 for _ in dataset) == TINY // 100
    requests, nbytes = cost()
    assert requests <= 3 * 10
    assert nbytes <= cost.size("tiny") + requests * HEADERS


def test_single_samples_of_a_chunk_of_which_the_cache_has_parts(cost: Cost) -> None:
    """What two ranks have cached in parts is not fetched once more for one sample."""
    ranks = [cost.open(shuffle=True, rank=rank, world_size=2) for rank in (0, 1)]
    for dataset in ranks:
        read(dataset)
    cost()
    assert len(ranks[0][:]) == COUNT
    assert cost() == (0, 0)
