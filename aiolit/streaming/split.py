"""``train_test_split``: disjoint parts of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aiolit.errors import ConfigError
from aiolit.plan.subset import exact_shares, split
from aiolit.streaming.dataset import StreamingDataset

Granularity = Literal["sample", "chunk"]


def train_test_split(
    streaming_dataset: StreamingDataset,
    splits: Sequence[float],
    seed: int = 42,
    shuffle: bool = True,
    *,
    granularity: Granularity = "sample",
) -> list[StreamingDataset]:
    """Split a data set into disjoint ones of exact sizes, such as ``[0.8, 0.1, 0.1]`` of it.

    Args:
        streaming_dataset: The data set, or a part of one.
        splits: The share of each part, from 0 to 1; together at most 1. The lengths are the shares
            rounded up or down, so that together they are as many as the shares together say.
        seed: Which samples fall to which part.
        shuffle: Choose samples at random; False takes them one part after the other.
        granularity: ``"chunk"`` gives whole chunks to the parts (but for one at each border), so
            that each fetches few; the classes of a sorted data set are then split unevenly.

    Returns:
        One data set for each share. They share what is open; each has its own epochs and state.

    Raises:
        ConfigError: A share is no number from 0 to 1, or they are more than 1 together.
    """
    if not isinstance(streaming_dataset, StreamingDataset):
        raise ConfigError(
            f"train_test_split splits a StreamingDataset, not {type(streaming_dataset).__name__}"
        )
    shares = list(splits)
    for share in shares:
        if not _is_share(share):
            raise ConfigError(f"a split must be a number from 0 to 1, not {share!r}")
    if not shares or sum(shares) > 1 + 1e-9:
        raise ConfigError(f"splits must be at most 1 together, and at least one: {shares}")
    if granularity not in ("sample", "chunk"):
        raise ConfigError(f"granularity must be 'sample' or 'chunk', not {granularity!r}")
    parts = split(
        streaming_dataset.segments,
        exact_shares(streaming_dataset.num_samples, shares),
        seed=seed if shuffle else None,
        by_chunk=granularity == "chunk",
    )
    return [streaming_dataset.with_samples(part) for part in parts]


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
