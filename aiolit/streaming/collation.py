"""A list of samples to a batch, as torch does it, and what can be done where it cannot be done."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate

_ADVICE = (
    "these samples do not make a batch as they are: bring them to one shape in optimize() or with "
    "transform= (images to one size, PIL images to arrays or tensors, None to a value), or make "
    "batches of your own with collate_fn="
)


def default_batch(samples: list[Any]) -> Any:
    """Return what torch's ``default_collate`` makes of samples; its errors come with advice.

    Raises:
        RuntimeError: Tensors or arrays of several shapes.
        TypeError: Leaves that are no numbers, arrays, tensors or texts.
        KeyError: Dicts with several sets of keys.
    """
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError, KeyError) as error:
        error.add_note(_ADVICE)
        raise
