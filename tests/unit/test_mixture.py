"""Mixtures over lanes, ranks and workers: exact shares, steps in common, choices that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit import CombinedStreamingDataset, StreamingDataset
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import TrainingJob, assert_nothing_lost, samples_of

SIZES = (120, 45, 31, 8, 3)
FAR = 1000  # member m holds m * FAR, m * FAR + 1, ...


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("mixture")
    return [
        write_dataset(root / str(m), range(m * FAR, m * FAR + size), chunk_size=7 + m)
        for m, size in enumerate(SIZES)
    ]


def mixture(folders: Sequence[Path], members: int, **options: Any) -> CombinedStreamingDataset:
    datasets = [
        StreamingDataset(folder, shuffle=number % 2 == 0, shuffle_window=20)
        for number, folder in enumerate(folders[:members])
    ]
    return CombinedStreamingDataset(datasets, **options)


def members_of(samples: Sequence[int]) -> list[int]:
    return [sample // FAR for sample in samples]


topologies = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))


@given(st.integers(2, 5), topologies, st.booleans(), st.integers(1, 3))
def test_iterate_over_all_reads_every_sample_once(
    folders: list[Path], members: int, topology: tuple[int, int, int], drop: bool, epoch: int
) -> None:
    ranks, workers, size = topology

    def make() -> CombinedStreamingDataset:
        made = mixture(folders, members)
        made.set_drop_last(drop)
        return made

    total = sum(SIZES[:members])
    if drop and total < ranks * size:
        return
    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size, epoch=epoch)
    read = samples_of(job.rest())
    everything = [m * FAR + one for m in range(members) for one in range(SIZES[m])]
    dropped, repeated = (ranks * size - 1, 0) if drop else (0, ranks - 1)
    assert_nothing_lost(everything, read, dropped=dropped, repeated=repeated)


@given(
    st.lists(st.just(0) | st.floats(0.01, 10), min_size=2, max_size=5).filter(any),
    topologies,
    st.integers(1, 3),
)
def test_weights_are_realised_within_one_sample(
    folders: list[Path], weights: list[float], topology: tuple[int, int, int], epoch: int
) -> None:
    """Peer A.4: each worker stopped when its own share of a member was exhausted."""
    ranks, workers, size = topology
    members = len(weights)

    def make() -> CombinedStreamingDataset:
        made = mixture(folders, members, weights=weights, iterate_over_all=False)
        made.set_drop_last(False)
        return made

    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size, epoch=epoch)
    steps = job.rest()
    read = samples_of(steps)
    shares = np.array(weights) / sum(weights)
    lasts = min(n / share for n, share in zip(SIZES, shares, strict=False) if share > 0)
    total = make().num_samples
    assert -1e-6 <= lasts - total < members
    assert_nothing_lost(sorted(set(read)), read, repeated=ranks - 1)  # none comes twice
    assert len(set(read)) == total
    found = np.bincount(members_of(sorted(set(read))), minlength=members)
    assert np.abs(found - shares * total).max() <= 1
    # Every rank has its share, but for what rounding does in each of its lanes.
    for rank in range(ranks):
        own = samples_of([[step[rank]] for step in steps])
        counts = np.bincount(members_of(own), minlength=members)
        assert np.abs(counts - shares * len(own)).max() <= 2 * workers + 2


@pytest.mark.parametrize("members", [2, 3, 4, 5])
def test_proportions_hold_all_along_the_epoch(tmp_path: Path, members: int) -> None:
    datasets = [
        StreamingDataset(write_dataset(tmp_path / str(m), [m] * 2000, chunk_size=500))
        for m in range(members)
    ]
    weights = np.arange(1, members + 1, dtype=float)
    made = CombinedStreamingDataset(datasets, weights=weights.tolist(), iterate_over_all=False)
    read = list(made)
    shares = weights / weights.sum()
    for border in range(256, len(read) + 1, 256):
        counts = np.bincount(read[:border], minlength=members)
        assert np.abs(counts - shares * border).max() < 1
    # Not in rounds: the order inside a block is random.
    assert read[: members * 3] != sorted(read[: members * 3])


def choices(folders: list[Path], **where: Any) -> list[list[int]]:
    job = TrainingJob(lambda: mixture(folders, 3), **where)
    ranks = list(zip(*job.rest(), strict=True))
    return [members_of([sample for batch in rank for sample in batch]) for rank in ranks]


def test_the_choices_differ_by_epoch_rank_and_worker(folders: list[Path]) -> None:
    """Peer fact 6: the same choice sequence every epoch, in every worker, on every rank."""
    first, second = choices(folders, ranks=2, batch_size=4)
    assert first != second
    later = choices(folders, ranks=2, batch_size=4, epoch=2)
    assert later[0] != first
    assert choices(folders, ranks=2, batch_size=4)[0] == first  # and nothing else
    dataset = mixture(folders, 3)
    dataset.set_batch_size(4)
    job = TrainingJob(lambda: dataset, workers=2, batch_size=4)
    batches = [members_of(batch) for step in job.rest() for batch in step]
    assert batches[0::2][:9] != batches[1::2][:9]
    other_seed = TrainingJob(lambda: mixture(folders, 3, seed=7), ranks=2, batch_size=4)
    assert members_of(samples_of(other_seed.rest())[:50]) != first[:50]


@given(topologies, st.integers(1, 3), st.sampled_from([None, True, False]))
def test_per_stream_batches_are_of_one_member(
    folders: list[Path], topology: tuple[int, int, int], epoch: int, drop: bool | None
) -> None:
    ranks, workers, size = topology
    sizes = (size, size + 2, 1)

    def make() -> CombinedStreamingDataset:
        made = mixture(folders, 3, batching_method="per_stream")
        made.set_drop_last(drop)
        return made

    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=sizes, epoch=epoch)
    steps = job.rest()
    short: dict[int, int] = {}
    for step in steps:
        for batch in step:
            (member,) = set(members_of(batch))
            assert len(batch) <= sizes[member]
            if len(batch) < sizes[member]:
                short[member] = short.get(member, 0) + 1
    dropping = drop or (drop is None and ranks > 1)
    everything = [m * FAR + one for m in range(3) for one in range(SIZES[m])]
    if dropping:
        assert not short
        left_out = sum(n % one for n, one in zip(SIZES, sizes, strict=False))
        dropped, repeated = left_out + (ranks - 1) * max(sizes), 0
    else:
        assert all(count <= ranks for count in short.values())
        dropped, repeated = 0, (ranks - 1) * max(sizes)
    assert_nothing_lost(everything, samples_of(steps), dropped=dropped, repeated=repeated)


def test_per_stream_keeps_the_weights_of_two_members(tmp_path: Path) -> None:
    """Peer fact 5: 0.9/0.1 over two data sets gave A, B, A, B, ..."""
    datasets = [
        StreamingDataset(write_dataset(tmp_path / str(m), [m] * 900, chunk_size=300))
        for m in range(2)
    ]
    made = CombinedStreamingDataset(
        datasets, weights=[0.9, 0.1], iterate_over_all=False, batching_method="per_stream"
    )
    batches = samples_of(TrainingJob(lambda: made, batch_size=3).rest())
    counts = np.bincount(batches)
    assert counts.tolist() == [900, 99]


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 7), st.integers(0, 90))
def test_a_schedule_changes_the_weights_where_it_says(
    folders: list[Path], ranks: int, workers: int, size: int, change: int
) -> None:
    def make() -> CombinedStreamingDataset:
        schedule = [(0, [1, 0, 1]), (change + 1, [0, 1, 0])]
        made = mixture(folders, 3, weight_schedule=schedule, iterate_over_all=False)
        made.set_drop_last(False)
        return made

    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size)
    steps = job.rest()
    read = samples_of(steps)
    first = min(change + 1, 2 * SIZES[2])
    second = 0 if change + 1 > 2 * SIZES[2] else SIZES[1]
    unique = sorted(set(read))
    assert sum(member != 1 for member in members_of(unique)) == first
    assert sum(member == 1 for member in members_of(unique)) == second
    # All readers go over together: within what one batch of every worker holds. (The last step
    # may repeat a sample of the first.)
    kinds = [{member == 1 for member in members_of(samples_of([step]))} for step in steps[:-1]]
    mixed = [number for number, kind in enumerate(kinds) if len(kind) == 2]
    assert not mixed or max(mixed) - min(mixed) <= 2 * workers


def test_a_schedule_ends_where_a_member_is_used_up(folders: list[Path]) -> None:
    made = mixture(
        folders, 2, weight_schedule=[(0, [0, 1]), (1000, [1, 0])], iterate_over_all=False
    )
    assert sorted(members_of(list(made))) == [1] * SIZES[1]


@given(topologies, st.integers(1, 3))
def test_a_mixture_of_mixtures(
    folders: list[Path], topology: tuple[int, int, int], epoch: int
) -> None:
    ranks, workers, size = topology

    def make() -> CombinedStreamingDataset:
        inner = mixture(folders, 2, weights=[1, 1], iterate_over_all=False)
        outer = CombinedStreamingDataset(
            [inner, StreamingDataset(folders[2])], weights=[2, 1], iterate_over_all=False
        )
        outer.set_drop_last(False)
        return outer

    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size, epoch=epoch)
    read = samples_of(job.rest())
    assert_nothing_lost(sorted(set(read)), read, repeated=ranks - 1)
    counts = np.bincount(members_of(sorted(set(read))), minlength=3)
    # The third ends the epoch: 31 of it, 62 of the inner one, which gives halves.
    assert counts[2] == 31
    assert np.abs(counts[:2] - 31).max() <= workers * ranks + 1
    assert counts.sum() == 93


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([None, True, False]),
    st.data(),
)
def test_per_stream_goes_on_with_other_ranks_and_workers(
    folders: list[Path],
    one: tuple[int, int],
    two: tuple[int, int],
    drop: bool | None,
    data: st.DataObject,
) -> None:
    """Short batches are dropped, or not, as the topology that the epoch began on says; whole ones
    as the one that ends it says."""
    sizes = (5, 4, 7)

    def job(where: tuple[int, int], state: dict[str, Any] | None = None) -> TrainingJob:
        def make() -> CombinedStreamingDataset:
            made = mixture(folders, 3, batching_method="per_stream")
            made.set_drop_last(drop)
            return made

        return TrainingJob(make, ranks=where[0], workers=where[1], batch_size=sizes, state=state)

    begun = job(one)
    first = begun.take(data.draw(st.integers(1, begun.num_batches - 1)))
    following = job(two, begun.state())
    read = first + (following.rest() if following.epoch == begun.epoch else [])
    short_ones = drop or (drop is None and one[0] > 1)
    last_ones = drop or (drop is None and two[0] > 1)
    left_out = sum(n % size for n, size in zip(SIZES, sizes, strict=False)) if short_ones else 0
    assert_nothing_lost(
        [m * FAR + number for m in range(3) for number in range(SIZES[m])],
        samples_of(read),
        dropped=left_out + ((two[0] - 1) * max(sizes) if last_ones else 0),
        repeated=0 if last_ones else (two[0] - 1) * max(sizes),
    )
    for step in read:
        for batch in step:
            assert len(set(members_of(batch))) == 1


def test_weights_beyond_measure(folders: list[Path]) -> None:
    made = mixture(folders, 3, weights=[1e308, 5e-324, 1e308], iterate_over_all=False)
    assert np.bincount(members_of(list(made))).tolist() == [31, 0, 31]
