"""Streaming from a disk: where the chunks lie, and through the cache, whatever their kind."""

from __future__ import annotations

import gc
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiolit.errors import CacheError, ChecksumError, DatasetError
from aiolit.format.assemble import assemble
from aiolit.format.fernet import FernetEncryption
from aiolit.format.index import dump_index
from aiolit.format.loader import TokensLoader
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset

Options = dict[str, Any]

pytestmark = pytest.mark.keeps_open("environment", reason="torch's handler of SIGCHLD")

COUNT, PER_CHUNK = 203, 10


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": b"%d" % number * (number * 31 % 97)}


def put(folder: Path, samples: list[Any], **options: Any) -> Path:
    folder.mkdir(parents=True)
    index, files = assemble(samples, **options)
    (folder / "index.json").write_bytes(dump_index(index))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def numbers(samples: Any) -> list[int]:
    return [one["n"] for one in samples]


def used(root: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in [root, *root.rglob("*")])


FERNET = FernetEncryption("secret", level="chunk")
BY_SAMPLE = FernetEncryption("secret")
# How a data set is written, and what reading it needs.
KINDS: dict[str, tuple[Options, Options]] = {
    "plain": ({}, {}),
    "zstd": ({"compression": "zstd"}, {}),
    "framed": ({"compression": "zstd", "compression_level": "batch"}, {}),
    "chunk-encrypted": ({"encryption": FERNET}, {"encryption": FERNET}),
    "sample-encrypted": ({"encryption": BY_SAMPLE}, {"encryption": BY_SAMPLE}),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    samples = [sample(number) for number in range(COUNT)]
    for kind, (written, _) in KINDS.items():
        put(root / kind, samples, chunk_size=PER_CHUNK, **written)
    return root


@pytest.fixture(params=["direct", "cached"])
def prefix(request: pytest.FixtureRequest) -> str:
    return {"direct": "", "cached": "local:"}[request.param]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_chunk(sets: Path, tmp_path: Path, prefix: str, kind: str) -> None:
    options = {"cache_dir": tmp_path, **KINDS[kind][1]}
    dataset = StreamingDataset(f"{prefix}{sets / kind}", **options)
    assert list(dataset) == [sample(number) for number in range(COUNT)]
    assert dataset[7] == sample(7)
    assert dataset[-1] == sample(COUNT - 1)
    assert dataset[np.int32(11)] == sample(11)
    assert dataset[195:] == [sample(number) for number in range(195, COUNT)]
    assert dataset[[5, 5, 200, 3]] == [sample(number) for number in (5, 5, 200, 3)]
    shuffled = StreamingDataset(f"{prefix}{sets / kind}", shuffle=True, **options)
    first, second = numbers(shuffled), numbers(shuffled)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second


def test_the_kind_and_the_place_do_not_change_the_order(sets: Path, tmp_path: Path) -> None:
    orders = [
        numbers(StreamingDataset(place, cache_dir=tmp_path, shuffle=True, **KINDS[kind][1]))
        for kind in ("plain", "sample-encrypted")
        for place in (str(sets / kind), f"local:{sets / kind}")
    ]
    assert sorted(orders[0]) == list(range(COUNT))
    assert orders == [orders[0]] * len(orders)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader(sets: Path, tmp_path: Path, prefix: str, workers: int) -> None:
    dataset = StreamingDataset(f"{prefix}{sets / 'plain'}", cache_dir=tmp_path, shuffle=True)
    loader = StreamingDataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=numbers)
    assert len(loader) == 26
    batches = list(loader)
    assert [len(batch) for batch in batches] == [8] * 25 + [3]
    assert sorted(n for batch in batches for n in batch) == list(range(COUNT))


@pytest.mark.parametrize("block", [4, 7])
def test_tokens(tmp_path: Path, prefix: str, block: int) -> None:
    rows = [torch.arange(n, n + 10) for n in range(0, 1000, 10)]
    folder = put(tmp_path / "set", rows, chunk_size=200, item_loader=TokensLoader())
    dataset = StreamingDataset(
        f"{prefix}{folder}", cache_dir=tmp_path / "cache", item_loader=TokensLoader(block)
    )
    per_chunk = 200 // block
    expected = [
        list(range(chunk * 200 + n * block, chunk * 200 + (n + 1) * block))
        for chunk in range(5)
        for n in range(per_chunk)
    ]
    assert [one.tolist() for one in dataset] == expected
    assert dataset[per_chunk].tolist() == expected[per_chunk]
    shuffled = StreamingDataset(
        f"{prefix}{folder}",
        cache_dir=tmp_path / "cache",
        item_loader=TokensLoader(block),
        shuffle=True,
        shuffle_window=20,  # windows cut chunks: parts are read by closed-form ranges
    )
    assert sorted(one.tolist() for one in shuffled) == expected


# ---- little room -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen chunks of about 40 kB, plain and compressed."""
    root = tmp_path_factory.mktemp("large")
    samples = [{"n": n, "x": np.random.default_rng(n).bytes(4000)} for n in range(160)]
    for kind in ("plain", "zstd"):
        put(root / kind, samples, chunk_size=10, **KINDS[kind][0])
    return root


@pytest.mark.parametrize("kind", ["plain", "zstd"])
@pytest.mark.parametrize("limit", [200_000, 100_000, 1000])
def test_less_room_than_the_windows_need(
    large: Path, tmp_path: Path, kind: str, limit: int
) -> None:
    """Windows of eight chunks, and room for three, one or none: all samples, in the same order."""
    place = f"local:{large / kind}"
    options: Options = {"shuffle": True, "seed": 3, "shuffle_window": 80}
    expected = numbers(StreamingDataset(place, cache_dir=tmp_path / "a", **options))
    dataset = StreamingDataset(place, cache_dir=tmp_path / "b", max_cache_size=limit, **options)
    assert numbers(dataset) == expected
    assert sorted(numbers(dataset)) == list(range(160))
    assert used(tmp_path / "b") <= max(limit, 50_000)  # the book alone, where there is no room
    assert not list((tmp_path / "b").rglob("*.part"))


def test_two_iterators_in_turn(large: Path, tmp_path: Path) -> None:
    """One thread, one data set, one small cache: neither waits for what the other holds."""
    dataset = StreamingDataset(
        f"local:{large / 'plain'}", cache_dir=tmp_path, max_cache_size=200_000, shuffle=True
    )
    expected = numbers(StreamingDataset(str(large / "plain"), shuffle=True))
    one, two = iter(dataset), iter(dataset)
    pairs = [(next(one)["n"], next(two)["n"]) for _ in range(160)]
    assert [first for first, _ in pairs] == expected
    assert sorted(second for _, second in pairs) == list(range(160))
    assert next(one, None) is next(two, None) is None


def test_a_second_epoch_is_read_from_the_cache(large: Path, tmp_path: Path) -> None:
    dataset = StreamingDataset(f"local:{large / 'plain'}", cache_dir=tmp_path, shuffle=True)
    numbers(dataset)
    fetched = dataset.source.stats.bytes_fetched
    assert 160 * 4000 < fetched < 160 * 4000 * 1.2
    numbers(dataset)
    assert dataset.source.stats.bytes_fetched == fetched


# ---- left early --------------------------------------------------------------------------------


def test_a_break_leaves_nothing(large: Path, tmp_path: Path) -> None:
    """The check of every test, that no file stays open, is what this one is about."""
    dataset = StreamingDataset(f"local:{large / 'plain'}", cache_dir=tmp_path, shuffle=True)
    for count in (0, 1, 30, 100):
        assert len(list(islice(dataset, count))) == count
    stream = iter(dataset)
    next(stream)
    del stream
    for path in tmp_path.rglob("*"):
        assert path.suffix != ".part"


def test_an_iterator_lost_in_a_cycle(large: Path, tmp_path: Path) -> None:
    """The garbage collector closes it, on whatever thread it runs."""
    dataset = StreamingDataset(f"local:{large / 'plain'}", cache_dir=tmp_path, shuffle=True)
    lost: list[Any] = [iter(dataset)]
    next(lost[0])
    lost.append(lost)
    del lost
    gc.collect()
    assert sorted(numbers(dataset)) == list(range(160))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_left_early(large: Path, tmp_path: Path, workers: int) -> None:
    dataset = StreamingDataset(f"local:{large / 'plain'}", cache_dir=tmp_path, shuffle=True)
    loader = StreamingDataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=numbers)
    first = list(islice(loader, 5))
    assert sorted(n for batch in loader for n in batch) == list(range(160))
    assert [len(batch) for batch in first] == [4] * 5


# ---- damage ------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = put(tmp_path / "set", [sample(n) for n in range(60)], chunk_size=10)
    path = folder / "chunk-0-3.bin"
    raw = bytearray(path.read_bytes())
    raw[4 * 12 + 90] ^= 1
    path.write_bytes(raw)
    return folder


def test_a_flipped_bit_is_found_and_named(damaged: Path, tmp_path: Path, prefix: str) -> None:
    dataset = StreamingDataset(f"{prefix}{damaged}", cache_dir=tmp_path / "cache")
    with pytest.raises(ChecksumError, match=r"chunk-0-3\.bin: damaged: items? \d+") as caught:
        list(dataset)
    bad = int(str(caught.value).split("item")[1].lstrip("s ").split()[0])
    with pytest.raises(ChecksumError, match=r"chunk-0-3\.bin: damaged"):
        dataset[30 + bad]
    assert numbers(dataset[:30] + dataset[40:]) == [*range(30), *range(40, 60)]


def test_a_missing_or_short_chunk(damaged: Path, tmp_path: Path, prefix: str) -> None:
    os.truncate(damaged / "chunk-0-1.bin", 100)
    (damaged / "chunk-0-2.bin").unlink()
    dataset = StreamingDataset(f"{prefix}{damaged}", cache_dir=tmp_path / "cache")
    stream = iter(StreamingDataLoader(dataset, batch_size=10, collate_fn=numbers))
    assert next(stream) == list(range(10))
    with pytest.raises((DatasetError, OSError), match=r"chunk-0-1\.bin"):
        next(stream)
    with pytest.raises((DatasetError, OSError), match=r"chunk-0-2\.bin"):
        dataset[25]
    assert dataset[45] == sample(45)


def test_a_cache_that_cannot_be_written(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dataset = StreamingDataset(f"local:{sets / 'plain'}", cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match="give another cache_dir"):
        list(dataset)


def test_what_a_data_set_and_its_loader_are_told(sets: Path) -> None:
    dataset = StreamingDataset(sets / "plain", shuffle=True, seed=7, batch_decode=32)
    assert (dataset.shuffle, dataset.seed, dataset.item_loader.name) == (True, 7, "PyTreeLoader")
    StreamingDataLoader(dataset, batch_size=4)
    assert (dataset.batch_size, dataset.num_workers) == (4, 1)
    dataset.set_shuffle(False)
    assert dataset.shuffle is False


@pytest.mark.parametrize("workers", [0, 2])
def test_the_current_epoch(sets: Path, workers: int) -> None:
    dataset = StreamingDataset(sets / "plain")

    def epoch_of(sample: Any, /) -> int:
        return dataset.current_epoch

    dataset.transform = epoch_of  # type: ignore[method-assign]
    loader = StreamingDataLoader(dataset, batch_size=4, num_workers=workers)
    assert (loader.current_epoch, dataset.current_epoch) == (1, 1)
    for epoch in (1, 2):
        for batch in loader:
            assert batch.unique().tolist() == [epoch] == [loader.current_epoch]
        assert loader.current_epoch == dataset.current_epoch == epoch
    dataset.current_epoch = 7
    assert loader.current_epoch == 7
    assert next(iter(loader)).unique().tolist() == [7]
    state = loader.state_dict()
    loader.load_state_dict(state)
    assert loader.current_epoch == 7


def test_a_transform_that_is_assigned(sets: Path) -> None:
    dataset = StreamingDataset(sets / "plain")
    plain = list(dataset)

    def number_of(sample: Any, /) -> tuple[int]:
        return (sample["n"],)

    dataset.transform = number_of  # type: ignore[method-assign]
    found = [(sample["n"],) for sample in plain]
    assert list(dataset) == [dataset[number] for number in range(len(plain))] == found
    (batch,) = StreamingDataLoader(dataset, batch_size=len(plain))
    assert batch[0].tolist() == [number for (number,) in found]
