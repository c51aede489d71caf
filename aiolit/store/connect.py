"""From a URL to a store."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from aiolit.errors import ConfigError, MissingDependencyError
from aiolit.store.base import Store
from aiolit.store.connections import bucket_url
from aiolit.store.local import LocalStore
from aiolit.store.memory import MemoryStore
from aiolit.store.options import RETRY_NAMES
from aiolit.store.retry import RetryPolicy, RetryStore

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

# scheme -> (extra, module, class). Each module imports its libraries, which are optional.
_REMOTE = {
    "s3": ("s3", "aiolit.store.s3", "S3Store"),
    "r2": ("s3", "aiolit.store.s3", "S3Store"),
    "gs": ("gcs", "aiolit.store.gcs", "GcsStore"),
    "azure": ("azure", "aiolit.store.azure", "AzureStore"),
    "http": ("http", "aiolit.store.http", "HttpStore"),
    "https": ("http", "aiolit.store.http", "HttpStore"),
    "hf": ("hf", "aiolit.store.huggingface", "HuggingFaceStore"),
}


class _RemoteStore(Protocol):
    def __call__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None,
        session_options: Mapping[str, Any] | None,
    ) -> Store: ...


def open_store(
    url: str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
    session_options: Mapping[str, Any] | None = None,
    retry: RetryPolicy | None = None,
) -> Store:
    """Return the store at a URL; no I/O happens yet.

    Args:
        url: A folder (a path, ``local:path``, ``file:///path``, ``/teamspace/...``), ``s3://``, ``r2://``,
            ``gs://``, ``azure://``, ``http(s)://``, ``hf://``, or ``memory://name``, which is
            one store per name and process.
        storage_options: What the store's client takes; see the store's class. And for every
            remote store: ``hedge_after_s``, to make a second request for a read in which no byte
            has come for so many seconds; ``give_up_after_s``, the longest time without a byte,
            over all attempts. Local folders ignore all, since the same call often serves both.
        session_options: The same, of the session (S3 only).
        retry: When a remote store tries again; None: as the options say.

    Raises:
        ConfigError: An unknown scheme or option.
        MissingDependencyError: The store's library is not installed.
    """
    if not isinstance(url, Path):
        url = bucket_url(url)
    scheme = scheme_of(url)
    if scheme in ("", "file", "local"):
        return LocalStore(local_path(url))
    if scheme == "memory":
        return MemoryStore.shared(str(url))
    if scheme not in _REMOTE:
        known = ", ".join(f"{name}://" for name in sorted((*_REMOTE, "file", "memory")))
        raise ConfigError(f"{url}: no store for {scheme}:// (known: a path, {known})")
    extra, module, name = _REMOTE[scheme]
    try:
        make = cast(_RemoteStore, getattr(importlib.import_module(module), name))
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{scheme}:// needs {error.name}: pip install 'aiolit[{extra}]'", name=error.name
        ) from error
    given = dict(storage_options or {})
    policy = RetryPolicy.of({name: given.pop(name, None) for name in RETRY_NAMES})
    return RetryStore(make(str(url), given, session_options), retry or policy)


def scheme_of(url: str | Path) -> str:
    """Return the URL's scheme in lower case; ``""`` for a path, ``"local"`` for ``local:path``."""
    if isinstance(url, Path):
        return ""
    match = _SCHEME.match(url)
    if match is not None:
        return match[1].lower()
    return "local" if url.startswith("local:") else ""


def is_remote(url: str | Path) -> bool:
    """Whether the URL leads off this machine: not a folder, and not this process's memory."""
    return scheme_of(url) not in ("", "file", "local", "memory")


def local_path(url: str | Path) -> Path:
    """Return the folder that a path, ``local:path`` or ``file:///path`` means."""
    if isinstance(url, Path):
        return url
    return Path(url.removeprefix("file://").removeprefix("local:")).expanduser()


def join(url: str | Path, name: str) -> str:
    """Return the URL of what lies at ``name`` below ``url``; a query stays at the end."""
    if scheme_of(url) in ("http", "https"):
        base, mark, query = str(url).partition("?")
        return f"{base.rstrip('/')}/{name}{mark}{query}"
    base = str(url)
    return f"{base}{name}" if base.endswith("/") else f"{base}/{name}"
