"""The user's function, found by the name that was given on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from aiolit.cli.console import Console
from aiolit.errors import AiolitError, ConfigError

_INPUT_NOTE = "while working on input "


class FunctionError(AiolitError):
    """The user's function raised; the message says on which input."""


@contextmanager
def loaded_function(spec: str) -> Iterator[Callable[..., Any]]:
    """Load ``module:name`` or ``file.py:name`` and yield the function.

    While the block runs, the working directory (or the file's folder) is on the import path, which
    worker processes get too.

    Raises:
        ConfigError: There is no such function, or importing its module fails.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ConfigError(f"--fn {spec}: write module:name or file.py:name")
    path, is_file = list(sys.path), place.endswith(".py")
    sys.path.insert(0, os.path.dirname(os.path.abspath(place)) if is_file else os.getcwd())
    try:
        module = _load_file(spec, place) if is_file else _import(spec, place)
        yield _find(spec, module, name)
    finally:
        sys.path[:] = path
        sys.modules.pop(_module_name(place), None)


def _module_name(place: str) -> str:
    # A name that no import finds: so it travels to the workers by value, whatever the file is
    # called.
    return f"aiolit-fn {Path(place).stem}"


def _load_file(spec: str, place: str) -> ModuleType:
    if not os.path.isfile(place):
        raise ConfigError(f"--fn {spec}: there is no file {place}")
    name = _module_name(place)
    found = importlib.util.spec_from_file_location(name, os.path.abspath(place))
    if found is None or found.loader is None:
        raise ConfigError(f"--fn {spec}: {place} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    with _import_errors(spec, place):
        found.loader.exec_module(module)
    return module


def _import(spec: str, place: str) -> ModuleType:
    with _import_errors(spec, place):
        return importlib.import_module(place)


@contextmanager
def _import_errors(spec: str, place: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"--fn {spec}: there is no module {error.name} here or among the installed ones"
            ) from error
        raise ConfigError(f"--fn {spec}: importing {place} failed: {error}") from error
    except Exception as error:
        # The user's code may raise anything.
        raise ConfigError(
            f"--fn {spec}: importing {place} failed: {type(error).__name__}: {error}"
        ) from error


def _find(spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"--fn {spec}: there is no {part!r} in {spec.rpartition(':')[0]}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"--fn {spec}: {name} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


@contextmanager
def function_errors(console: Console) -> Iterator[None]:
    """Tell what the user's function raised, for which input and where, and raise ``FunctionError``.

    Errors that did not come from the function pass unchanged.
    """
    try:
        yield
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        place = next((note for note in notes if note.startswith(_INPUT_NOTE)), None)
        if place is None:
            raise
        if isinstance(error, AiolitError):  # about what the function returned, and says it all
            raise FunctionError(f"{place}: {error}") from error
        for note in notes:
            if note is not place:
                console.details(note)
        raise FunctionError(f"{place}: {type(error).__name__}: {error}") from error
