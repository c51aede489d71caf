"""Splits, subsets and repetitions of data sets, and who reads what of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit import StreamingDataset, train_test_split
from aiolit.errors import ConfigError, StateError
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import TrainingJob, assert_nothing_lost, assert_resumable, samples_of

SIZE = 103


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("split") / "d", range(SIZE), chunk_size=10)


# ---- splits -----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["sample", "chunk"]),
)
def test_parts_are_disjoint_and_as_long_as_they_say(
    folder: Path, raw: list[float], seed: int, shuffle: bool, granularity: Any
) -> None:
    splits = [one / max(1.0, sum(raw)) for one in raw]
    dataset = StreamingDataset(folder)
    parts = train_test_split(dataset, splits, seed, shuffle, granularity=granularity)
    for part, share in zip(parts, splits, strict=True):
        assert len(part) == part.num_samples == len(list(part))
        assert abs(len(part) - share * SIZE) <= 1
    read = [sample for part in parts for sample in part]
    assert len(set(read)) == len(read) == round(sum(splits) * SIZE)
    again = train_test_split(dataset, splits, seed, shuffle, granularity=granularity)
    assert [list(part) for part in again] == [list(part) for part in parts]


@pytest.mark.parametrize(
    "splits", [[0.5, 0.5], [1 / 3] * 3, [0.8, 0.1, 0.1], [1], [1, 0], [0.1] * 10]
)
def test_splits_that_are_all_leave_nothing_out(folder: Path, splits: Sequence[float]) -> None:
    """Peer A.10: whole numbers were refused, and ``int(n * split)`` lost samples."""
    parts = train_test_split(StreamingDataset(folder), splits)
    assert sorted(sample for part in parts for sample in part) == list(range(SIZE))


@pytest.mark.parametrize("splits", [[], [1.1], [0.6, 0.6], [-0.1], ["0.5"], [True], [float("nan")]])
def test_splits_are_checked(folder: Path, splits: list[Any]) -> None:
    with pytest.raises(ConfigError, match="split"):
        train_test_split(StreamingDataset(folder), splits)


def test_other_things_cannot_be_split(folder: Path) -> None:
    with pytest.raises(ConfigError, match="list"):
        train_test_split([1, 2, 3], [0.5])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="granularity"):
        train_test_split(StreamingDataset(folder), [0.5], granularity="row")  # type: ignore[arg-type]


def test_a_class_ordered_data_set_is_split_evenly(tmp_path: Path) -> None:
    """Peer A.10: splits took whole chunks, so class-ordered data was split unevenly."""
    classes = [one // 100 for one in range(1000)]
    dataset = StreamingDataset(write_dataset(tmp_path / "d", classes, chunk_size=50))
    train, test = train_test_split(dataset, [0.8, 0.2])
    assert np.abs(np.bincount(list(train)) - 80).max() < 20
    assert np.abs(np.bincount(list(test)) - 20).max() < 20
    few, _ = train_test_split(dataset, [0.5, 0.5], granularity="chunk")
    assert len(set(few.segments.chunk.tolist())) == 10


@given(st.integers(0, 3), st.floats(0.1, 3), st.integers(0, 60), st.integers(0, 60))
def test_any_nesting(folder: Path, seed: int, share: float, start: int, stop: int) -> None:
    """Peer A.10: the split of an upsampled data set was an error."""
    dataset = StreamingDataset(folder, subsample=share, shuffle=True, seed=seed)
    one, two = train_test_split(dataset, [0.6, 0.4], seed=seed)
    assert len(one) + len(two) == round(SIZE * share)
    three, four = train_test_split(one.subset(slice(start, stop)), [0.5, 0.5])
    within = list(one.subset(slice(start, stop)))
    assert Counter([*three, *four]) == Counter(within)
    everything = Counter([*one, *two])
    assert everything == Counter(StreamingDataset(folder, subsample=share, shuffle=True, seed=seed))


def test_parts_have_their_own_epochs_and_states(folder: Path) -> None:
    one, two = train_test_split(StreamingDataset(folder, shuffle=True), [0.5, 0.5])
    first = list(one)
    state = one.state_dict()
    assert list(one) != first
    with pytest.raises(StateError, match="fingerprint"):
        two.load_state_dict(state)
    again, _ = train_test_split(StreamingDataset(folder, shuffle=True), [0.5, 0.5])
    again.load_state_dict(state)
    second = list(again)
    assert sorted(second) == sorted(first)
    assert second != first


# ---- subsets and subsamples -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"), [(1, 103), (1.0, 103), (2, 206), (2.5, 258), (0.1, 10), (0.01, 1)]
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_subsample(folder: Path, share: float, expected: int, shuffle: bool) -> None:
    """Peer A.1: a whole number was refused; 2.5 is two copies and a half."""
    dataset = StreamingDataset(folder, subsample=share, shuffle=shuffle)
    assert len(dataset) == dataset.num_samples == expected
    counts = Counter(dataset)
    assert counts.total() == expected
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sorted(dataset) == sorted(counts.elements())  # the same samples in every epoch
    if not shuffle and share < 1:
        assert sorted(counts) == list(range(expected))


def test_a_random_subsample_is_of_samples_or_of_chunks(folder: Path) -> None:
    """Peer A.1: 25 of 100 came from 4 chunks only."""
    spread = StreamingDataset(folder, subsample=0.3, shuffle=True)
    assert len(set(spread.segments.chunk.tolist())) >= 9
    few = StreamingDataset(folder, subsample=0.3, shuffle=True, granularity="chunk")
    assert len(set(few.segments.chunk.tolist())) <= 5
    assert len(few) == len(spread) == 31


@pytest.mark.parametrize("share", [0, -1, 0.001, float("nan"), float("inf"), "0.5", True])
def test_subsample_is_checked(folder: Path, share: Any) -> None:
    """Peer A.1: 0.001 of 100 gave a data set of length 0, without a word."""
    with pytest.raises(ConfigError, match="subsample"):
        StreamingDataset(folder, subsample=share)


@given(st.lists(st.integers(-SIZE, SIZE - 1), max_size=40))
def test_subset_by_indices(folder: Path, indices: list[int]) -> None:
    """Peer A.1: negative indices were refused."""
    part = StreamingDataset(folder).subset(indices)
    assert list(part) == [index % SIZE for index in indices]
    assert [part[number] for number in range(len(indices))] == [index % SIZE for index in indices]


@given(
    st.builds(
        slice,
        *[st.none() | st.integers(-120, 120)] * 2,
        st.none() | st.sampled_from([-7, -1, 1, 2, 9]),
    )
)
def test_subset_by_slice(folder: Path, chosen: slice) -> None:
    part = StreamingDataset(folder).subset(chosen)
    assert list(part) == list(range(SIZE))[chosen]


def test_subset_beyond_the_end(folder: Path) -> None:
    with pytest.raises(IndexError):
        StreamingDataset(folder).subset([SIZE])


# ---- distribution: the rows of peer A.3 ---------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "workers", "size", "drop", "batches", "samples"),
    [
        (1, 1, 8, None, 13, 103),
        (1, 1, 8, True, 12, 96),
        (1, 3, 8, None, 13, 103),
        (2, 1, 8, None, 6, 96),
        (2, 2, 8, False, 7, 104),  # the peer: 48 and 55, and a collective that hangs
        (4, 2, 16, None, 1, 64),
        (4, 2, 16, False, 2, 104),
    ],
)
def test_103_samples(
    folder: Path, ranks: int, workers: int, size: int, drop: bool | None, batches: int, samples: int
) -> None:
    """Peer A.3: the same number of batches on every rank, and what is dropped or repeated."""
    job = TrainingJob(
        lambda: StreamingDataset(folder, drop_last=drop),
        ranks=ranks,
        workers=workers,
        batch_size=size,
    )
    assert job.num_batches == batches
    read = samples_of(job.rest())
    assert len(read) == samples
    dropped = max(0, SIZE - samples)
    assert_nothing_lost(range(SIZE), read, dropped=dropped, repeated=max(0, samples - SIZE))
    for rank in range(ranks):
        dataset = StreamingDataset(folder, drop_last=drop, rank=rank, world_size=ranks)
        dataset.set_batch_size(size)
        dataset.set_num_workers(workers)
        assert len(dataset) == samples // ranks


@given(
    st.floats(0.2, 2.5),
    st.integers(0, 3),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)),
    st.integers(1, 40),
)
def test_a_part_of_a_part_is_dealt_exactly(
    folder: Path, share: float, seed: int, topology: tuple[int, int, int], window: int
) -> None:
    ranks, workers, size = topology

    def make() -> StreamingDataset:
        dataset = StreamingDataset(
            folder, subsample=share, shuffle=True, seed=seed, shuffle_window=window, drop_last=False
        )
        return train_test_split(dataset, [0.7, 0.3], seed=seed)[0]

    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size)
    part = make()
    everything = part[:]
    assert_nothing_lost(everything, samples_of(job.rest()), repeated=ranks - 1)


def test_a_random_part_resumes_at_every_step(folder: Path) -> None:
    def make() -> StreamingDataset:
        return train_test_split(StreamingDataset(folder, shuffle=True), [0.5, 0.5])[1]

    assert_resumable(make, ranks=2, workers=2, batch_size=3)
