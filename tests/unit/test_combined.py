"""``CombinedStreamingDataset``: what it checks, how long it is, what its state holds."""

from __future__ import annotations

import json
import math
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
)
from aiolit.errors import ConfigError, StateError
from aiolit.streaming.run import Readers
from aiolit.streaming.topology import Topology
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import TrainingJob, assert_resumable, samples_of

SIZES = (60, 25, 14)
FAR = 1000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("combined")
    return [
        write_dataset(root / str(m), range(m * FAR, m * FAR + size), chunk_size=6)
        for m, size in enumerate(SIZES)
    ]


@pytest.fixture
def members(folders: list[Path]) -> list[StreamingDataset]:
    return [StreamingDataset(folder, shuffle=True) for folder in folders]


def reopened(dataset: StreamingDataset, **options: Any) -> StreamingDataset:
    return StreamingDataset(dataset.input_dir, shuffle=True, **options)


# ---- what is checked at construction -----------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        [-1, 1, 1],
        [math.nan, 1, 1],
        [math.inf, 1, 1],
        [0, 0, 0],
        [1, 1],
        [1, 1, 1, 1],
        [],
        ["1", 1, 1],
        [True, 1, 1],
        [None, 1, 1],
    ],
)
def test_weights_are_checked_at_construction(
    members: list[StreamingDataset], weights: list[Any]
) -> None:
    """Peer A.4: a negative weight was accepted, a wrong number of them failed at iteration, all
    zero was a ZeroDivisionError."""
    with pytest.raises(ConfigError, match="weight"):
        CombinedStreamingDataset(members, weights=weights, iterate_over_all=False)
    fine = CombinedStreamingDataset(members, weights=[1, 0, 0], iterate_over_all=False)
    with pytest.raises(ConfigError, match="weight"):
        fine.set_weights(weights)


def test_weights_are_scaled(members: list[StreamingDataset]) -> None:
    one = CombinedStreamingDataset(members, weights=[1, 1, 2], iterate_over_all=False)
    two = CombinedStreamingDataset(
        members, weights=list(np.array([0.25, 0.25, 0.5])), iterate_over_all=False
    )
    assert list(one) == list(two)
    assert len(one) == 28  # the last member's 14 are half of it


@pytest.mark.parametrize("weights", [[1, 0], [0.0, 1.0]])
def test_a_weight_of_zero_leaves_a_member_out(
    members: list[StreamingDataset], weights: list[float]
) -> None:
    made = CombinedStreamingDataset(members[:2], weights=weights, iterate_over_all=False)
    assert {sample // FAR for sample in made} == {weights.index(max(weights))}


def test_weights_with_iterate_over_all_are_refused(members: list[StreamingDataset]) -> None:
    """Peer A.4: a ValueError too."""
    with pytest.raises(ConfigError, match="iterate_over_all=False"):
        CombinedStreamingDataset(members, weights=[1, 1, 1])
    with pytest.raises(ConfigError, match="iterate_over_all"):
        CombinedStreamingDataset(members).set_weights([1, 1, 1])


@pytest.mark.parametrize(
    "schedule",
    [[], [(5, [1, 1, 1])], [(0, [1, 1, 1]), (0, [1, 0, 0])], [(0, [1, 1])], [(0.5, [1, 1, 1])]],
)
def test_schedules_are_checked(members: list[StreamingDataset], schedule: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"weight"):
        CombinedStreamingDataset(members, weight_schedule=schedule, iterate_over_all=False)


@pytest.mark.parametrize("bad", [[], [object()], [[1, 2, 3]]])
def test_members_are_checked(bad: list[Any]) -> None:
    with pytest.raises(ConfigError):
        CombinedStreamingDataset(bad)


@pytest.mark.parametrize(
    "options",
    [{"seed": 1.5}, {"seed": True}, {"batching_method": "by_turns"}],
)
def test_options_are_checked(members: list[StreamingDataset], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CombinedStreamingDataset(members, **options)


def test_members_must_agree(folders: list[Path]) -> None:
    def pair(one: dict[str, Any], two: dict[str, Any]) -> CombinedStreamingDataset:
        return CombinedStreamingDataset(
            [StreamingDataset(folders[0], **one), StreamingDataset(folders[1], **two)]
        )

    with pytest.raises(ConfigError, match="drop_last"):
        pair({"drop_last": True}, {"drop_last": False})
    with pytest.raises(ConfigError, match="num_canonical_nodes"):
        pair({"num_canonical_nodes": 2}, {})
    assert pair({"drop_last": True}, {}).drop_last is True
    assert pair({"num_canonical_nodes": 2}, {"num_canonical_nodes": 2}).num_canonical_nodes == 2
    apart = pair({"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 2})
    with pytest.raises(ConfigError, match="rank 0 of 2 and as rank 1 of 2"):
        len(apart)
    place: dict[str, Any] = {"rank": 1, "world_size": 2}
    assert len(pair(place, place)) == (60 + 25) // 2


def test_per_stream_is_no_member(members: list[StreamingDataset]) -> None:
    inner = CombinedStreamingDataset(members, batching_method="per_stream")
    with pytest.raises(ConfigError, match="per_stream"):
        CombinedStreamingDataset([inner, members[0]])


@pytest.mark.parametrize("sizes", [[1, 2], [1, 2, 0], [1, 2, 3.0], [1, 2, 3, 4]])
def test_batch_sizes_are_checked(members: list[StreamingDataset], sizes: list[Any]) -> None:
    made = CombinedStreamingDataset(members, batching_method="per_stream")
    with pytest.raises(ConfigError, match="batch"):
        StreamingDataLoader(made, batch_size=sizes)
    with pytest.raises(ConfigError, match="per_stream"):
        StreamingDataLoader(CombinedStreamingDataset(members), batch_size=[1, 2, 3])


def test_a_batch_size_for_each_member(members: list[StreamingDataset]) -> None:
    """Peer A.2: the loader refused a list."""
    made = CombinedStreamingDataset(members, batching_method="per_stream")
    seen: dict[int, set[int]] = {}
    for batch in StreamingDataLoader(made, batch_size=[6, 5, 7]):
        (member,) = {sample // FAR for sample in batch.tolist()}
        seen.setdefault(member, set()).add(len(batch))
    assert seen == {0: {6}, 1: {5}, 2: {7}}


# ---- lengths --------------------------------------------------------------------------------


def kinds(folders: Sequence[Path], kind: str) -> CombinedStreamingDataset:
    datasets = [StreamingDataset(folder, shuffle=True) for folder in folders]
    every: dict[str, dict[str, Any]] = {
        "all": {},
        "weights": {"weights": [0.2, 0.5, 0.3], "iterate_over_all": False},
        "first": {"iterate_over_all": False},
        "schedule": {
            "weight_schedule": [(0, [1, 0, 0]), (20, [1, 1, 1])],
            "iterate_over_all": False,
        },
        "per_stream": {"batching_method": "per_stream"},
        "per_stream weights": {
            "batching_method": "per_stream",
            "weights": [0.5, 0.3, 0.2],
            "iterate_over_all": False,
        },
    }
    return CombinedStreamingDataset(datasets, **every[kind])


KINDS = ["all", "weights", "first", "schedule", "per_stream", "per_stream weights"]


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.sampled_from([None, True, False]),
    st.data(),
)
def test_lengths_are_exact(
    folders: list[Path],
    kind: str,
    ranks: int,
    workers: int,
    size: int,
    drop: bool | None,
    data: st.DataObject,
) -> None:
    """Peer A.4: ``len()`` was a TypeError where weights were given."""

    def make(rank: int = 0) -> CombinedStreamingDataset:
        datasets = [
            StreamingDataset(folder, shuffle=True, rank=rank, world_size=ranks)
            for folder in folders
        ]
        made = kinds(folders, kind)
        made.datasets[:] = datasets
        made.set_drop_last(drop)
        return made

    def measured(state: dict[str, Any] | None) -> tuple[list[int], list[int]]:
        told = []
        for rank in range(ranks):
            dataset = make(rank)
            loader = StreamingDataLoader(dataset, batch_size=size)
            dataset.set_num_workers(workers)
            if state is not None:
                loader.load_state_dict({"dataset": state})
            told.append(len(dataset))
        job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size, state=state)
        steps = job.rest()
        return told, [len(samples_of([[step[rank]] for step in steps])) for rank in range(ranks)]

    told, read = measured(None)
    assert told == read
    job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size)
    if job.num_batches > 1:
        job.take(data.draw(st.integers(1, job.num_batches - 1)))
        told, read = measured(job.state())
        assert told == read


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_knows_its_length(folders: list[Path], kind: str) -> None:
    loader = StreamingDataLoader(kinds(folders, kind), batch_size=4)
    said = len(loader)
    assert said == len(list(loader))
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    assert len(loader) == said  # while it is read: of the whole epoch
    state = loader.state_dict()
    again = StreamingDataLoader(kinds(folders, kind), batch_size=4)
    again.load_state_dict(state)
    assert len(again) == said - 3
    rest = iter(again)
    assert len(again) == said
    assert len(list(rest)) == said - 3
    assert len(again) == said


# ---- state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 1), (2, 2)])
def test_resumes_at_every_step(folders: list[Path], kind: str, ranks: int, workers: int) -> None:
    assert_resumable(
        lambda: kinds(folders, kind), ranks=ranks, workers=workers, batch_size=3, every=2
    )


def test_weights_set_while_reading_are_for_the_next_epoch(members: list[StreamingDataset]) -> None:
    def make() -> CombinedStreamingDataset:
        return CombinedStreamingDataset(members[:2], weights=[1, 1], iterate_over_all=False)

    whole = [batch.tolist() for batch in StreamingDataLoader(make(), batch_size=5)]
    loader = StreamingDataLoader(make(), batch_size=5)
    batches = iter(loader)
    begun = [next(batches).tolist() for _ in range(4)]
    source = loader.dataset
    assert isinstance(source, CombinedStreamingDataset)
    source.set_weights([1, 0])
    state = json.loads(json.dumps(loader.state_dict()))
    assert begun + [batch.tolist() for batch in batches] == whole
    assert {sample // FAR for batch in loader for sample in batch.tolist()} == {0}
    # The state is of the epoch that was running: with its weights.
    again = StreamingDataLoader(make(), batch_size=5)
    again.load_state_dict(state)
    resumed = again.dataset
    assert isinstance(resumed, CombinedStreamingDataset)
    resumed.set_weights([0, 1])
    assert begun + [batch.tolist() for batch in again] == whole
    assert {sample // FAR for batch in again for sample in batch.tolist()} == {1}


def test_weights_are_part_of_a_state_between_epochs(members: list[StreamingDataset]) -> None:
    """Peer A.2: 'weights are not restored by a TODO'."""

    def make() -> CombinedStreamingDataset:
        inner = CombinedStreamingDataset(members[:2], weights=[1, 1], iterate_over_all=False)
        return CombinedStreamingDataset(
            [inner, members[2]], weights=[0.1, 0.7], iterate_over_all=False
        )

    one = make()
    list(one)
    one.set_weights([0.3, 0.6])
    inner = one.datasets[0]
    assert isinstance(inner, CombinedStreamingDataset)
    inner.set_weights([0, 1])
    two = make()
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.state_dict() == one.state_dict()
    assert list(two) == list(one)


def test_what_changed_is_named(folders: list[Path], members: list[StreamingDataset]) -> None:
    state = CombinedStreamingDataset(members).state_dict()
    others: list[tuple[Any, str]] = [
        (CombinedStreamingDataset(members, seed=1), "seed was 42 and is 1"),
        (CombinedStreamingDataset(members, iterate_over_all=False), "iterate_over_all"),
        (CombinedStreamingDataset(members, batching_method="per_stream"), "batching_method"),
        (CombinedStreamingDataset(members[:2]), "members"),
        (CombinedStreamingDataset([StreamingDataset(one) for one in folders]), "shuffle"),
        (ParallelStreamingDataset(members), "kind"),
    ]
    for other, named in others:
        with pytest.raises(StateError, match=named):
            other.load_state_dict(state)
    forced = CombinedStreamingDataset(members, seed=1, force_override_state_dict=True)
    with pytest.warns(UserWarning, match="seed was 42 and is 1"):
        forced.load_state_dict(state)
    assert len(list(forced)) == sum(SIZES)


@pytest.mark.parametrize("state", [{}, {"version": 99}, {"version": 1, "kind": "x"}])
def test_other_states_are_refused(members: list[StreamingDataset], state: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        CombinedStreamingDataset(members).load_state_dict(state)


# ---- other ways to read it -------------------------------------------------------------------


def test_members_of_any_kind(folders: list[Path], members: list[StreamingDataset]) -> None:
    """Peer A.4: only StreamingDataset, nesting refused."""
    parallel = ParallelStreamingDataset(
        [reopened(members[0]), reopened(members[1])], transform=lambda samples: samples[0]
    )
    inner = CombinedStreamingDataset([reopened(members[1])])
    outer = CombinedStreamingDataset([parallel, inner, members[2]])
    assert len(outer) == 25 + 25 + 14
    read = list(outer)
    assert len(read) == len(set(read)) == 64
    assert_resumable(
        lambda: CombinedStreamingDataset(
            [ParallelStreamingDataset([reopened(one) for one in members[:2]]), reopened(members[2])]
        ),
        ranks=2,
        batch_size=3,
        every=3,
    )


def test_a_cycling_member_goes_on_in_the_next_epoch(members: list[StreamingDataset]) -> None:
    cycled = ParallelStreamingDataset([reopened(members[0])], length=20)
    outer = CombinedStreamingDataset([cycled, members[2]])
    read = [sample[0] for _ in range(3) for sample in outer if isinstance(sample, tuple)]
    assert sorted(read) == list(range(60))


def test_torchs_own_loader_reads_it_before_and_after(members: list[StreamingDataset]) -> None:
    """Peer A.4: after use with StreamingDataLoader it yielded internal dicts: KeyError."""
    made = CombinedStreamingDataset(members)
    for loader in (StreamingDataLoader(made, batch_size=4), DataLoader(made, batch_size=4)):
        read = torch.cat(list(loader)).tolist()
        assert len(read) == len(set(read)) == sum(SIZES)


def test_set_shuffle_reaches_the_members(members: list[StreamingDataset]) -> None:
    made = CombinedStreamingDataset(members[:1])
    made.set_shuffle(False)
    assert list(made) == list(range(SIZES[0]))


def test_fewer_samples_than_a_batch_of_every_rank(folders: list[Path]) -> None:
    """Peer A.3: small data sets yielded no batch, silently."""
    dataset = CombinedStreamingDataset(
        [StreamingDataset(folders[2], rank=0, world_size=4, drop_last=True)]
    )
    loader = StreamingDataLoader(dataset, batch_size=4)
    with pytest.warns(UserWarning, match="there is no batch: 14 samples are fewer"):
        assert len(loader) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(loader) == []


def test_num_samples_is_of_all_ranks(folders: list[Path]) -> None:
    datasets = [StreamingDataset(folder, rank=1, world_size=3) for folder in folders]
    made = CombinedStreamingDataset(datasets)
    assert made.num_samples == sum(SIZES)
    assert len(made) == sum(SIZES) // 3


# ---- cost ------------------------------------------------------------------------------------


def test_ten_million_samples_on_512_workers(tmp_path: Path) -> None:
    """Planning and resuming cost what the chunks do, wherever in the epoch: nothing is replayed
    (the peer draws every choice again). Only the indexes are there, so nothing can be read."""
    count, chunks = 10_000_000, 10_000
    path = write_dataset(tmp_path / "d", [0, 1], chunk_size=2) / "index.json"
    document = json.loads(path.read_text())
    entry, size = document["chunks"][0], count // chunks
    document["chunks"] = [
        {**entry, "filename": f"chunk-0-{n}.bin", "chunk_size": size, "chunk_bytes": 12 * size}
        for n in range(chunks)
    ]
    path.write_text(json.dumps(document))
    members = [StreamingDataset(tmp_path / "d", shuffle=True, seed=seed) for seed in (1, 2, 3)]
    made = CombinedStreamingDataset(
        [
            CombinedStreamingDataset(members[:2], weights=[0.9, 0.4], iterate_over_all=False),
            ParallelStreamingDataset(members[2:]),
        ]
    )
    readers = Readers(Topology(13, 64), 8, 32)
    whole = made.begin(readers)
    state = made.save_run(whole, int(whole.num_batches * 0.9))
    assert len(json.dumps(state)) < 3000
    tracemalloc.start()
    made.load_state_dict(state)
    run = made.begin(readers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert run.num_batches == whole.num_batches - int(whole.num_batches * 0.9)
    assert peak < 24 * chunks * len(members) * 8
