"""An exception on its way to another process."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import cloudpickle

__all__ = ["RemoteError", "RemoteFailure"]


class RemoteFailure(RuntimeError):
    """Stands for an exception of a worker process that cannot be pickled; the message names it."""


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An exception as bytes, with its traceback as text, which pickle would lose.

    Attributes:
        pickled: The exception, or None where it cannot be pickled and read back.
        summary: Its type and message.
        text: The traceback in the process that raised it.
    """

    pickled: bytes | None
    summary: str
    text: str

    @classmethod
    def pack(cls, error: BaseException) -> RemoteError:
        """Take an exception for the way."""
        text = "".join(traceback.format_exception(error))
        summary = "".join(traceback.format_exception_only(error)).strip()
        try:
            pickled = cloudpickle.dumps(error)
            cloudpickle.loads(pickled)  # an __init__ that wants more than args fails only here
        except Exception:  # noqa: BLE001 - any class may refuse in any way; the text still travels
            pickled = None
        return cls(pickled, summary, text)

    def unpack(self, where: str) -> BaseException:
        """Return the exception, with a note of where it was raised and its traceback there."""
        error: BaseException = RemoteFailure(self.summary)
        if self.pickled is not None:
            try:
                error = cloudpickle.loads(self.pickled)
            except Exception:  # noqa: BLE001 - as in pack; the modules of the two processes may differ
                error = RemoteFailure(self.summary)
        error.add_note(f"raised in {where}:\n{self.text.rstrip()}")
        return error
