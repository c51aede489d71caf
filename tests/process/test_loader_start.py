"""What starting to read costs in requests: the index once, whoever reads then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit.runtime.portal import Portal
from aiolit.testing.datasets import write_dataset
from aiolit.testing.faulty_server import FaultyServer

COUNT = 60


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    folder = write_dataset(
        tmp_path / "data", [f"text {number}" for number in range(COUNT)], chunk_size=10
    )
    made = FaultyServer()
    made.objects = {f"/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with Portal() as own, own.wrap_async_context_manager(made):
        yield made


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_inherit_the_index(
    method: str, server: FaultyServer, run_python: RunPython, tmp_path: Path
) -> None:
    found = run_python(
        """
        import sys
        from aiolit import StreamingDataLoader, StreamingDataset

        if __name__ == "__main__":
            url, cache, method = sys.argv[1:]
            dataset = StreamingDataset(url, cache_dir=cache, shuffle=True)
            assert dataset[7] == "text 7"  # the parent reads too
            loader = StreamingDataLoader(
                dataset, batch_size=5, num_workers=2, multiprocessing_context=method
            )
            for _ in range(2):
                texts = sorted(text for batch in loader for text in batch)
                assert texts == sorted(f"text {n}" for n in range(60))
        """,
        f"{server.url}/data",
        str(tmp_path / "cache"),
        method,
    )
    assert found.returncode == 0, found.stderr
    asked = Counter((request.method, request.path) for request in server.asked)
    assert asked["GET", "/data/index.json"] == 1
    assert not [verb for verb, _ in asked if verb != "GET"]
