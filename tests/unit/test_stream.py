"""What a worker fetches and when it lets go: pieces, windows, sparse samples."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.lanes import (
    Lanes,
    OrderOptions,
    Pool,
    default_window,
    epoch_pool,
    window_bounds,
)
from aiolit.plan.runs import Runs
from aiolit.plan.stream import LaneStream

TRIPLES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 20)).map(
        lambda run: (run[0], run[1], run[1] + run[2])
    ),
    max_size=12,
)
OPTIONS = st.builds(
    OrderOptions, shuffle=st.booleans(), seed=st.integers(0, 9), window=st.integers(1, 80)
)


def lanes_of(runs: Runs, lengths: list[int], options: OrderOptions) -> Lanes:
    return Lanes(Pool([runs]), np.array(lengths, np.int64), options, (1, 0))


@given(TRIPLES, OPTIONS)
def test_windows_cut_a_lane(triples: list[tuple[int, int, int]], options: OrderOptions) -> None:
    runs = Runs.of(triples)
    bounds = window_bounds(runs, options)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == len(runs)
    assert (sizes > 0).all()
    if options.shuffle:
        assert (sizes <= options.window + options.window // 2).all()
    else:
        assert set(bounds[1:]) <= set(runs.ends.tolist())


@given(TRIPLES, OPTIONS, st.data())
def test_lanes_read_side_by_side(
    triples: list[tuple[int, int, int]], options: OrderOptions, data: st.DataObject
) -> None:
    """Whatever the steps: the samples of each lane, from pieces that are there until their last."""
    runs = Runs.of(triples)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(runs)), max_size=2)))
    lengths = np.diff([0, *cuts, len(runs)]).tolist()
    lanes = lanes_of(runs, lengths, options)
    listed = [lanes.lane(number) for number in range(len(lengths))]
    whole = [_drained(LaneStream([lane], [0])) for lane in listed]
    assert Counter(s for lane in whole for s in lane) == Counter(
        (chunk, one) for chunk, start, stop in runs for one in range(start, stop)
    )
    skips = [data.draw(st.integers(0, length)) for length in lengths]
    stream = LaneStream(listed, skips)
    assert stream.num_samples == len(runs) - sum(skips)
    got: list[list[tuple[int, int]]] = [[] for _ in lengths]
    finished: set[int] = set()
    while stream.num_samples:
        lane = data.draw(st.sampled_from([n for n in range(len(lengths)) if stream.left(n)]))
        taken = stream.take(lane, data.draw(st.integers(1, stream.left(lane))))
        assert not finished & set(taken.piece.tolist())
        for number, sample in zip(taken.piece.tolist(), taken.sample.tolist(), strict=True):
            piece = stream.pieces[number]
            assert piece.start <= sample < piece.stop
            assert piece.samples is None or sample in piece.samples
            got[lane].append((piece.chunk, sample))
        for pieces in taken.finished:
            assert not finished & set(pieces)
            finished |= set(pieces)
    assert got == [lane[skip:] for lane, skip in zip(whole, skips, strict=True)]
    assert finished == set(range(len(stream.pieces)))


def _drained(stream: LaneStream) -> list[tuple[int, int]]:
    taken = stream.take(0, stream.num_samples)
    chunks = [stream.pieces[piece].chunk for piece in taken.piece.tolist()]
    return list(zip(chunks, taken.sample.tolist(), strict=True))


def test_more_than_there_is() -> None:
    stream = LaneStream([lanes_of(Runs.of([(0, 0, 5)]), [5], OrderOptions()).lane(0)], [0])
    with pytest.raises(IndexError, match="6 samples asked for and 5 left"):
        stream.take(0, 6)


def test_a_chunk_is_one_piece_of_a_window() -> None:
    """A window of eight chunks wants each of them once, however its samples are mixed."""
    options = OrderOptions(True, 3, 80)
    runs = epoch_pool(Runs.whole(np.full(16, 10)), options, 1).slice(0, 160)
    stream = LaneStream([lanes_of(runs, [160], options).lane(0)], [0])
    assert [piece.count for piece in stream.pieces] == [10] * 16
    assert stream.widest_window == 8
    first = stream.take(0, 80)
    assert len(set(first.piece.tolist())) == 8
    assert first.finished == [range(8)]
    mixed = np.diff(first.piece)
    assert (mixed != 0).mean() > 0.5


def test_pieces_of_two_lanes_are_fetched_in_the_order_of_need() -> None:
    runs = Runs.whole(np.full(8, 10))
    lanes = lanes_of(runs, [40, 40], OrderOptions(True, 1, 10))
    stream = LaneStream([lanes.lane(0), lanes.lane(1)], [0, 0])
    assert [piece.chunk for piece in stream.pieces] == [0, 4, 1, 5, 2, 6, 3, 7]


def test_few_samples_of_a_chunk_are_named() -> None:
    sparse = Runs.of([(0, 3, 4), (0, 90, 91), (1, 5, 9), (1, 10, 12)])
    stream = LaneStream([lanes_of(sparse, [8], OrderOptions(window=100)).lane(0)], [0])
    one, two = stream.pieces
    assert (one.samples, one.count, one.fetched) == ((3, 90), 2, 2)
    assert (two.start, two.stop, two.samples, two.fetched) == (5, 12, None, 7)


def test_a_chunk_of_several_runs_moves_as_one() -> None:
    runs = Runs.of([(c, start, start + 2) for c in range(20) for start in (0, 5, 9)])
    options = OrderOptions(True, 5, 6)
    order = [chunk for chunk, _, _ in epoch_pool(runs, options, 1).slice(0, len(runs))]
    assert [order[at] for at in range(0, 60, 3)] == list(dict.fromkeys(order))
    assert order != sorted(order)


def test_a_long_run_is_written_out_in_parts() -> None:
    """Read as it lies, whatever the steps; its piece is let go behind its last sample only."""
    runs = Runs.of([(0, 0, 50), (1, 7, 200_007), (2, 0, 3)])
    stream = LaneStream([lanes_of(runs, [len(runs)], OrderOptions(window=20)).lane(0)], [2])
    got: list[tuple[int, int]] = []
    let_go = []
    for step in (1, 65_590, 3, 70_000, len(runs)):
        taken = stream.take(0, min(step, stream.num_samples))
        got += zip(taken.piece.tolist(), taken.sample.tolist(), strict=True)
        let_go.append(taken.finished)
    chunks = [(stream.pieces[piece].chunk, sample) for piece, sample in got]
    assert chunks == [(c, one) for c, start, stop in runs for one in range(start, stop)][2:]
    assert let_go == [[], [range(1)], [], [], [range(1, 2), range(2, 3)]]


@pytest.mark.parametrize("window", [10**6, None])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_plan_of_what_an_index_merely_says(shuffle: bool, window: int | None) -> None:
    """A billion samples in a chunk: nothing is as large as that before the chunk is opened."""
    counts = np.array([10, 10**9, 10], np.int64)
    if window is None:
        window = default_window(counts, 4 * (counts + 2))
    options = OrderOptions(shuffle, 1, window, 2 if shuffle else 0)
    tracemalloc.start()
    try:
        pool = epoch_pool(Runs.whole(counts), options, 1)
        lanes = Lanes(pool, np.array([len(pool)]), options, (1, 0))
        stream = LaneStream([lanes.lane(0)], [0])
        first = stream.take(0, 64)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(first.sample) == 64
    assert most < 150 << 20


@pytest.mark.parametrize("shuffle", [False, True])
def test_small_windows_of_what_an_index_merely_says(shuffle: bool) -> None:
    """As many as a plan has room for; where a lane is not so long they are as asked for."""
    options = OrderOptions(shuffle, 1, 256)
    assert len(window_bounds(Runs.of([(0, 0, 10**9)]), options)) < 20_000
    assert len(window_bounds(Runs.whole(np.full(4000, 1000)), options)) > 3000 * (1 + shuffle)
