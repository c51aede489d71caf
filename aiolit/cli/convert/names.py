"""Names of many shards in one: ``shard-{000..127}.tar``."""

from __future__ import annotations

import itertools
import re

from aiolit.errors import ConfigError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 10_000_000


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with ``{000..127}`` or ``{a,b}`` means, in its order.

    >>> expand_braces("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']

    Raises:
        ConfigError: Braces hold something else, or mean too many names.
    """
    texts = _BRACES.split(pattern)
    choices = [
        _choices(text, pattern) if number % 2 else [text] for number, text in enumerate(texts)
    ]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST or any("{" in text or "}" in text for text in texts[::2]):
        raise ConfigError(f"{pattern}: {{000..127}} or {{a,b}} is what braces can hold")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(text: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        return text.split(",")
    first, last = match.groups()
    if int(last) < int(first) or int(last) - int(first) > _MOST:
        raise ConfigError(f"{pattern}: {{{text}}} does not count upwards, or too far")
    width = len(first) if first.startswith("0") else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
