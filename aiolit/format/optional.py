"""Libraries that only some data sets need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aiolit.errors import MissingDependencyError


def require(module: str, pip_name: str, purpose: str, *, instead: str = "") -> Any:
    """Import and return ``module``.

    Args:
        module: Its dotted name.
        pip_name: What to give to pip, such as ``"tifffile"`` or ``"aiolit[images]"``.
        purpose: What it is needed for; it opens the error message.
        instead: What can be done without it, if anything; it ends the error message.

    Raises:
        MissingDependencyError: It is not installed, or does not load; says the pip command.
    """
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as exc:
        # OSError and RuntimeError: installed, but a shared library it needs is not.
        raise MissingDependencyError(
            f"{purpose} needs a package that is not there ({exc}): pip install "
            f"'{pip_name}'{instead}"
        ) from exc
