"""Pickle functions and inputs so that a fresh interpreter can load them.

The worker never imports the user's ``__main__``: what lives there travels by value, and so does
what lives in a module that no import could find (a notebook, ``exec``, a test module).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

import cloudpickle

from aiolit.errors import ConfigError
from aiolit.format.tree_nodes import registrations

__all__ = ["home_modules", "pickle_containers", "pickle_function", "pickle_inputs"]


def home_modules(fn: object) -> list[ModuleType]:
    """Return the modules of a function, of a partial's parts and of a callable object's class."""
    seen: dict[str, ModuleType] = {}
    stack: list[object] = [fn]
    while stack:
        part = stack.pop()
        if isinstance(part, partial):
            stack.extend([part.func, *part.args, *part.keywords.values()])
            continue
        names = {getattr(part, "__module__", None), type(part).__module__}
        for name in names:
            module = sys.modules.get(name) if isinstance(name, str) else None
            if module is not None and not _importable(module.__name__):
                seen[module.__name__] = module
        for attribute in ("__self__", "fn"):  # a bound method's object, what `map` wraps
            inner = getattr(part, attribute, None)
            if inner is not None and not isinstance(inner, ModuleType):
                stack.append(inner)
    return list(seen.values())


def _importable(name: str) -> bool:
    """Whether a fresh interpreter with the same path finds the module."""
    if name in sys.builtin_module_names or name in ("__main__", "__mp_main__"):
        return True  # cloudpickle sends what lives in __main__ by value anyway
    path: Any = None
    spec = None
    for depth in range(name.count(".") + 1):
        if depth and path is None:
            return False
        full = ".".join(name.split(".")[: depth + 1])
        module = sys.modules.get(full)
        origin = getattr(getattr(module, "__spec__", None), "origin", None)
        if origin in ("frozen", "built-in"):
            return True
        spec = PathFinder.find_spec(full, path)
        if spec is None:
            # Editable installs bring finders of their own, which a fresh interpreter has too.
            return _found_by_other_finders(full, path)
        path = spec.submodule_search_locations
    return spec is not None


def _found_by_other_finders(name: str, path: Any) -> bool:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None or finder is PathFinder or "pytest" in type(finder).__module__:
            continue
        if find(name, path) is not None:
            return True
    return False


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    registered = [
        module
        for module in modules
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    ]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def pickle_function(value: object, modules: list[ModuleType]) -> bytes:
    """Pickle what a worker needs once.

    Raises:
        ConfigError: A part of it cannot be pickled; the message says which.
    """
    try:
        with _by_value(modules):
            return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise ConfigError(
            "the function cannot be sent to worker processes, because something it refers to "
            f"cannot be pickled: {error}"
        ) from error


def pickle_inputs(inputs: object, modules: list[ModuleType], *, first: int) -> bytes:
    """Pickle some inputs.

    Raises:
        ConfigError: One of them cannot be pickled.
    """
    try:
        with _by_value(modules):
            return bytes(cloudpickle.dumps(inputs))
    except Exception as error:
        raise ConfigError(
            f"the inputs from index {first} on cannot be sent to worker processes: {error}"
        ) from error


def pickle_containers() -> tuple[bytes, ...]:
    """Pickle what was registered here as containers of samples, for workers to do the same.

    Raises:
        ConfigError: A class, or a function it was registered with, cannot be pickled.
    """
    pickled = []
    for register in registrations():
        try:
            with _by_value(home_modules(register)):
                pickled.append(bytes(cloudpickle.dumps(register)))
        except Exception as error:
            raise ConfigError(
                f"{register.args[0]!r} is registered as a container of samples, but cannot be sent "
                f"to worker processes: {error}"
            ) from error
    return tuple(pickled)
