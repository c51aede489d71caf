"""A failure leaves its group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiolit.errors import AiolitError


@contextmanager
def single_error() -> Iterator[None]:
    """Let one failure leave a task group as itself; of several of aiolit's own errors, the first.

    Other groups stay.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, strange = group.split(AiolitError)
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            if strange is not None and len(error.exceptions) > 1:
                raise
            error = error.exceptions[0]
        raise error from error.__cause__
