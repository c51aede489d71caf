"""Exceptions of the user's function, carried from a worker to the caller."""

from __future__ import annotations

import reprlib
from types import TracebackType

from aiolit.errors import OptimizeError
from aiolit.groups import leaves
from aiolit.processing.protocol import Failure
from aiolit.runtime.remote_error import RemoteError

__all__ = ["FunctionFailedError", "describe", "plain_errors", "restore", "show"]

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 160


class FunctionFailedError(Exception):
    """Carries the user's exception through our coroutines, which cannot raise every kind.

    Attributes:
        error: The exception.
        failure: What the worker said of it, where it comes from one.
    """

    def __init__(self, error: BaseException, failure: Failure | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.failure = failure


def show(value: object) -> str:
    """Return a short repr, also of objects whose repr fails."""
    return _REPR.repr(value)


def describe(run: int, index: int, shown: str, error: BaseException) -> Failure:
    """Pack an exception for the way to the parent."""
    return Failure(run, index, shown, RemoteError.pack(error))


def restore(failure: Failure) -> Exception:
    """Return the exception to raise in the caller.

    It is of the original type where that can be pickled. Notes name the input and show the
    traceback in the worker.
    """
    error = failure.error.unpack("a worker process")
    if not isinstance(error, Exception):
        # SystemExit and the like must not end the caller's program.
        stand_in = OptimizeError(f"the function raised {failure.error.summary}")
        stand_in.__cause__ = error
        error = stand_in
    if failure.index >= 0:
        error.add_note(f"while working on input {failure.index}: {failure.shown}")
    return error


class plain_errors:  # noqa: N801  a context manager, used like a function
    """Raise what the user's function raised as itself, and the first of several failures.

    The others, which came while the job was ending, are named in a note. A class, because a
    generator cannot raise ``StopIteration``.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, FunctionFailedError):
            raise exc.error from exc.error.__cause__
        if isinstance(exc, ExceptionGroup):
            first, *others = [_unwrapped(error) for error in leaves(exc)]
            for other in others:
                first.add_note(f"and then, while the job was ending: {other!r}")
            raise first from first.__cause__


def _unwrapped(error: BaseException) -> BaseException:
    return error.error if isinstance(error, FunctionFailedError) else error
