"""What the stores' options have in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from aiolit.errors import ConfigError

CONNECTION_NAMES = ("max_connections", "connect_timeout_s", "stall_timeout_s")
RETRY_NAMES = ("hedge_after_s", "give_up_after_s")  # taken out before a store sees its options


def take_connection_options(given: dict[str, Any]) -> dict[str, Any]:
    """Move the options that say how to connect out of ``given``; see ``ConnectionOptions``."""
    return {name: given.pop(name) for name in CONNECTION_NAMES if name in given}


def check_key(key: str, url: str) -> str:
    """Return the key; refuse one that a server would resolve to a place outside the root.

    Raises:
        ConfigError: A part of it is ``.`` or ``..``.
    """
    if any(part in (".", "..") for part in key.split("/")):
        raise ConfigError(f"{key!r} cannot be a key of {url}: it has a part '.' or '..'")
    return key


def reject_unknown(
    given: Mapping[str, Any], known: Iterable[str], *, which: str, scheme: str
) -> None:
    """Refuse a name that means nothing to the store: a misspelt one would be ignored for ever.

    Raises:
        ConfigError: It names the option, and the nearest known one.
    """
    names = sorted({*known, *CONNECTION_NAMES, *RETRY_NAMES})
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"{which} has {name!r}, which {scheme}:// does not know{hint} "
                f"(known: {', '.join(names)})"
            )
