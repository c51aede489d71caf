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


def warn_of_repeats(options: object, *, begun: bool) -> None:
    """Warn, in one worker of a torch ``DataLoader``, that its epochs may all have one order.

    Args:
        options: What fixes the order.
        begun: Whether the data set was told an epoch, or a state: then its user turns them.
    """
    info = get_worker_info()
    if info is not None and info.id == 0 and not begun and getattr(options, "shuffle", False):
        warnings.warn(
            "torch's DataLoader starts new workers for each epoch, which all begin with the same "
            "shuffled order: use aiolit.StreamingDataLoader, or call set_epoch() on the data set "
            "(nothing is wrong where persistent_workers=True keeps the workers)",
            stacklevel=3,
        )
