"""What a public function or class takes is described in its docstring, and nothing else."""

from __future__ import annotations

import inspect
import re

import pytest

import aiolit
from aiolit import aio

ARGUMENTS = re.compile(r"(?:^|\n)( *)(?:Args|Attributes):\n(.*?)(?=\n\s*\n|\Z)", re.S)
# The twins refer to the names they are twins of.
TWINS = {name for name in aio.__all__ if hasattr(aiolit, name)}
PUBLIC = {f"aiolit.{name}": getattr(aiolit, name) for name in aiolit.__all__}
PUBLIC |= {f"aio.{name}": getattr(aio, name) for name in aio.__all__ if name not in TWINS}
CALLABLE = [name for name, value in PUBLIC.items() if callable(value)]


def described(text: str) -> set[str]:
    """Return the names that a docstring describes as arguments."""
    found = ARGUMENTS.search(text)
    if found is None:
        return set()
    indent = len(found[1]) + 4
    return set(re.findall(rf"^ {{{indent}}}(\w+):", found[2], re.M))


@pytest.mark.parametrize("name", CALLABLE)
def test_every_argument_is_described(name: str) -> None:
    value = PUBLIC[name]
    taken = {
        parameter.name
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    text = value.__doc__ or ""
    assert described(inspect.cleandoc(text)) == taken or "Attributes:" in text


def test_the_search_for_arguments() -> None:
    text = inspect.cleandoc(
        """Do it.

        Args:
            one: The first,
                with more: this.
            two: The second.

        Raises:
            ValueError: No.
        """
    )
    assert described(text) == {"one", "two"}
    assert described("Do it.") == set()
