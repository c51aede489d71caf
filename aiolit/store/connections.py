"""Places as users write them: dates filled in, ``/teamspace/...`` as the bucket behind it."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError

SETTING = "AIOLIT_CONNECTIONS"
_ROOT = "/teamspace"
_PROJECT = "LIGHTNING_CLOUD_PROJECT_ID"
# Folders of data connections, and where Lightning's API keeps their bucket.
_KINDS = {
    "s3_connections": "aws",
    "s3_folders": "s3_folder",
    "gcs_connections": "gcp",
    "gcs_folders": "gcs_folder",
    "lightning_storage": "r2",
}
_DATE = re.compile(r"\{(%[^}]*)\}")

_log = logging.getLogger(__name__)


def expand(place: str) -> str:
    """Return a place with today's date for each ``{%Y-%m-%d}``, and see ``bucket_url``."""
    return bucket_url(_DATE.sub(lambda match: datetime.now().strftime(match[1]), place))


def bucket_url(place: str) -> str:
    """Return the bucket's URL of a path below ``/teamspace``; other places as they are.

    What ``AIOLIT_CONNECTIONS`` says goes first: a JSON object or ``name=url`` pairs, separated by
    commas or blanks, or the path of a file that holds the one or the other; without it
    ``~/.config/aiolit/connections``, if there is such a file. A name is that of a connection, the
    third part of its path, or any path below ``/teamspace``, which stands for all in it. Then
    Lightning's API is asked, where ``lightning_sdk`` is installed in a Studio. A path that is
    there, mounted or on the Studio's own disk, stays a path.

    Raises:
        ConfigError: Nothing knows the path, or the setting cannot be read.
    """
    path = place.rstrip("/")
    if path != _ROOT and not path.startswith(f"{_ROOT}/"):
        return place
    _, _, kind, name, *_ = [*path.split("/"), "", ""]
    base = f"{_ROOT}/{kind}/{name}"
    said = _setting()
    for known in _and_parents(path):
        if known in said:
            return said[known].rstrip("/") + path.removeprefix(known)
    if name and name in said:
        return said[name].rstrip("/") + path.removeprefix(base)
    if kind in _KINDS and name and (found := _of_lightning(kind, name)):
        return found.rstrip("/") + path.removeprefix(base)
    if Path(base if kind in _KINDS and name else f"{_ROOT}/{kind}").exists():
        return place
    raise ConfigError(
        f"{place} is not on this machine, and no connection {name or kind!r} is known; set "
        f"{SETTING}, such as {SETTING}='{name or kind}=s3://bucket/prefix'"
    )


def _and_parents(path: str) -> list[str]:
    return [path, *(str(parent) for parent in Path(path).parents if len(parent.parts) > 2)]


def _setting() -> Mapping[str, str]:
    """Return what the setting, or its file, maps to what."""
    text = os.environ.get(SETTING, "").strip()
    source = SETTING
    if not text or ("=" not in text and not text.startswith("{")):
        file = Path(text).expanduser() if text else _default_file()
        source = str(file)
        try:
            text = file.read_text().strip()
        except OSError as error:
            if text:
                raise ConfigError(
                    f"{SETTING} names the file {file}, which cannot be read: {error.strerror}"
                ) from error
            return {}
    return _parse(text, source)


def _default_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    try:
        return Path(base).expanduser() / "aiolit" / "connections"
    except RuntimeError:  # a user without a home, as containers have them
        return Path(os.devnull)


def _parse(text: str, source: str) -> dict[str, str]:
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{source} is not proper JSON: {error}") from error
    else:
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
        words = [word for line in lines for word in re.split(r"[\s,]+", line.strip()) if word]
        pairs = [(word, *word.partition("=")[::2]) for word in words]
        for word, name, url in pairs:
            if not name or not url:
                raise ConfigError(f"{source}: {word!r} is no name=url")
        found = {name: url for _, name, url in pairs}
    for name, url in found.items():
        if not isinstance(url, str) or not url:
            raise ConfigError(f"{source}: {name!r} must be mapped to a URL, not to {url!r}")
    return {name.rstrip("/"): url for name, url in found.items()}


def _of_lightning(kind: str, name: str) -> str | None:
    """Ask Lightning's API for the bucket of a connection; None where it cannot be asked."""
    project = os.environ.get(_PROJECT)
    if not project:
        return None
    try:
        connections = _list_connections(project)
    except ModuleNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError) as error:
        _log.warning("Lightning's data connections cannot be listed: %s", error)
        return None
    for connection in connections:
        source = getattr(getattr(connection, _KINDS[kind], None), "source", None)
        if connection.name == name and source:
            return str(source)
    return None


@functools.lru_cache(maxsize=1)
def _list_connections(project: str) -> tuple[Any, ...]:
    # Optional, and slow to import; urllib3 comes with it.
    from lightning_sdk.lightning_cloud.openapi.rest import ApiException
    from lightning_sdk.lightning_cloud.rest_client import LightningClient
    from urllib3.exceptions import HTTPError

    try:
        client = LightningClient(retry=False)
        found = client.data_connection_service_list_data_connections(project)
    except (ApiException, HTTPError) as error:
        raise OSError(str(error)) from error
    return tuple(found.data_connections or ())
