"""``CombinedStreamingDataset``: a mixture of streaming data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError, StateError
from aiolit.plan.order import Deal
from aiolit.plan.subset import exact_shares
from aiolit.runtime.stats import Counters
from aiolit.streaming.deck import ReadableDeck
from aiolit.streaming.epoch import Streamable, Streamed
from aiolit.streaming.mixture import MixDeck, MixShares, UnitDeck
from aiolit.streaming.run import Readers, whole_number
from aiolit.streaming.state import Position
from aiolit.streaming.topology import Topology, agreed

Method = Literal["stratified", "per_stream"]
Schedule = tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class MixOptions:
    """What fixes the order of a mixture."""

    members: tuple[Any, ...]
    seed: int
    schedule: Schedule | None
    batch_sizes: tuple[int, ...] | None
    drop_last: bool | None


class CombinedStreamingDataset(Streamable):
    """Samples of several streaming data sets, mixed in exact proportions.

    The proportions hold in every block of a few hundred samples of every worker, and all ranks end
    together. Which member comes when is a function of the seed, the epoch and the reader.
    ``drop_last`` and ``num_canonical_nodes`` are those that the members were given.

    Args:
        datasets: The members: any streaming data sets, other mixtures too.
        seed: The seed of the choice.
        weights: The share of each member; they are scaled to add up to 1. By default the members'
            lengths.
        iterate_over_all: Read every sample of every member; only without ``weights``. False ends
            the epoch when the first member is used up.
        batching_method: ``"stratified"`` mixes members within a batch; with ``"per_stream"`` each
            batch is of one member, and ``set_batch_size`` (or the loader's ``batch_size``) takes a
            size for each.
        force_override_state_dict: Take a saved state that does not fit, with a warning.
        weight_schedule: Weights that change within an epoch: ``[(0, [1, 0]), (100_000, [1, 1])]``
            goes over to equal shares after 100,000 samples, counted over all ranks.

    Raises:
        ConfigError: A weight is negative or no number, all are zero, or their number is wrong; or
            the members were given different ``drop_last`` or ``num_canonical_nodes``.
    """

    def __init__(
        self,
        datasets: Sequence[Streamable | Streamed],
        seed: int = 42,
        weights: Sequence[float] | None = None,
        iterate_over_all: bool = True,
        batching_method: Method = "stratified",
        force_override_state_dict: bool = False,
        *,
        weight_schedule: Sequence[tuple[int, Sequence[float]]] | None = None,
    ) -> None:
        self.datasets = check_members(datasets)
        drop_last, canonical = of_members(self.datasets)
        super().__init__(drop_last=drop_last, canonical=canonical, force=force_override_state_dict)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed must be a whole number, not {seed!r}")
        if batching_method not in ("stratified", "per_stream"):
            raise ConfigError(
                f"batching_method must be 'stratified' or 'per_stream', not {batching_method!r}"
            )
        if weights is not None and weight_schedule is not None:
            raise ConfigError("give weights or weight_schedule, not both")
        if weights is not None:
            weight_schedule = [(0, weights)]
        if weight_schedule is not None and iterate_over_all:
            raise ConfigError(
                "weights mean that members end at different times: give iterate_over_all=False"
            )
        self._seed, self._method = seed, batching_method
        self._all = iterate_over_all
        self._schedule: Schedule | None = None
        if weight_schedule is not None:
            self._schedule = _checked_schedule(weight_schedule, len(self.datasets))
        self._batch_sizes: tuple[int, ...] | None = None

    @property
    def is_per_stream(self) -> bool:
        """Whether each batch is of one member."""
        return self._method == "per_stream"

    @property
    def num_samples(self) -> int:
        """How many samples an epoch has over all ranks, the last, short batches included."""
        readers = self._as_told()
        decks = self._member_decks(1, tuple(one.options() for one in self.datasets), readers)
        return int(self._phases(decks, self._schedule).sum())

    def set_weights(self, weights: Sequence[float]) -> None:
        """Mix in other shares from the next epoch on; they are saved with the state.

        An epoch of which a part was read, the one that a loaded state goes on with too, ends with
        the weights it was begun with.

        Raises:
            ConfigError: As for the constructor's ``weights``; or all members are to be read whole.
        """
        if self._all:
            raise ConfigError("iterate_over_all=True reads every member whole, without weights")
        self._schedule = _checked_schedule([(0, weights)], len(self.datasets))

    def set_batch_size(self, batch_size: int | Sequence[int]) -> None:
        """Tell the batch size, or with ``per_stream`` one for each member."""
        if isinstance(batch_size, Sequence):
            if self._method != "per_stream" or len(batch_size) != len(self.datasets):
                raise ConfigError(
                    "a list of batch sizes needs batching_method='per_stream' and one size for "
                    f"each of the {len(self.datasets)} members, not {batch_size!r}"
                )
            self._batch_sizes = tuple(whole_number(one, "batch_size") for one in batch_size)
            batch_size = max(self._batch_sizes)
        super().set_batch_size(batch_size)

    def counters(self) -> list[Counters]:
        """Return the members' counters; see ``Streamable``."""
        return [one for dataset in self.datasets for one in dataset.counters()]

    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether the members' epochs are shuffled."""
        for dataset in self.datasets:
            dataset.set_shuffle(shuffle)

    # ---- what the reading of it needs ------------------------------------------------------

    def options(self) -> MixOptions:
        """Return what fixes the order; see ``Streamable``."""
        members = tuple(dataset.options() for dataset in self.datasets)
        sizes = self._unit_sizes() if self._method == "per_stream" else None
        return MixOptions(members, self._seed, self._schedule, sizes, self._drop_last)

    def identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in; see ``Streamable``."""
        found = {
            "kind": "CombinedStreamingDataset",
            "members": [dataset.identity() for dataset in self.datasets],
            "seed": self._seed,
            "batching_method": self._method,
            "iterate_over_all": self._all,
        }
        if self._method == "per_stream":  # what is dealt are batches, so their sizes must stay
            found["batch_sizes"] = list(self._unit_sizes())
            found["drop_last"] = self._drop_last
        return found

    def settings(self) -> Any:
        """Return the weights, the members' too; see ``Streamable``."""
        return settings_of(self.datasets, self._schedule)

    def apply_settings(self, settings: Any) -> None:
        """Take over saved weights; see ``Streamable``."""
        own = apply_to(self.datasets, settings)
        if own is not None:
            self._schedule = _checked_schedule(own, len(self.datasets))

    def find_topology(self) -> Topology:
        """Return this process's place, which all members must agree in."""
        return agreed(dataset.find_topology() for dataset in self.datasets)

    def deck(self, position: Position, options: MixOptions, readers: Readers) -> ReadableDeck:
        """Return all samples of an epoch; see ``Streamable``."""
        decks = self._member_decks(position.epoch, options.members, readers)
        if options.batch_sizes is not None:
            drop = readers.deal(options.drop_last, None).drop_last
            decks = [
                UnitDeck(deck, size, drop_last=drop)
                for deck, size in zip(decks, options.batch_sizes, strict=True)
            ]
        return MixDeck(decks, self._phases(decks, options.schedule), options.seed)

    @property
    def deals_samples(self) -> bool:
        """Whether single samples are dealt, and not whole batches."""
        return self._method == "stratified"

    def as_batch(self, samples: list[Any]) -> list[Any]:
        """Return the samples of a batch; with ``per_stream`` a batch was dealt as one."""
        if self._method == "per_stream":
            return [sample for unit in samples for sample in unit]
        return samples

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch, or in what a loaded state left of it."""
        if self._method == "stratified":
            return super().__len__()
        run = self.begin(self._as_told())
        dealt, base = self._dealt(run.position, run.options, run.deal)
        assert isinstance(dealt.shares, MixShares)
        found = 0
        for worker in range(run.deal.workers):
            share = dealt.share_of(base, run.rank, worker)
            found += sum(map(dealt.shares.unit_samples_from, share.lanes, share.skips))
            if share.repeat is not None:
                found += dealt.shares.samples_of_unit(*share.repeat)
        return found

    # ---- inside ----------------------------------------------------------------------------

    def _deal(self, readers: Readers) -> Deal:
        if self._method == "stratified":
            return super()._deal(readers)
        return Readers(readers.topology, readers.workers, 1).deal(self._drop_last, None)

    def _unit_sizes(self) -> tuple[int, ...]:
        return self._batch_sizes or (self._readers[1],) * len(self.datasets)

    def _member_decks(
        self, epoch: int, options: Sequence[Any], readers: Readers
    ) -> list[ReadableDeck]:
        return [
            dataset.deck(dataset.epoch_position(epoch, of_member, readers), of_member, readers)
            for dataset, of_member in zip(self.datasets, options, strict=True)
        ]

    def _phases(
        self, decks: Sequence[ReadableDeck], schedule: Schedule | None
    ) -> NDArray[np.int64]:
        sizes = [len(deck) for deck in decks]
        if schedule is None:  # members of their own lengths end together
            return np.array([sizes], np.int64)
        return _phases(sizes, schedule)


def _phases(sizes: Sequence[int], schedule: Schedule) -> NDArray[np.int64]:
    """Return how many samples of each member each phase holds, until a member is used up."""
    left, found = list(sizes), []
    for number, (begin, weights) in enumerate(schedule):
        most = max(weights)
        total = sum(weight / most for weight in weights)
        shares = [weight / most / total for weight in weights]
        until = schedule[number + 1][0] - begin if number + 1 < len(schedule) else math.inf
        lasts = min(have / share for have, share in zip(left, shares, strict=True) if share > 0)
        # A hair more, for a quotient that floating point has put just below a whole number.
        length = int(min(until, lasts * (1 + 1e-12) + 1e-9))
        counts = exact_shares(length, shares)
        counts = [min(count, have) for count, have in zip(counts, left, strict=True)]
        found.append(counts)
        left = [have - count for have, count in zip(left, counts, strict=True)]
        if length < until:
            break
    return np.array(found, np.int64)


def _checked_schedule(schedule: Sequence[tuple[int, Sequence[float]]], members: int) -> Schedule:
    found = []
    for begin, weights in schedule:
        if len(weights) != members:
            raise ConfigError(f"{len(weights)} weights for {members} data sets: {weights!r}")
        for weight in weights:
            if not _is_weight(weight):
                raise ConfigError(f"a weight must be a number from 0 on, not {weight!r}")
        if not any(weight > 0 for weight in weights):
            raise ConfigError("at least one weight must be above 0")
        if isinstance(begin, bool) or not isinstance(begin, int):
            raise ConfigError(f"a weight schedule counts whole samples, not {begin!r}")
        found.append((begin, tuple(float(weight) for weight in weights)))
    begins = [begin for begin, _ in found]
    if not begins or begins[0] != 0 or begins != sorted(set(begins)):
        raise ConfigError(
            f"a weight schedule begins at sample 0 and goes on in ascending order, not {begins}"
        )
    return tuple(found)


def check_members(datasets: Sequence[Streamable | Streamed]) -> list[Streamable]:
    """Check the members of a composed data set; of raw files, what reads their epochs is taken.

    Raises:
        ConfigError: There is none, or one is no streaming data set, or mixes whole batches.
    """
    members: list[Streamable] = []
    for given in datasets:
        member = given if isinstance(given, Streamable) else _streaming(given)
        members.append(member)
        if isinstance(member, CombinedStreamingDataset) and member.is_per_stream:
            raise ConfigError("batching_method='per_stream' is for a mixture that is no member")
    if not members:
        raise ConfigError("give at least one data set")
    return members


def _streaming(given: object) -> Streamable:
    if isinstance(given, Streamed):
        return given.streaming()
    raise ConfigError(
        f"the members must be aiolit's streaming data sets, not {type(given).__name__}"
    )


def of_members(members: Sequence[Streamable]) -> tuple[bool | None, int | None]:
    """Return the ``drop_last`` and ``num_canonical_nodes`` that the members were given.

    Raises:
        ConfigError: They were given different ones.
    """
    drops = {member.drop_last for member in members} - {None}
    nodes = {member.num_canonical_nodes for member in members}
    if len(drops) > 1:
        raise ConfigError("some members have drop_last=True and some drop_last=False")
    if len(nodes) > 1:
        raise ConfigError(
            f"the members have different num_canonical_nodes: {sorted(map(str, nodes))}"
        )
    return next(iter(drops), None), nodes.pop()


def settings_of(members: Sequence[Streamable], own: object) -> Any:
    """Return the settings of a composed data set: its own and those of its members."""
    found = [member.settings() for member in members]
    if own is None and all(one is None for one in found):
        return None
    return {"own": to_plain(own), "members": found}


def apply_to(members: Sequence[Streamable], settings: Any) -> Any:
    """Hand saved settings to the members and return the composed data set's own.

    Raises:
        StateError: They are not as ``settings_of`` makes them.
    """
    if settings is None:
        return None
    try:
        own, of_members = settings["own"], list(settings["members"])
    except (KeyError, TypeError) as error:
        raise StateError(f"these are no settings of a composed data set: {settings!r}") from error
    for member, one in zip(members, of_members, strict=False):
        member.apply_settings(one)
    return own


def to_plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON does."""
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    return value


def _is_weight(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    return 0 <= float(value) < math.inf
