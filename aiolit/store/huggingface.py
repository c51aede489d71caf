"""Files of a repository on the Hugging Face Hub; for reading only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from huggingface_hub import constants, get_token
from yarl import URL

from aiolit.errors import (
    ConfigError,
    ObjectNotFoundError,
    StoreError,
)
from aiolit.store.base import ObjectInfo
from aiolit.store.http_reads import HttpReads, Versioned
from aiolit.store.http_semantics import content_length, status_error
from aiolit.store.hub_url import parse_hub_url
from aiolit.store.loop_bound import LoopBound
from aiolit.store.options import check_key, reject_unknown, take_connection_options
from aiolit.store.read_only import ReadOnly
from aiolit.store.redirects import follow
from aiolit.store.threads import run_in_thread
from aiolit.store.transport import ConnectionOptions, Transport, json_body

# The Hub's signed addresses hold for an hour; each is used for a part of that.
_ADDRESS_LIFETIME_S = 600.0
_MAX_ADDRESSES = 10_000
_ACCESS_HELP = (
    "a private or gated repository needs a token that may read it: set HF_TOKEN, run `hf auth "
    "login`, or pass storage_options={'token': ...}; accept a gated repository's terms on its page"
)
_GONE = frozenset({401, 403, 404, 410})

# A store has a method `list`, which hides the type's name within the class.
_Infos = list[ObjectInfo]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a large file's bytes are, as the Hub has said, and of which version."""

    address: str
    etag: str | None
    until_s: float


class _HubClient:
    """What one loop has open: connections, and the addresses that are still good."""

    def __init__(self, options: ConnectionOptions, token: str | None) -> None:
        self.transport = Transport(options)
        self.private = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.places: dict[str, _Place] = {}

    def remember(self, key: str, address: str, etag: str | None) -> None:
        """Keep an address for a while; forget the oldest of too many."""
        until_s = asyncio.get_running_loop().time() + _ADDRESS_LIFETIME_S
        self.places.pop(key, None)
        self.places[key] = _Place(address, etag, until_s)
        if len(self.places) > _MAX_ADDRESSES:
            del self.places[next(iter(self.places))]

    async def aclose(self) -> None:
        """Close every connection."""
        await self.transport.aclose()


class HuggingFaceStore(LoopBound[_HubClient], HttpReads, ReadOnly):
    """The files below ``hf://datasets/owner/name[@revision]/path``.

    huggingface_hub finds the token; all else comes over aiohttp. The Hub sends readers
    of large files on to another host with a signed address: that host never sees the token, and
    the address is used again for ten minutes, so that a range costs one request and not two.

    Args:
        url: A data set, a model (``hf://owner/name``) or a space (``hf://spaces/owner/name``).
        storage_options: ``token`` (else ``HF_TOKEN`` or the login's), ``endpoint`` (else
            ``HF_ENDPOINT``), ``anon=True`` to send no token, ``verify``, and
            ``max_connections``, ``connect_timeout_s``, ``stall_timeout_s``.
        session_options: None are known.

    Raises:
        ConfigError: An unknown option, or a URL that names no repository.
    """

    def __init__(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = dict(storage_options or {})
        connection = take_connection_options(given)
        known = ("token", "endpoint", "anon", "verify")
        reject_unknown(given, known, which="storage_options", scheme="hf")
        reject_unknown(session_options or {}, (), which="session_options", scheme="hf")
        token = given.get("token")
        if token is not None and not isinstance(token, str | bool):
            raise ConfigError("token must be a text")
        self.url = url.rstrip("/")
        self._where = parse_hub_url(self.url)
        self._anon = bool(given.get("anon", False)) or token is False
        self._token = token if isinstance(token, str) else None
        self._endpoint = given.get("endpoint")
        self._connection = ConnectionOptions(verify=given.get("verify", True), **connection)

    async def _open_client(self) -> _HubClient:
        token = None if self._anon else self._token or await run_in_thread(get_token)
        return _HubClient(self._connection, token)

    def _hub(self) -> str:
        # The library reads the variable when it is imported; users set it later, too.
        found = self._endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        return str(found).rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._where.path}/{key}" if self._where.path else key

    def _address(self, key: str) -> str:
        where = self._where
        revision, path = (
            quote(where.revision, safe=""),
            quote(self._path(check_key(key, self.url)), safe="/-_.~"),
        )
        return f"{self._hub()}/{where.folder}/resolve/{revision}/{path}"

    async def head(self, key: str) -> ObjectInfo:
        client, url = await self._client(), self.object_url(key)
        followed = await follow(
            client.transport,
            "HEAD",
            self._address(key),
            url=url,
            headers={},
            private=client.private,
            # This redirect, to the bytes' host, says itself what the file is.
            until="X-Linked-Size",
        )
        async with followed.response:
            headers = followed.response.headers
            linked = headers.get("X-Linked-Size", "")
            if followed.response.status >= 300 and not linked:
                raise self._error(followed.response, key)
            size = int(linked) if linked.isdigit() else content_length(headers)
            if size is None:
                raise StoreError(f"{url}: the Hub does not say its size", url=url)
            return ObjectInfo(key, size, _etag((headers,)), None)

    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        client, url = await self._client(), self.object_url(key)
        place = client.places.get(key)
        if place is not None and place.until_s > asyncio.get_running_loop().time():
            response = await client.transport.request(
                "GET", place.address, url=url, headers=headers
            )
            if response.status < 300:
                return Versioned(response, place.etag)
            response.release()
            if response.status not in _GONE:
                raise self._error(response, key)
            client.places.pop(key, None)  # run out before its time
        followed = await follow(
            client.transport,
            "GET",
            self._address(key),
            url=url,
            headers=headers,
            private=client.private,
        )
        response = followed.response
        if response.status >= 300:
            response.release()
            raise self._error(response, key)
        version = _etag((*followed.passed, response.headers))
        if URL(followed.address).origin() != URL(self._hub()).origin():
            client.remember(key, followed.address, version)
        return Versioned(response, version)

    def _error(self, response: aiohttp.ClientResponse, key: str) -> StoreError:
        where, url, code = self._where, self.object_url(key), response.headers.get("X-Error-Code")
        if code == "RevisionNotFound":
            return ObjectNotFoundError(
                f"there is no revision {where.revision!r} of {where.folder} (asked for {url})",
                url=url,
            )
        if code == "RepoNotFound":
            return ObjectNotFoundError(
                f"there is no repository {where.folder}, or it is private (asked for {url}); "
                f"{_ACCESS_HELP}",
                url=url,
            )
        return status_error(
            response.status,
            response.headers,
            url=url,
            detail=response.headers.get("X-Error-Message", ""),
            access_help=_ACCESS_HELP,
        )

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        # The Hub's order is that of its folders, so all of them are gathered first.
        found = [info async for page in self._pages(prefix) for info in page]
        for info in sorted(found, key=lambda info: info.key):
            if info.key.startswith(prefix) and info.key > after:
                yield info

    async def _pages(self, prefix: str) -> AsyncGenerator[_Infos, None]:
        client, where, url = await self._client(), self._where, self.object_url(prefix)
        # The deepest folder that holds all that begins with the prefix.
        folder = self._path(prefix).rpartition("/")[0]
        address = (
            f"{self._hub()}/api/{where.kind}s/{where.repo}/tree/{quote(where.revision, safe='')}"
            f"{'/' + quote(folder, safe='/-_.~') if folder else ''}?recursive=true"
        )
        while address:
            followed = await follow(
                client.transport, "GET", address, url=url, headers={}, private=client.private
            )
            async with followed.response as response:
                if response.headers.get("X-Error-Code") == "EntryNotFound":
                    return  # no such folder: nothing begins with this prefix
                if response.status >= 300:
                    raise self._error(response, prefix)
                entries = await json_body(response, url)
                # Another host's page would see the token.
                following_page = response.links.get("next")
                link = str(following_page["url"]) if following_page else ""
            yield self._infos(entries)
            address = link if link.startswith(f"{self._hub()}/") else ""

    def _infos(self, entries: Iterable[Mapping[str, Any]]) -> _Infos:
        skip = len(self._path(""))
        return [
            ObjectInfo(
                entry["path"][skip:],
                entry["size"],
                f'"{entry["lfs"]["oid"] if entry.get("lfs") else entry["oid"]}"',
                None,
            )
            for entry in entries
            if entry["type"] == "file"
        ]


def _etag(answers: tuple[Mapping[str, str], ...]) -> str | None:
    """Return the version: a large file's is told by the Hub, not by the host of its bytes."""
    for headers in answers:
        if "X-Linked-ETag" in headers:
            return headers["X-Linked-ETag"]
    return answers[-1].get("ETag")
