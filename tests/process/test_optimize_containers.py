"""Containers that the caller registered, in samples that workers make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from aiolit.errors import SchemaError
from aiolit.format.tree import register_namedtuple, register_node
from aiolit.processing.functions import optimize
from aiolit.testing.datasets import read_dataset


class Finished(Protocol):
    returncode: int
    stdout: str
    stderr: str


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Finished: ...


class Pair(NamedTuple):
    image: int
    label: str


@dataclass
class Point:
    x: float
    y: float


class Unregistered(NamedTuple):
    x: int


def take_apart(point: Point) -> tuple[Sequence[Any], None]:
    return (point.x, point.y), None


def rebuild(values: Sequence[Any], context: Any) -> Point:
    return Point(*values)


# Once per process, as users do it; reading needs them too.
register_namedtuple(Pair)
register_node(Point, take_apart, rebuild)


def test_made_in_workers_and_given_as_inputs(tmp_path: Path) -> None:
    optimize(
        lambda pair: {"pair": pair, "point": Point(pair.image, 0.5), "again": Pair(1, "x")},
        [Pair(i, f"{i}") for i in range(20)],
        tmp_path / "out",
        chunk_size=7,
        num_workers=2,
        verbose=False,
    )
    assert read_dataset(tmp_path / "out") == [
        {"pair": Pair(i, f"{i}"), "point": Point(i, 0.5), "again": Pair(1, "x")} for i in range(20)
    ]


def test_one_that_nobody_registered_is_refused_with_the_call_to_make(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"register_namedtuple\(cls\)"):
        optimize(Unregistered, range(3), tmp_path / "out", chunk_size=7, verbose=False)


def test_of_an_unguarded_script(run_python: RunPython, tmp_path: Path) -> None:
    script = """
        import sys
        from collections import namedtuple
        import aiolit
        from aiolit.format.tree import register_namedtuple

        Pair = namedtuple("Pair", "x y")
        register_namedtuple(Pair)
        aiolit.optimize(
            lambda i: Pair(i, i * 2), [1, 2, 3], sys.argv[1], chunk_size=2, num_workers=2
        )
        print(list(aiolit.StreamingDataset(sys.argv[1])))
    """
    finished = run_python(script, str(tmp_path / "out"))
    assert finished.stdout == "[Pair(x=1, y=2), Pair(x=2, y=4), Pair(x=3, y=6)]\n", finished.stderr


def test_one_that_cannot_travel_is_named(run_python: RunPython) -> None:
    script = """
        import threading
        import aiolit
        from aiolit.format.tree import register_node

        class Held:
            lock = threading.Lock()

        register_node(Held, lambda held: ((), None), lambda values, context: Held())
        try:
            aiolit.optimize(lambda i: i, [1], "out", chunk_size=2, num_workers=1)
        except aiolit.errors.ConfigError as error:
            print(error)
    """
    finished = run_python(script)
    assert "Held" in finished.stdout, finished.stderr
    assert "registered as a container of samples, but cannot be sent" in finished.stdout
