"""What leaves a task group: one failure as itself, several of ours as the first."""

from __future__ import annotations

import pytest

from aiolit.errors import StoreTimeoutError, StoreUnavailableError
from aiolit.groups import single_error


def test_one_leaves_as_itself_with_its_cause() -> None:
    cause, error = KeyError("why"), ValueError("only")
    error.__cause__ = cause
    with pytest.raises(ValueError, match="only") as caught, single_error():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])])
    assert caught.value is error
    assert error.__cause__ is cause


def test_of_several_of_ours_the_first_leaves() -> None:
    """A server that goes down fails many requests at once; who catches AiolitError gets it."""
    errors = [StoreUnavailableError(f"no {n}", url="s3://b") for n in range(3)]
    late = StoreTimeoutError("late", url="s3://b")
    with pytest.raises(StoreUnavailableError, match="no 0") as caught, single_error():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", errors[:2]), errors[2], late])
    assert caught.value is errors[0]


@pytest.mark.parametrize("others", [[ValueError("strange")], [KeyError("a"), ValueError("b")]])
def test_others_stay_together(others: list[Exception]) -> None:
    group = ExceptionGroup("outer", [StoreUnavailableError("no", url="s3://b"), *others])
    with pytest.raises(ExceptionGroup) as caught, single_error():
        raise group
    assert caught.value is group


def test_the_others_are_noted() -> None:
    errors = [StoreUnavailableError(f"no {n}", url="s3://b") for n in range(3)]
    with pytest.raises(StoreUnavailableError) as caught, single_error():
        raise ExceptionGroup("outer", errors)
    assert caught.value.__notes__ == ["and 2 more failed with it, such as: no 2"]
