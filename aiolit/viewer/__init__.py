"""A page in the browser that shows what is in a data set, and what a running loader does.

``aiolit view URL`` opens a data set from the command line; ``with watch(loader) as url:`` serves
the gauges of a loader while it runs. Needs ``aiohttp``: ``pip install 'aiolit[viewer]'``.
"""

from __future__ import annotations

from aiolit.errors import MissingDependencyError

try:
    from aiolit.viewer.serving import watch
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"the viewer needs {error.name}: pip install 'aiolit[viewer]'", name=error.name
    ) from error

__all__ = ["watch"]
