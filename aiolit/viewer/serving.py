"""Serving the viewer from a program that does something else meanwhile."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiolit.runtime.portal import portal
from aiolit.viewer.browse import Browser, browser_of
from aiolit.viewer.gauges import Gauges, Watchable
from aiolit.viewer.pages import Pages, listening
from aiolit.viewer.samples import Samples

LOOPBACK = "127.0.0.1"


@contextmanager
def watch(loader: Watchable, *, host: str = LOOPBACK, port: int = 0) -> Iterator[str]:
    """Serve live gauges of a loader, and its data set to browse, while the block runs.

    The loader is not slowed down: once a second, while a page is open, its ``stats()`` are read.
    Samples are read anew by range, beside the loader.

    Args:
        loader: A ``StreamingDataLoader``. Of a mixture, a tuple or raw files the gauges are shown
            and no samples.
        host: The address to listen on; any but a loopback address is warned of.
        port: The port; 0 takes a free one.

    Yields:
        The address to open in a browser.

    Raises:
        ConfigError: The loader has no statistics, or the port cannot be used.

    Leaving the block closes every connection; nothing is left.
    """
    gauges = Gauges(loader)
    browser = None if gauges.source is None else browser_of(gauges.source)
    with served(browser, gauges, host=host, port=port) as url:
        yield url


@contextmanager
def served(
    browser: Browser | None, gauges: Gauges | None, *, host: str = LOOPBACK, port: int = 0
) -> Iterator[str]:
    """Serve a data set, a loader or both on the process's event loop while the block runs.

    The browser is closed at the end.

    Yields:
        The address to open in a browser.

    Raises:
        ConfigError: The port cannot be used.
    """
    if not _is_loopback(host):
        warnings.warn(
            f"everybody who can reach {host} and knows the address can see the data", stacklevel=3
        )
    with portal().wrap_async_context_manager(_served(browser, gauges, host, port)) as url:
        yield url


@asynccontextmanager
async def _served(
    browser: Browser | None, gauges: Gauges | None, host: str, port: int
) -> AsyncIterator[str]:
    samples = None if browser is None else Samples(browser)
    try:
        async with listening(Pages(samples, gauges, host), host, port) as url:
            yield url
    finally:
        if browser is not None:
            await browser.aclose()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
