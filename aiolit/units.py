"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    **{
        f"{letter}{tail}": 1000**power
        for power, letter in enumerate("kmgtp", 1)
        for tail in ("", "b")
    },
    **{
        f"{letter}i{tail}": 1024**power
        for power, letter in enumerate("kmgtp", 1)
        for tail in ("", "b")
    },
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(value: int | str, *, name: str) -> int:
    """Turn ``67108864``, ``"64MB"`` (10^6), ``"64MiB"`` (2^20), ``"64M"`` or ``"64"`` into bytes.

    Args:
        value: The size. Units are case-insensitive; ``MB`` is decimal and ``MiB`` binary.
        name: What the size is for; it opens the error message.

    Raises:
        ValueError: The text is no size, or the size is negative.
        TypeError: ``value`` is neither an int nor a str.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{name} must be a number of bytes or a text like '64MB', not {value!r}")
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{name} cannot be negative: {value}")
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(
            f"{name}={value!r} is no size; write a number of bytes or one with a unit: "
            "B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"
        )
    return (
        int(float(match[1]) * _UNITS[match[2].lower()])
        if "." in match[1]
        else int(match[1]) * _UNITS[match[2].lower()]
    )


def format_size(nbytes: int | float) -> str:
    """Write a number of bytes for people: ``format_size(64_000_000) == "64.0 MB"``."""
    size = float(nbytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
