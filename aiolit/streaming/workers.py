"""Which loader worker this is, and what only one of them should say."""

from __future__ import annotations

import warnings

from torch.utils.data import get_worker_info

from aiolit.errors import StateError
from aiolit.plan.order import Deal


def check_worker(expected: tuple[int, int]) -> None:
    """Check that a worker's own state goes on in that worker.

    Args:
        expected: The worker's number and how many there were.

    Raises:
        StateError: This is another worker, or none.
    """
    info = get_worker_info()
    here = (0, 1) if info is None else (info.id, info.num_workers)
    if here != expected:
        raise StateError(
            f"this is the state of worker {expected[0]} of {expected[1]} and goes on there alone, "
            f"not in worker {here[0]} of {here[1]}"
        )


def warn_of_no_batch(deal: Deal, size: int) -> None:
    """Warn, in one process of a loader, that an epoch of so many samples holds no batch."""
    info = get_worker_info()
    if info is None or info.id == 0:
        warnings.warn(
            f"there is no batch: {size} samples are fewer than the {deal.ranks} ranks' batches of "
            f"{deal.batch_size} need together, and drop_last leaves them out",
            stacklevel=4,
        )
