"""The position of a reader as a small JSON-able value, and the checks when it is loaded."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from aiolit.errors import StateError
from aiolit.format.dataset_info import Index
from aiolit.plan.order import Deal, Leg
from aiolit.plan.runs import Runs

VERSION = 2
_OPTIONAL = ("own", "begun", "inside")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a data set has been read.

    Attributes:
        epoch: The epoch, from 1.
        legs: What was taken of it, one entry for each topology it was read on.
        own: Batches that one worker alone has yielded beyond that; only in a worker's own state.
        begun: Samples of the epochs before, over all ranks; only where epochs follow each other in
            an endless stream (``ParallelStreamingDataset``).
        inside: Samples taken of the batch that is next.
        counted: The deal that ``own`` and ``inside`` are counted in.
    """

    epoch: int = 1
    legs: tuple[Leg, ...] = ()
    own: int = 0
    begun: int = 0
    inside: int = 0
    counted: Deal | None = None

    @property
    def is_begun(self) -> bool:
        """Whether a part of the epoch was read."""
        return bool(self.legs or self.own or self.inside)

    def after(self, deal: Deal, base: int, batches: int) -> Position:
        """Return the position once ``batches`` more were taken.

        Args:
            deal: The deal they were taken of.
            base: Batches of that very deal taken before; 0 where it is a new leg.
            batches: Batches of every rank.
        """
        if not batches:
            return self
        kept = self.legs[:-1] if base else self.legs
        return replace(self, legs=(*kept, Leg(deal, base + batches)), inside=0, counted=None)

    def next_epoch(self) -> Position:
        return Position(self.epoch + 1)

    def to_json(self) -> dict[str, Any]:
        """Write the position as plain values."""
        legs = [{**asdict(leg.deal), "batches": leg.batches} for leg in self.legs]
        found: dict[str, Any] = {"epoch": self.epoch, "legs": legs}
        found.update({name: getattr(self, name) for name in _OPTIONAL if getattr(self, name)})
        if self.counted is not None:
            found["counted"] = asdict(self.counted)
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """Read what ``to_json`` wrote.

        Raises:
            StateError: A field is missing or no number.
        """
        try:
            legs = tuple(Leg(_deal(leg), int(leg["batches"])) for leg in value["legs"])
            optional = {name: int(value.get(name, 0)) for name in _OPTIONAL}
            counted = _deal(value["counted"]) if "counted" in value else None
            return cls(int(value["epoch"]), legs, counted=counted, **optional)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"this is no state of a streaming data set: {error!r}") from error


def _deal(value: Mapping[str, Any]) -> Deal:
    return Deal(
        ranks=int(value["ranks"]),
        workers=int(value["workers"]),
        batch_size=int(value["batch_size"]),
        canonical=int(value["canonical"]),
        drop_last=bool(value["drop_last"]),
    )


def fingerprint(index: Index, segments: Runs, loader: Mapping[str, Any]) -> str:
    """Return a digest of what a data set holds and how its samples are cut; places do not count."""
    digest = hashlib.sha256(repr(sorted(loader.items())).encode())
    for chunk in index.chunks:
        digest.update(f"{chunk.filename}\0{chunk.num_items}\0{chunk.nbytes}\0".encode())
    for column in (segments.chunk, segments.start, segments.stop):
        digest.update(column.tobytes())
    return digest.hexdigest()[:32]


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], *, force: bool) -> None:
    """Compare what fixes the order in a saved state with what it is now.

    Raises:
        StateError: They differ; the message names each difference. With ``force`` it is a warning.
    """
    differences = [
        f"{name} was {saved.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if saved.get(name) != value
    ]
    if not differences:
        return
    message = "the saved state is of another reading of the data: " + "; ".join(differences)
    if not force:
        raise StateError(f"{message}. force_override_state_dict=True loads it all the same")
    warnings.warn(message, stacklevel=3)
