"""Whether two attempts at a job were given the same inputs."""

from __future__ import annotations

import asyncio
import copy
import datetime
import itertools
import math
import pickle
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiolit.errors import ConfigError
from aiolit.processing.input_digest import CheckedSource, InputDigest
from aiolit.processing.journal import InputMark
from aiolit.processing.sources import SequenceSource

Pair = namedtuple("Pair", "x y")  # noqa: PYI024  as users write them


@dataclass
class Task:
    url: str
    tags: list[str]


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def digest(*values: Any) -> str:
    made = InputDigest()
    for value in values:
        made.add(value)
    return made.mark().digest


DIFFERENT: list[Any] = [
    "a",
    "b",
    b"a",
    1,
    True,
    1.0,
    math.nan,
    None,
    1j,
    Path("/x"),
    ["a"],
    ("a",),
    [["a"]],
    [],
    ["a", "b"],
    ["ab"],
    {"a": 1},
    {"a": 2},
    {"a": 1, "b": 2},
    {"a", "b"},
    {"a", "c"},
    np.arange(4),
    np.arange(4).reshape(2, 2),
    np.arange(4, dtype=np.int32),
    np.array(3),
    np.array([None, "x"], dtype=object),
    np.array([None, "y"], dtype=object),
    np.float32(1),
    torch.arange(4),
    torch.arange(1, 5),
    Pair(1, 2),
    Pair(1, 3),
    Task("u", ["x"]),
    Task("u", ["y"]),
    Plain(1),
    Plain(2),
    datetime.date(2020, 1, 1).isoformat(),
]


class TestInputDigest:
    def test_different_values_differ(self) -> None:
        digests = [digest(value) for value in DIFFERENT]
        for (i, one), (j, other) in itertools.combinations(enumerate(digests), 2):
            assert one != other, (DIFFERENT[i], DIFFERENT[j])

    @pytest.mark.parametrize("number", range(len(DIFFERENT)))
    def test_a_copy_counts_the_same(self, number: int) -> None:
        """Also where the parts of a value are one object, or two that are equal."""
        value = DIFFERENT[number]
        assert digest(value) == digest(copy.deepcopy(value))
        text, other = "text", pickle.loads(pickle.dumps("text"))
        assert text is not other
        assert digest([text, text, value]) == digest([text, other, value])

    def test_where_one_input_ends_and_the_next_begins_counts(self) -> None:
        assert digest("ab", "c") != digest("a", "bc")
        assert digest(["a"], "b") != digest(["a", "b"])
        assert digest() != digest(None)

    def test_the_order_of_a_set_does_not(self) -> None:
        words = [f"{i}" for i in range(50)]
        assert digest(set(words)) == digest({*words[::-1]})

    def test_what_holds_itself_and_what_nobody_can_look_into(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        assert digest(loop) == digest(loop)
        assert digest(asyncio.Event) == digest(asyncio.Event)


async def take_all(source: CheckedSource, most: int = 7) -> list[Any]:
    found: list[Any] = []
    while block := await source.take(most):
        assert len(block) <= most
        found.extend(block)
    return found


def marks(items: Sequence[Any], *counts: int) -> list[InputMark]:
    made: list[InputMark] = []
    seen = InputDigest()
    for number, item in enumerate(items, 1):
        seen.add(item)
        if number in counts:
            made.append(seen.mark())
    return made


class TestCheckedSource:
    @pytest.mark.parametrize("counts", [(), (1,), (20,), (3, 3, 17, 20)])
    async def test_the_same_inputs_pass(self, counts: tuple[int, ...]) -> None:
        items = [f"{i}" for i in range(20)]
        source = CheckedSource(SequenceSource(items))
        source.expect(reversed(marks(items, *counts)))
        assert await take_all(source) == items
        assert [source.mark()] == marks(items, 20)

    async def test_more_inputs_behind_those_that_are_known_pass(self) -> None:
        source = CheckedSource(SequenceSource(range(20)))
        source.expect(marks(range(10), 10))
        assert await take_all(source) == list(range(20))

    async def test_a_change_is_found_before_its_inputs_are_handed_out(self) -> None:
        items = list(range(20))
        source = CheckedSource(SequenceSource([*items[:12], -1, *items[13:]]))
        source.expect(marks(items, 5, 10, 15))
        assert [*await source.take(5), *await source.take(99)] == items[:10]
        with pytest.raises(ConfigError, match=r"among inputs 10 to 14 \(the first is now 10\)"):
            await source.take(1)

    async def test_fewer_inputs_are_an_error(self) -> None:
        source = CheckedSource(SequenceSource(range(8)))
        source.expect(marks(range(10), 10))
        with pytest.raises(ConfigError, match=r"gave 8 inputs.*had been given 10"):
            await source.take(1)

    @pytest.mark.parametrize(
        "change",
        [
            lambda items: items[::-1],
            lambda items: items[1:],
            lambda items: ["new", *items],
            lambda items: [*items[:5], "5 ", *items[6:]],
        ],
    )
    async def test_changes(self, change: Callable[[list[str]], list[str]]) -> None:
        items = [f"{i}" for i in range(20)]
        source = CheckedSource(SequenceSource(change(items)))
        source.expect(marks(items, 10))
        with pytest.raises(ConfigError, match="not those of the interrupted job"):
            await source.take(1)
