"""One failure leaves its exception group; several stay together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiolit.errors import AiolitError

__all__ = ["leaves", "single_error"]


def leaves(error: BaseException) -> list[BaseException]:
    """List the failures inside nested groups in order, each object once."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    found: list[BaseException] = []
    for part in error.exceptions:
        found += [leaf for leaf in leaves(part) if not any(leaf is seen for seen in found)]
    return found


@contextmanager
def single_error() -> Iterator[None]:
    """Let one failure leave as itself, and keep the group only when there are several.

    A failure that reached a task group twice, from the task and again through the body that
    awaited it, counts once. Several of aiolit's own errors (requests that fail in the same moment,
    as they do when a server goes down) leave as the first of them, with a note of the others: who
    catches ``AiolitError`` must not miss them.

    Raises:
        BaseException: The only failure inside the group, with its own cause.
        BaseExceptionGroup: The group unchanged, where several different failures are in it.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        first, *others = leaves(group)
        if others:
            if not all(isinstance(error, AiolitError) for error in (first, *others)):
                raise
            first.add_note(f"and {len(others)} more failed with it, such as: {others[-1]}")
        # `from` keeps the failure's own cause and hides the group it came out of.
        raise first from first.__cause__
