"""Objects in a bucket of Google Cloud Storage."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from gcloud.aio.auth import Token

from aiolit.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from aiolit.store.base import Data, ObjectInfo, buffers
from aiolit.store.http_reads import HttpReads, Versioned
from aiolit.store.http_semantics import status_error
from aiolit.store.loop_bound import LoopBound
from aiolit.store.options import reject_unknown, take_connection_options
from aiolit.store.threads import run_in_thread
from aiolit.store.transport import (
    ConnectionOptions,
    Transport,
    error_body,
    json_body,
)
from aiolit.store.upload import Upload

_ENDPOINT = "https://storage.googleapis.com"
_SCOPES = ["https://www.googleapis.com/auth/devstorage.read_write"]
_ACCESS_HELP = (
    "check that the account may read and list it; credentials come from "
    "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, the machine, or "
    "storage_options={'service_file': ...}. A public bucket: storage_options={'anon': True}"
)
_RESUME = 308
_NO_BUCKET = "there is no bucket"


class _GcsClient:
    """What one loop has open."""

    def __init__(self, options: ConnectionOptions, token: Token | None) -> None:
        self.transport = Transport(options)
        self._token = token

    async def private(self, url: str) -> dict[str, str]:
        """Return the header that says who asks; the token is renewed when it is due."""
        if self._token is None:
            return {}
        try:
            text = await self._token.get()
        except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            raise AccessDeniedError(
                f"no Google credentials for {url} ({error}); {_ACCESS_HELP}", url=url
            ) from error
        return {"Authorization": f"Bearer {text}"}

    async def aclose(self) -> None:
        """Close every connection."""
        await self.transport.aclose()
        if self._token is not None:
            await self._token.close()


class GcsStore(LoopBound[_GcsClient], HttpReads):
    """The objects below ``gs://bucket/prefix``; an object's version is its generation.

    gcloud-aio finds the credentials and renews the token; requests go to the JSON API over
    aiohttp.

    Args:
        url: ``gs://bucket`` or ``gs://bucket/prefix``.
        storage_options: ``project``, which is billed for requester-pays buckets;
            ``service_file``, the path of a service account's key; ``token``, an access token;
            ``anon=True`` (or ``anonymous``); ``endpoint`` (else ``STORAGE_EMULATOR_HOST``, which
            sends no credentials); ``verify``; and ``max_connections``, ``connect_timeout_s``,
            ``stall_timeout_s``.
        session_options: None are known.

    Raises:
        ConfigError: An unknown option, or a URL without a bucket.
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
        known = ("project", "service_file", "token", "anon", "anonymous", "endpoint", "verify")
        reject_unknown(given, known, which="storage_options", scheme="gs")
        reject_unknown(session_options or {}, (), which="session_options", scheme="gs")
        scheme, _, rest = url.partition("://")
        self._bucket, _, prefix = rest.partition("/")
        if scheme != "gs" or not self._bucket:
            raise ConfigError(f"{url!r} is not of the form gs://bucket/prefix")
        self.url = url.rstrip("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._anon = bool(given.get("anon") or given.get("anonymous"))
        self._fixed_token: str | None = given.get("token")
        self._service_file: str | None = given.get("service_file")
        self._project: str | None = given.get("project")
        self._given_endpoint: str | None = given.get("endpoint")
        self._connection = ConnectionOptions(verify=given.get("verify", True), **connection)

    def _endpoint(self) -> tuple[str, bool]:
        """Return where to, and whether it is an emulator, which wants no credentials."""
        emulator = os.environ.get("STORAGE_EMULATOR_HOST")
        if self._given_endpoint is not None or not emulator:
            return (self._given_endpoint or _ENDPOINT).rstrip("/"), False
        return (emulator if "://" in emulator else f"http://{emulator}").rstrip("/"), True

    async def _open_client(self) -> _GcsClient:
        token = None
        if not (self._anon or self._fixed_token or self._endpoint()[1]):
            # It reads the key's file.
            token = await run_in_thread(Token, service_file=self._service_file, scopes=_SCOPES)
        return _GcsClient(self._connection, token)

    async def _request(
        self,
        method: str,
        path: str,
        key: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and open its answer; a status of 300 or more but 308 is an error."""
        address = f"{self._endpoint()[0]}{path}"
        asked = dict(query) if self._project is None else {**query, "userProject": self._project}
        if asked:
            address += f"?{urlencode(asked, quote_via=quote)}"
        return await self._send(method, address, key, headers=headers, body=body)

    async def _send(
        self,
        method: str,
        address: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        client, url = await self._client(), self.object_url(key)
        if self._fixed_token is not None:
            private = {"Authorization": f"Bearer {self._fixed_token}"}
        else:
            private = await client.private(url)
        # Without "gzip" the server unpacks objects stored with Content-Encoding: gzip.
        sent = {"Accept-Encoding": "gzip", **(headers or {}), **private}
        response = await client.transport.request(method, address, url=url, headers=sent, body=body)
        if response.status >= 300 and response.status != _RESUME:
            raise self._error(response, await error_body(response, url), key)
        return response

    def _error(self, response: aiohttp.ClientResponse, body: str, key: str) -> StoreError:
        said, url = _said(body), self.object_url(key)
        if response.status == 404 and "bucket" in said.lower():
            return ObjectNotFoundError(
                f"{_NO_BUCKET} gs://{self._bucket} (asked for {url}: {said})", url=url
            )
        return status_error(
            response.status, response.headers, url=url, detail=said, access_help=_ACCESS_HELP
        )

    def _object(self, key: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{quote(self._prefix + key, safe='')}"

    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        query = {"alt": "media"}
        if etag is not None:
            query["ifGenerationMatch"] = etag
        response = await self._request("GET", self._object(key), key, query=query, headers=headers)
        return Versioned(response, response.headers.get("x-goog-generation"))

    async def head(self, key: str) -> ObjectInfo:
        return self._info(await self._json("GET", self._object(key), key, query={}))

    async def _json(
        self, method: str, path: str, key: str, *, query: Mapping[str, str]
    ) -> dict[str, Any]:
        async with await self._request(method, path, key, query=query) as response:
            found: dict[str, Any] = await json_body(response, self.object_url(key))
            return found

    def _info(self, entry: Mapping[str, Any]) -> ObjectInfo:
        updated = datetime.fromisoformat(entry["updated"]).timestamp()
        key = entry["name"][len(self._prefix) :]
        return ObjectInfo(key, int(entry["size"]), str(entry["generation"]), updated)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        query = {"prefix": self._prefix + prefix}
        if after:
            query["startOffset"] = self._prefix + after
        path = f"/storage/v1/b/{self._bucket}/o"
        while True:
            page = await self._json("GET", path, prefix, query=query)
            for entry in page.get("items", ()):
                info = self._info(entry)
                # startOffset includes its name; consoles make empty objects as folders.
                if info.key > after and not (info.key.endswith("/") and info.size == 0):
                    yield info
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        query = {"uploadType": "media", "name": self._prefix + key}
        if if_absent:
            query["ifGenerationMatch"] = "0"
        headers = {"Content-Type": "application/octet-stream"}
        path = f"/upload/storage/v1/b/{self._bucket}/o"
        try:
            async with await self._request(
                "POST", path, key, query=query, headers=headers, body=buffers(data)
            ):
                return
        except ObjectChangedError as error:
            url = self.object_url(key)
            raise ObjectExistsError(f"{url} is there already", url=url) from error

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        query = {"uploadType": "resumable", "name": self._prefix + key}
        path = f"/upload/storage/v1/b/{self._bucket}/o"
        headers = {"X-Upload-Content-Type": "application/octet-stream"}
        async with await self._request(
            "POST", path, key, query=query, headers=headers, body=[]
        ) as response:
            return _GcsUpload(self, key, response.headers["Location"])

    async def copy(self, src: str, dst: str) -> None:
        target = f"/b/{self._bucket}/o/{quote(self._prefix + dst, safe='')}"
        query: dict[str, str] = {}
        while True:  # a large object is copied in several calls
            answer = await self._json(
                "POST", f"{self._object(src)}/rewriteTo{target}", src, query=query
            )
            if answer.get("done", True):
                return
            query["rewriteToken"] = answer["rewriteToken"]

    async def delete(self, key: str) -> None:
        try:
            async with await self._request("DELETE", self._object(key), key, query={}):
                return
        except ObjectNotFoundError as error:
            if str(error).startswith(_NO_BUCKET):
                raise


class _GcsUpload(Upload):
    """A resumable upload: parts go up in order, each once the next one is known to follow."""

    concurrency = 1

    def __init__(self, store: GcsStore, key: str, address: str) -> None:
        self._store, self._key, self._address = store, key, address
        self._held: tuple[int, memoryview] | None = None
        self._sent = 0
        self._unsure = False

    async def put_part(self, number: int, data: memoryview) -> None:
        if self._held is not None and self._held[0] < number:
            await self._send(self._held[1], last=False)
        self._held = number, data

    async def complete(self) -> None:
        assert self._held is not None, "an upload has a part"
        await self._send(self._held[1], last=True)

    async def _send(self, part: memoryview, *, last: bool) -> None:
        end = self._sent + len(part)
        start = await self._persisted() if self._unsure else self._sent
        while start < end:
            total = end if last else "*"
            self._unsure = True
            begun, start = (
                start,
                await self._put(
                    f"bytes {start}-{end - 1}/{total}", part[start - self._sent :], end
                ),
            )
            if start <= begun:
                url = self._store.object_url(self._key)
                raise StoreUnavailableError(f"the server takes no bytes of {url}", url=url)
            self._unsure = False
        self._sent = end

    async def _persisted(self) -> int:
        """Ask how far the server has come; a lost answer may have been to a part it took."""
        return await self._put("bytes */*", memoryview(b""), -1)

    async def _put(self, content_range: str, body: memoryview, end: int) -> int:
        """Send a piece and return how many bytes the server has; ``end`` when it is done."""
        async with await self._store._send(
            "PUT",
            self._address,
            self._key,
            headers={"Content-Range": content_range},
            body=[body] if len(body) else [],
        ) as response:
            if response.status != _RESUME:
                return end if end >= 0 else self._sent + len(self._held[1] if self._held else b"")
            reached = response.headers.get("Range", "")
            return int(reached.partition("-")[2]) + 1 if reached else 0

    async def abort(self) -> None:
        try:
            async with await self._store._send("DELETE", self._address, self._key, body=[]):
                return
        except StoreError as error:
            # 499 is the answer to a cancelled upload; one that is gone needs no cancelling.
            if "499" not in str(error) and not isinstance(error, ObjectNotFoundError):
                raise


def _said(body: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200]
