"""The decisions of `optimize`: runs, their order, what an interrupted job has done."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import ConfigError
from aiolit.processing.journal import Covered, Ledger, Progress, Record, merge_ranges
from aiolit.processing.protocol import Remainder
from aiolit.processing.reassembly import Reassembly
from aiolit.processing.runs import RunSizer
from aiolit.processing.scheduler import cut
from aiolit.processing.weights import WeightedSizer, check_weights


class TestRunSizer:
    def test_starts_with_one_and_grows_at_most_fourfold(self) -> None:
        sizer = RunSizer(2)
        sizes: list[int] = []
        for _ in range(6):
            sizes.append(sizer.next_size())
            sizer.finished(sizes[-1], seconds=1e-6 * sizes[-1])
        assert sizes == [1, 4, 16, 64, 256, 1024]

    def test_aims_at_a_tenth_of_a_second(self) -> None:
        sizer = RunSizer(2)
        for _ in range(20):
            size = sizer.next_size()
            sizer.finished(size, seconds=0.002 * size)
        assert size == 50

    def test_slow_inputs_travel_alone(self) -> None:
        sizer = RunSizer(2)
        sizer.finished(1, seconds=5.0)
        assert sizer.next_size() == 1

    def test_the_last_runs_are_short(self) -> None:
        sizer = RunSizer(4, total=1000)
        sizes: list[int] = []
        while sum(sizes) < 1000:
            sizes.append(sizer.next_size())
            sizer.finished(100, seconds=1e-3)
        assert sum(sizes) == 1000
        assert sizes[-1] == 1


class TestWeights:
    def test_heavy_inputs_travel_alone(self) -> None:
        class Tens:
            def next_size(self) -> int:
                return 10

            def finished(self, num_inputs: int, seconds: float) -> None:
                raise NotImplementedError

        weights = np.array([1.0] * 20 + [100.0] + [1.0] * 20)
        sizer = WeightedSizer(Tens(), weights)
        sizes: list[int] = []
        while sum(sizes) < len(weights):
            sizes.append(sizer.next_size())
        assert sizes == [20, 1, 20] or sizes[-2:] == [1, 20]

    @pytest.mark.parametrize("weights", [[1, 2], [1, 2, -1], [1, 2, float("nan")], "abc"])
    def test_refused(self, weights: object) -> None:
        with pytest.raises(ConfigError, match="weight"):
            check_weights(weights, [1, 2, 3], None)

    def test_batches_weigh_what_their_inputs_weigh(self) -> None:
        values = check_weights([1, 2, 3, 4, 5], [0] * 5, 2)
        assert values is not None
        assert values.tolist() == [3.0, 7.0, 5.0]


class TestReassembly:
    @given(st.data(), st.lists(st.integers(0, 4), min_size=1, max_size=12))
    def test_any_arrival_comes_out_in_order(self, data: st.DataObject, sizes: list[int]) -> None:
        """Pieces of a run arrive in order, runs in any."""
        line: Reassembly[tuple[int, int]] = Reassembly()
        left = {run: list(range(size)) for run, size in enumerate(sizes)}
        out: list[tuple[int, int]] = []
        while left:
            run = data.draw(st.sampled_from(sorted(left)))
            if left[run]:
                out += line.add(run, (run, left[run].pop(0)))
            else:
                del left[run]
                out += line.end(run)
        assert out == [(run, piece) for run, size in enumerate(sizes) for piece in range(size)]
        assert line.head == len(sizes)
        assert line.num_waiting == 0

    def test_the_head_streams(self) -> None:
        line: Reassembly[str] = Reassembly()
        assert line.add(1, "b") == []
        assert line.add(0, "a") == ["a"]
        assert line.end(0) == ["b"]
        assert line.add(1, "c") == ["c"]

    def test_unordered_lets_everything_through(self) -> None:
        line: Reassembly[str] = Reassembly(ordered=False)
        assert line.add(5, "x") == ["x"]
        assert line.end(1) == []
        assert line.head == 0
        assert line.end(0) == []
        assert line.head == 2


class TestRemainder:
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=10), st.integers(0, 2**32))
    def test_any_cut_adds_up(self, samples: list[int], seed: int) -> None:
        """However the samples of a run are cut into pieces, its end is its end."""
        rng = random.Random(seed)
        state, index, given = Remainder(), 0, 0
        while index < len(samples):
            counts: list[int] = []
            complete = False
            for _ in range(rng.randint(1, 3)):
                if index == len(samples):
                    break
                if rng.random() < 0.3 and given < samples[index]:
                    part = rng.randint(0, samples[index] - given)
                    counts.append(part)
                    given += part
                    complete = False
                    break
                counts.append(samples[index] - given)
                index, given, complete = index + 1, 0, True
            if counts:
                state = state.after(counts, complete=complete)
                assert state == Remainder(index, given)
        assert state == Remainder(len(samples), 0)


def progress_of(chunks: Sequence[Covered]) -> Progress:
    return Progress.of(
        Record(number=n, chunk={}, data_format=(), data_spec=None, covered=covered)
        for n, covered in enumerate(chunks)
    )


class TestJournal:
    @given(
        st.lists(st.integers(0, 6), min_size=1, max_size=15), st.integers(1, 7), st.integers(0, 9)
    )
    def test_what_is_not_covered_is_what_is_left(
        self, samples: list[int], chunk_size: int, kept: int
    ) -> None:
        """After any number of chunks, done and partial inputs add up to the chunks' samples."""
        ledger, chunks, pending = Ledger(), [], 0
        for index, count in enumerate(samples):
            ledger.add(index, [count], complete=True)
            pending += count
            while pending >= chunk_size:
                chunks.append(ledger.seal(chunk_size))
                pending -= chunk_size
        progress = progress_of(chunks[:kept])
        done = sum(samples[i] for start, stop in progress.done for i in range(start, stop))
        assert done + sum(progress.partial.values()) == chunk_size * len(progress.records)
        assert all(progress.partial[i] < samples[i] for i in progress.partial)

    def test_a_record_survives_its_way(self) -> None:
        covered = Covered(((0, 3), (5, 6)), {4: 17})
        record = Record(
            number=3, chunk={"filename": "x"}, data_format=("int",), data_spec="s", covered=covered
        )
        assert Record.parse(record.dump(), source="here") == record

    @pytest.mark.parametrize("text", [b"", b"{}", b'{"version": 9}', b"[1]"])
    def test_a_garbled_record_is_named(self, text: bytes) -> None:
        with pytest.raises(ConfigError, match="over there"):
            Record.parse(text, source="over there")

    def test_records_behind_a_gap_do_not_count(self) -> None:
        records = [
            Record(
                number=n,
                chunk={},
                data_format=(),
                data_spec=None,
                covered=Covered(((n, n + 1),)),
            )
            for n in (0, 1, 3)
        ]
        progress = Progress.of(records)
        assert progress.done == ((0, 2),)
        assert len(progress.records) == 2

    def test_ranges_merge(self) -> None:
        assert merge_ranges([(5, 7), (0, 2), (2, 4), (6, 9)]) == ((0, 4), (5, 9))

    @given(st.sets(st.integers(0, 20)), st.dictionaries(st.integers(0, 20), st.integers(1, 5)))
    def test_cut_leaves_out_what_is_done(self, done: set[int], partial: dict[int, int]) -> None:
        partial = {index: count for index, count in partial.items() if index not in done}
        ranges = merge_ranges((index, index + 1) for index in done)
        progress = Progress((), ranges, partial)
        left: list[int] = []
        for start, stop, skip in cut(3, list(range(15)), progress):
            indices = range(3 + start, 3 + stop)
            left += indices
            assert skip == partial.get(indices[0], 0)
            assert all(index not in partial for index in indices[1:])
        assert left == [index for index in range(3, 18) if index not in done]
