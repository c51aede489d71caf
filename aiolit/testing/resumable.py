"""``assert_resumable``: whether a loader goes on exactly where its state was saved."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["Resumable", "assert_resumable"]

_SHOWN = 200  # characters of a value in a message


class Resumable(Protocol):
    """What can be iterated, saved and restored: a loader, or a data set."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def assert_resumable(
    make_loader: Callable[[], Resumable], *, every: int = 1, batches: int | None = None
) -> None:
    """Check that a loader restored from any of its states goes on as if it had never stopped.

    The loader is read once without interruption, and its state is saved before the first batch,
    after every so many batches, and at the end. Each state, pickled as in a checkpoint, is then
    restored in a new loader, which must give exactly the batches that were left (at the end of an
    epoch: those of the next one). At last one chain of loaders reads the whole, each going on
    where the one before it was stopped. All of this takes time quadratic in the number of states.

    Args:
        make_loader: Makes a loader as a new process would: from the same arguments, at its start.
        every: Batches between two saved states.
        batches: Look at the first so many batches only; needed where the data does not end.

    Raises:
        AssertionError: It does not; the message says after which batch the state was saved, and
            which batch came out differently, and where in it.
        ValueError: ``every`` or ``batches`` is less than 1.
    """
    if every < 1 or (batches is not None and batches < 1):
        raise ValueError(f"every={every} and batches={batches} must be at least 1")
    expected, states, following = _uninterrupted(make_loader, every, batches)
    for done, state in states.items():
        wanted = expected[done:] if done < len(expected) or following is None else following
        if done == len(expected) and following is None:
            continue  # cut short: what comes next was not read
        with _reading(_restored(make_loader, state)) as (_, rest):
            limit = len(wanted) + 1 if batches is None else len(wanted)
            found = list(itertools.islice(rest, limit))
        first = done if wanted is not following else 0
        _compare(found, wanted, first, f"restored after batch {done} of {len(expected)}")
    _check_chain(make_loader, expected, every)


def _uninterrupted(
    make_loader: Callable[[], Resumable], every: int, batches: int | None
) -> tuple[list[Any], dict[int, bytes], list[Any] | None]:
    """Read a loader; return its batches, its states, and its next epoch if it came to an end."""
    loader = make_loader()
    expected: list[Any] = []
    states = {0: pickle.dumps(loader.state_dict())}
    with _reading(loader) as (_, rest):
        for batch in itertools.islice(rest, batches):
            expected.append(batch)
            if len(expected) % every == 0:
                states[len(expected)] = pickle.dumps(loader.state_dict())
        ended = batches is None or len(expected) < batches
    if not expected:
        raise AssertionError("the loader gives no batch, so there is nothing to resume")
    if not ended:
        return expected, states, None
    states[len(expected)] = pickle.dumps(loader.state_dict())
    with _reading(loader) as (_, rest):
        return expected, states, list(rest)


def _check_chain(make_loader: Callable[[], Resumable], expected: list[Any], every: int) -> None:
    state: bytes | None = None
    for done in range(0, len(expected), every):
        loader = make_loader() if state is None else _restored(make_loader, state)
        wanted = expected[done : done + every]
        with _reading(loader) as (live, rest):
            found = list(itertools.islice(rest, len(wanted)))
            state = pickle.dumps(live.state_dict())
        _compare(found, wanted, done, f"stopped and restored every {every} batches, at {done}")


def _restored(make_loader: Callable[[], Resumable], state: bytes) -> Resumable:
    loader = make_loader()
    loader.load_state_dict(pickle.loads(state))
    return loader


@contextmanager
def _reading(loader: Resumable) -> Iterator[tuple[Resumable, Iterator[Any]]]:
    """Iterate a loader, and end its workers when the block is left."""
    rest = iter(loader)
    try:
        yield loader, rest
    finally:
        close = getattr(rest, "close", None)
        if close is not None:
            close()


def _compare(found: list[Any], wanted: Sequence[Any], first: int, when: str) -> None:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), first + 1):
        problem = _difference(one, other, "")
        if problem is not None:
            raise AssertionError(f"{when}: batch {number} differs{problem}")
    if len(found) != len(wanted):
        more = "at least " if len(found) > len(wanted) else ""
        raise AssertionError(
            f"{when}: {more}{len(found)} batches came, where the uninterrupted loader gave "
            f"{len(wanted)}"
        )


def _difference(found: Any, wanted: Any, path: str) -> str | None:
    """Say where two values differ; None if they are equal. NaN equals NaN."""
    where = f" at {path}" if path else ""
    if type(found) is not type(wanted):
        return f"{where}: a {type(found).__name__} instead of a {type(wanted).__name__}"
    if isinstance(wanted, torch.Tensor | np.ndarray):
        return _array_difference(found, wanted, where)
    if isinstance(wanted, Mapping):
        if list(found) != list(wanted):
            return f"{where}: keys {list(found)} instead of {list(wanted)}"
        return _first((found[key], wanted[key], f"{path}[{key!r}]") for key in wanted)
    if dataclasses.is_dataclass(wanted):
        names = [field.name for field in dataclasses.fields(wanted)]
        return _first((getattr(found, n), getattr(wanted, n), f"{path}.{n}") for n in names)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str | bytes | bytearray):
        if len(found) != len(wanted):
            return f"{where}: {len(found)} values instead of {len(wanted)}"
        pairs = zip(found, wanted, strict=True)
        return _first(((one, two, f"{path}[{at}]") for at, (one, two) in enumerate(pairs)))
    if found == wanted or (found != found and wanted != wanted):
        return None
    return f"{where}: {_short(found)} instead of {_short(wanted)}"


def _first(triples: Iterator[tuple[Any, Any, str]]) -> str | None:
    problems = (_difference(*triple) for triple in triples)
    return next((problem for problem in problems if problem is not None), None)


def _array_difference(found: Any, wanted: Any, where: str) -> str | None:
    for name in ("dtype", "shape"):
        one, two = getattr(found, name), getattr(wanted, name)
        if one != two:
            return f"{where}: {name} {one} instead of {two}"
    if isinstance(wanted, torch.Tensor):
        differs = ~((found == wanted) | ((found != found) & (wanted != wanted)))
        places = torch.nonzero(differs).tolist()
    else:
        differs = ~((found == wanted) | ((found != found) & (wanted != wanted)))
        places = np.argwhere(differs).tolist()
    if not places:
        return None
    at = tuple(places[0])
    return (
        f"{where}: {len(places)} elements differ, the first at {list(at)}: {_short(found[at])} "
        f"instead of {_short(wanted[at])}"
    )


def _short(value: Any) -> str:
    text = repr(value.item() if hasattr(value, "item") else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
