"""``ParallelStreamingDataset``: tuples, cycling over epochs and restarts, generators."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
)
from aiolit.errors import ConfigError, StateError
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import TrainingJob, assert_nothing_lost, assert_resumable, samples_of

SIZES = (40, 10, 23)
FAR = 1000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("parallel")
    return [
        write_dataset(root / str(m), range(m * FAR, m * FAR + size), chunk_size=4 + m)
        for m, size in enumerate(SIZES)
    ]


def opened(
    folders: Sequence[Path], members: Sequence[int] = (0, 1), *, shuffle: bool = True
) -> list[StreamingDataset]:
    return [StreamingDataset(folders[m], shuffle=shuffle, shuffle_window=9) for m in members]


def with_random(samples: tuple[Any, ...], rngs: Any) -> tuple[Any, ...]:
    torch_bits = rngs["torch"].initial_seed()
    return (*samples, rngs["random"].random(), float(rngs["numpy"].random()), torch_bits)


# ---- what is checked -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, -1, 2.5, math.nan, True, "3", -math.inf])
def test_length_is_checked(folders: list[Path], length: Any) -> None:
    """Peer A.5: ``length`` is an int, None or ``float("inf")``."""
    with pytest.raises(ConfigError, match="length"):
        ParallelStreamingDataset(opened(folders), length=length)


def three(a: Any, b: Any, c: Any) -> Any:
    return a, b, c


def none() -> Any:
    return None


@pytest.mark.parametrize("transform", [three, none, 5])
def test_transform_is_checked(folders: list[Path], transform: Any) -> None:
    """Peer A.5: a transform takes the samples, or the samples and rngs."""
    with pytest.raises(ConfigError, match="transform"):
        ParallelStreamingDataset(opened(folders), transform=transform)


def with_defaults(samples: Any = None, rngs: Any = None) -> Any:
    return samples, sorted(rngs)


def with_another_default(samples: Any, other: int = 5) -> Any:
    return samples, other


def any_number(*samples: Any) -> Any:
    return samples


def test_a_transform_may_have_defaults(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders), transform=with_defaults)
    assert next(iter(made))[1] == ["numpy", "random", "torch"]
    made = ParallelStreamingDataset(opened(folders), transform=with_another_default)
    assert next(iter(made))[1] == 5
    made = ParallelStreamingDataset(opened(folders), transform=any_number)
    assert len(next(iter(made))) == 1


def test_members_must_have_samples(folders: list[Path]) -> None:
    empty = opened(folders)[0].subset([])
    with pytest.raises(ConfigError, match="no samples"):
        len(ParallelStreamingDataset([opened(folders)[0], empty], length=3))
    assert list(ParallelStreamingDataset([opened(folders)[0], empty])) == []


# ---- lengths and cycles -------------------------------------------------------------------


def test_the_shortest_member_ends_an_epoch(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders, (0, 1, 2)))
    assert len(made) == 10
    read = list(made)
    assert sorted(sample[1] for sample in read) == list(range(FAR, FAR + 10))


def test_the_longer_member_goes_on_in_the_next_epoch(folders: list[Path]) -> None:
    """Peer A.5: [0, 10, 20], [30, 40, 50], ...: an epoch goes on where the one before stopped."""
    made = ParallelStreamingDataset(opened(folders))
    read = [[one for one, _ in made] for _ in range(4)]
    assert sorted(one for epoch in read for one in epoch) == list(range(40))
    again = ParallelStreamingDataset(opened(folders), resume=False)
    first, second = list(again), list(again)
    assert {one for one, _ in first} == {one for one, _ in second}
    assert {one for one, _ in first} != set(read[1])


@pytest.mark.parametrize("shuffle", [True, False])
@given(
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_cycles_are_exact_over_epochs(
    folders: list[Path],
    shuffle: bool,
    length: int,
    ranks: int,
    workers: int,
    size: int,
    epochs: int,
) -> None:
    """After n samples each sample of a member came n // size times, or once more."""
    state = None
    seen: list[Counter[int]] = [Counter(), Counter()]
    for _ in range(epochs):
        job = TrainingJob(
            lambda: ParallelStreamingDataset(opened(folders, shuffle=shuffle), length=length),
            ranks=ranks,
            workers=workers,
            batch_size=size,
            state=state,
        )
        steps = job.rest()
        state = job.state()
        for rank in range(ranks):  # peer A.5: ``length`` is each rank's
            assert len(samples_of([[step[rank]] for step in steps])) == length
        for sample in samples_of(steps):
            for member, one in enumerate(sample):
                seen[member][one % FAR] += 1
    total = epochs * length * ranks
    for counts, have in zip(seen, SIZES, strict=False):
        assert counts.total() == total
        assert set(counts.values()) <= {total // have, total // have + 1}
        assert len(counts) == min(total, have)


def test_members_are_aligned_where_nothing_is_shuffled(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders, (0, 2), shuffle=False), length=60)
    job = TrainingJob(lambda: made, workers=2, batch_size=4)
    read = samples_of(job.rest())
    assert sorted(read) == sorted((at % 40, 2 * FAR + at % 23) for at in range(60))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 80))
def test_an_endless_epoch_goes_round(
    folders: list[Path], ranks: int, workers: int, size: int, steps: int
) -> None:
    made: Callable[[], ParallelStreamingDataset]
    made = lambda: ParallelStreamingDataset(opened(folders), length=math.inf)  # noqa: E731
    job = TrainingJob(made, ranks=ranks, workers=workers, batch_size=size)
    read = samples_of(job.take(steps))
    assert len(read) == steps * ranks * size
    counts = Counter(one for _, one in read)
    in_flight = 2 * ranks * size * workers + 10
    assert max(counts.values()) <= len(read) / 10 + in_flight / 10 + 2


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.data())
def test_an_endless_epoch_resumes_anywhere(
    folders: list[Path], ranks: int, workers: int, size: int, data: st.DataObject
) -> None:
    stop, more = data.draw(st.integers(1, 120)), 30

    def job(state: dict[str, Any] | None = None) -> TrainingJob:
        return TrainingJob(
            lambda: ParallelStreamingDataset(
                opened(folders), length=math.inf, transform=with_random
            ),
            ranks=ranks,
            workers=workers,
            batch_size=size,
            state=state,
        )

    first = job()
    first.take(stop)
    state = first.state()
    assert len(json.dumps(state)) < 2000  # it does not grow with the rounds
    assert job(state).take(more) == first.take(more)


@pytest.mark.keeps_open("environment", reason="torch sets its SIGCHLD handler for good")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_endless_loader(folders: list[Path], workers: int) -> None:
    """Peer A.2: ``len()`` of it is a TypeError."""

    def loader() -> StreamingDataLoader:
        made = ParallelStreamingDataset(opened(folders), length=math.inf)
        return StreamingDataLoader(made, batch_size=4, num_workers=workers)

    one = loader()
    with pytest.raises(TypeError, match="no length"):
        len(one)
    with pytest.raises(TypeError, match="no length"):
        len(one.dataset)  # type: ignore[arg-type]
    batches = iter(one)
    for _ in range(37):
        next(batches)
    state = json.loads(json.dumps(one.state_dict()))
    expected = [[column.tolist() for column in next(batches)] for _ in range(20)]
    del batches
    two = loader()
    two.load_state_dict(state)
    assert [[column.tolist() for column in batch] for batch in islice(two, 20)] == expected


def test_iterated_without_a_loader(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders), length=math.inf)
    read = list(islice(made, 95))
    assert sorted(one for one, _ in read[:80]) == sorted([*range(40), *range(40)])


# ---- generators ---------------------------------------------------------------------------


def test_generators_are_the_same_each_time_and_differ_by_sample(folders: list[Path]) -> None:
    def job(**options: Any) -> list[Any]:
        made = ParallelStreamingDataset(opened(folders), transform=with_random, **options)
        return samples_of(TrainingJob(lambda: made, ranks=1, workers=2, batch_size=3).rest())

    read = job()
    assert read == job()
    assert len({sample[2:] for sample in read}) == len(read)
    other = job(seed=1)
    assert [sample[:2] for sample in other] == [sample[:2] for sample in read]
    assert not {sample[2:] for sample in other} & {sample[2:] for sample in read}


def test_generators_differ_by_epoch_unless_reset(folders: list[Path]) -> None:
    def epochs(**options: Any) -> list[list[Any]]:
        made = ParallelStreamingDataset(opened(folders), transform=with_random, **options)
        return [[sample[2:] for sample in made] for _ in range(2)]

    first, second = epochs()
    assert not set(first) & set(second)
    first, second = epochs(reset_rngs=True)
    assert first == second


def test_a_generator_of_a_name_that_is_none(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders), transform=lambda s, rngs: rngs["jax"])
    with pytest.raises(KeyError):
        next(iter(made))
    names = ParallelStreamingDataset(opened(folders), transform=lambda s, rngs: sorted(rngs))
    assert next(iter(names)) == ["numpy", "random", "torch"]


def test_a_transform_with_a_default_takes_the_samples_alone(folders: list[Path]) -> None:
    made = ParallelStreamingDataset(opened(folders), transform=lambda s, scale=2: s[0] * scale)
    assert next(iter(made)) % 2 == 0


# ---- state --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [None, 31])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2)])
def test_resumes_at_every_step(
    folders: list[Path], length: int | None, ranks: int, workers: int
) -> None:
    assert_resumable(
        lambda: ParallelStreamingDataset(
            opened(folders, (0, 2)), length=length, transform=with_random
        ),
        ranks=ranks,
        workers=workers,
        batch_size=3,
    )


@pytest.mark.parametrize("length", [None, 31])
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
    st.data(),
)
def test_the_rest_on_another_topology_is_what_was_left(
    folders: list[Path],
    length: int | None,
    one: tuple[int, int, int],
    two: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    """Unshuffled members stay aligned; the length is that of the topology the epoch began on."""

    def job(at: tuple[int, int, int], state: dict[str, Any] | None = None) -> TrainingJob:
        def make() -> ParallelStreamingDataset:
            made = ParallelStreamingDataset(opened(folders, (0, 2), shuffle=False), length=length)
            made.set_drop_last(False)
            return made

        return TrainingJob(make, ranks=at[0], workers=at[1], batch_size=at[2], state=state)

    total = 23 if length is None else 31 * one[0]
    whole = [(at % 40, 2 * FAR + at % 23) for at in range(total)]
    begun = job(one)
    if begun.num_batches < 2:
        return
    first = begun.take(data.draw(st.integers(1, begun.num_batches - 1)))
    rest = job(two, begun.state())
    read = samples_of(first) + samples_of(rest.rest())
    assert_nothing_lost(whole, read, repeated=two[0] - 1)
    # The epoch after goes on with the cycle as if nothing had happened.
    following = samples_of(job(two, rest.state()).rest())
    then = 23 if length is None else 31 * two[0]
    after = [((total + at) % 40, 2 * FAR + (total + at) % 23) for at in range(then)]
    assert_nothing_lost(after, following, repeated=two[0] - 1)


def test_what_changed_is_named(folders: list[Path]) -> None:
    state = ParallelStreamingDataset(opened(folders), length=10).state_dict()
    changes: list[tuple[dict[str, Any], str]]
    changes = [({"length": 11}, "length"), ({"length": 10, "seed": 3}, "seed")]
    for options, named in changes:
        with pytest.raises(StateError, match=named):
            ParallelStreamingDataset(opened(folders), **options).load_state_dict(state)


# ---- nesting ------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 5), st.integers(1, 3))
def test_parallel_of_mixtures_and_of_itself(
    folders: list[Path], ranks: int, workers: int, size: int, epochs: int
) -> None:
    def make() -> ParallelStreamingDataset:
        mixture = CombinedStreamingDataset(opened(folders, (1, 2)))
        inner = ParallelStreamingDataset(opened(folders, (0,)), length=5)
        made = ParallelStreamingDataset([mixture, inner], length=12)
        made.set_drop_last(False)
        return made

    state, mixed, cycled = None, Counter[int](), Counter[int]()
    for _ in range(epochs):
        job = TrainingJob(make, ranks=ranks, workers=workers, batch_size=size, state=state)
        for one, (other,) in samples_of(job.rest()):
            mixed[one] += 1
            cycled[other] += 1
        state = job.state()
    total = 12 * ranks * epochs  # of 33 and of 40
    assert set(mixed.values()) <= {total // 33, total // 33 + 1}
    assert set(cycled.values()) <= {total // 40, total // 40 + 1}
    assert mixed.total() == cycled.total() == total


def test_resumable_when_nested(folders: list[Path]) -> None:
    assert_resumable(
        lambda: ParallelStreamingDataset(
            [CombinedStreamingDataset(opened(folders, (1, 2))), *opened(folders, (0,))],
            length=50,
            transform=with_random,
        ),
        ranks=2,
        workers=2,
        batch_size=3,
        every=2,
    )
