"""Arguments of `optimize` that cannot work are refused in a sentence, before anything happens."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from aiolit.errors import ConfigError
from aiolit.options import MAX_CHUNK_BYTES, parse_limits
from aiolit.processing import data_processor
from aiolit.processing.functions import optimize
from aiolit.processing.sentinel import ALL_DONE, AllDone


def identity(value: Any) -> Any:
    return value


def no_argument() -> int:
    return 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no limit": ({"chunk_bytes": None}, "how large a chunk may be"),
    "two limits": ({"chunk_size": 10}, "only one limit"),
    "zero bytes": ({"chunk_bytes": 0}, "out of range"),
    "negative bytes": ({"chunk_bytes": -1}, "negative"),
    "no size": ({"chunk_bytes": "64 apples"}, "no size"),
    "too many bytes": ({"chunk_bytes": "5GiB"}, "4 GiB"),
    "a float of bytes": ({"chunk_bytes": 1.5}, "number of bytes"),
    "zero samples": ({"chunk_bytes": None, "chunk_size": 0}, "chunk_size"),
    "a mode": ({"mode": "replace"}, "mode='replace'"),
    "a compression": ({"compression": "gzip"}, "compression='gzip'"),
    "a level": ({"compression": "zstd:23"}, "zstd:22"),
    "a granularity": ({"compression": "zstd", "compression_level": "7"}, "zstd:7"),
    "a frame": ({"compression_batch_size": 5}, "compression='zstd'"),
    "no inputs": ({"inputs": []}, "empty"),
    "an empty range": ({"inputs": range(0)}, "empty"),
    "an empty set": ({"inputs": set()}, "empty"),
    "no inputs at all": ({"inputs": None}, "either inputs or queue"),
    "a text": ({"inputs": "a.txt"}, "a list with one item"),
    "a number": ({"inputs": 3}, "iterate"),
    "no function": ({"fn": 3}, "must be a function"),
    "no argument": ({"fn": no_argument}, "called with one argument"),
    "workers": ({"num_workers": -1}, "num_workers"),
    "workers as text": ({"num_workers": "2"}, "num_workers"),
    "uploaders": ({"num_uploaders": 0}, "num_uploaders"),
    "downloaders": ({"num_downloaders": 0}, "num_downloaders"),
    "a batch": ({"batch_size": 0}, "batch_size"),
    "nodes": ({"num_nodes": 0}, "num_nodes"),
    "a machine": ({"machine": "A100"}, "machine"),
    "a start method": ({"start_method": "thread"}, "start_method"),
    "the resolver": ({"optimize_dns": True}, "resolver settings"),
    "a flag": ({"align_chunking": "yes"}, "align_chunking must be True or False"),
    "another flag": ({"reorder_files": 1}, "reorder_files must be True or False"),
    "paths": ({"broadcast_paths": "all"}, "broadcast_paths must be True or False"),
    "an order": ({"keep_data_ordered": "yes"}, "keep_data_ordered must be True or False"),
    "on_error": ({"on_error": "ignore"}, "on_error"),
    "retries": ({"max_retries": -1}, "max_retries"),
    "concurrency": ({"concurrency": 0}, "concurrency"),
    "a timeout": ({"timeout": 0}, "timeout"),
    "a loader": ({"item_loader": "TokensLoader"}, "item_loader"),
    "an encryption": ({"encryption": "secret"}, "encryption"),
    "an output": ({"output_dir": 5}, "output_dir"),
    "an empty output": ({"output_dir": ""}, "output_dir"),
    "a NUL": ({"output_dir": "a\0b"}, "has a NUL"),
    "weights": ({"weights": [1, 2]}, "2 weights for 3 inputs"),
    "a serializer": ({"serializers": {"x": 3}}, "serializers"),
    "a reader": ({"reader": 3}, "reader"),
    "a scheme": ({"output_dir": "ftp://host/x"}, "ftp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    arguments, words = REFUSED[name]
    given: dict[str, Any] = {
        "fn": identity,
        "inputs": [1, 2, 3],
        "output_dir": str(tmp_path / "out"),
        "chunk_bytes": "1MB",
        "num_workers": 1,
        "verbose": False,
    }
    with pytest.raises(ConfigError, match=words) as caught:
        optimize(**{**given, **arguments})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "nbytes"), [("64MB", 64_000_000), ("64MiB", 64 << 20), ("1KiB", 1024), (7, 7)]
)
def test_sizes(text: int | str, nbytes: int) -> None:
    assert parse_limits(None, text).chunk_bytes == nbytes
    assert parse_limits(None, MAX_CHUNK_BYTES).chunk_bytes == MAX_CHUNK_BYTES


class TestSentinel:
    @pytest.mark.parametrize(
        "way",
        [
            lambda mark: pickle.loads(pickle.dumps(mark)),
            lambda mark: cloudpickle.loads(cloudpickle.dumps(mark)),
            copy.copy,
            copy.deepcopy,
            lambda _: AllDone(),
        ],
    )
    def test_stays_the_one_object(self, way: Callable[[AllDone], object]) -> None:
        assert way(ALL_DONE) is ALL_DONE

    def test_a_word_is_no_mark(self) -> None:
        assert repr(ALL_DONE) == "ALL_DONE"
        assert {ALL_DONE, "ALL_DONE"} == {"ALL_DONE", AllDone()}
        assert len({ALL_DONE, "ALL_DONE"}) == 2

    def test_the_documented_path(self) -> None:
        assert data_processor.ALL_DONE is ALL_DONE


def test_a_partial_with_all_its_arguments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one argument"):
        optimize(partial(identity, 1), [1], str(tmp_path / "out"), chunk_size=1)
