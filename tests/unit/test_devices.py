"""Batches copied ahead: what is begun when, what is walked, what is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from aiolit.errors import ConfigError
from aiolit.streaming.devices import CudaCopies, checked_device, copied_ahead, map_leaves


class Pair(NamedTuple):
    left: Any
    right: Any


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Recorded:
    """Copies nothing, and writes down what it is asked."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin(self, batch: Any) -> Any:
        self.log.append(f"begin {batch}")
        return "begun", batch

    def finish(self, begun: Any) -> Any:
        word, batch = begun
        assert word == "begun"
        self.log.append(f"finish {batch}")
        return batch

    def batches(self, count: int, fail_at: int | None = None) -> Iterator[int]:
        for number in range(count):
            if number == fail_at:
                raise ValueError(f"batch {number}")
            self.log.append(f"made {number}")
            yield number


def test_the_next_copy_is_begun_before_a_batch_is_handed_out() -> None:
    copies = Recorded()
    for batch in copied_ahead(copies.batches(4), copies):
        copies.log.append(f"step {batch}")
    assert copies.log == [
        *("made 0", "begin 0", "finish 0", "step 0"),  # the first one is not kept waiting
        *("made 1", "begin 1", "made 2", "begin 2", "finish 1", "step 1"),
        *("made 3", "begin 3", "finish 2", "step 2"),
        *("finish 3", "step 3"),
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_every_batch_comes_once(count: int) -> None:
    copies = Recorded()
    assert list(copied_ahead(copies.batches(count), copies)) == list(range(count))


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3])
def test_an_error_comes_behind_the_batches_before_it(fail_at: int) -> None:
    copies = Recorded()
    batches = copied_ahead(copies.batches(5, fail_at), copies)
    assert [next(batches) for _ in range(fail_at)] == list(range(fail_at))
    with pytest.raises(ValueError, match=f"batch {fail_at}"):
        next(batches)


def test_leaves_are_found_in_what_batches_are_built_of() -> None:
    def marked(leaf: Any) -> Any:
        return f"<{leaf}>"

    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    batch = {
        "list": [1, (2, 3)],
        "pair": Pair(4, [5]),
        "ordered": OrderedDict(a=6),
        "user": UserDict(b=7),
        "fixed": MappingProxyType({"c": 8}),
        "text": "word",
    }
    found = map_leaves(batch, marked)
    assert found == {
        "list": ["<1>", ("<2>", "<3>")],
        "pair": Pair("<4>", ["<5>"]),
        "ordered": OrderedDict(a="<6>"),
        "user": UserDict(b="<7>"),
        "fixed": MappingProxyType({"c": "<8>"}),
        "text": "<word>",
    }
    assert [type(value) for value in found.values()] == [type(value) for value in batch.values()]
    assert batch["user"] == {"b": 7}  # the batch itself stays
    assert map_leaves([packed], lambda leaf: leaf)[0] is packed  # it moves itself


def test_devices_that_cannot_be_copied_to() -> None:
    assert checked_device(None) is None
    with pytest.raises(ConfigError, match="to a CUDA device, not to 'cpu': leave it out"):
        checked_device("cpu")
    with pytest.raises(ConfigError, match="prefetch_to_device='nowhere' is no device"):
        checked_device("nowhere")
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"torch sees {count} CUDA devices"):
        checked_device(f"cuda:{count}")


@needs_cuda
def test_copies_to_a_cuda_device() -> None:
    copies = CudaCopies(torch.device("cuda"))

    def batches() -> Iterator[Any]:
        for number in range(8):
            yield {"x": torch.full((1 << 20,), number), "names": ["a", b"b"], "y": [torch.ones(2)]}

    sums = []
    for number, batch in enumerate(copied_ahead(batches(), copies)):
        assert batch["x"].is_cuda
        assert batch["y"][0].is_cuda
        assert batch["names"] == ["a", b"b"]
        sums.append(batch["x"].sum())  # on the current stream, which waits for the copy
        assert int(sums[-1]) == number << 20
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    (moved,) = copied_ahead(iter([packed]), copies)
    assert moved.data.is_cuda
