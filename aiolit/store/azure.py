"""Objects in a container of Azure Blob Storage."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote

import aiohttp

from aiolit.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
)
from aiolit.store.azure_access import AzureAccess, AzureAccount
from aiolit.store.base import Data, ObjectInfo, buffers
from aiolit.store.http_reads import HttpReads, Versioned
from aiolit.store.http_semantics import content_length, if_match, modified, status_error
from aiolit.store.loop_bound import LoopBound
from aiolit.store.options import check_key, reject_unknown, take_connection_options
from aiolit.store.transport import ConnectionOptions, NetworkErrors, Transport, error_body
from aiolit.store.upload import MAX_PARTS, Upload, part_nbytes_for

_ACCESS_HELP = (
    "pass storage_options={'credential': ...}: an account key, a SAS token, or a credential such "
    "as azure.identity.aio.DefaultAzureCredential(), with the role Storage Blob Data Reader"
)
# What the service copies in one call.
_COPY_NBYTES = 256 << 20


class _AzureClient:
    """What one loop has open."""

    def __init__(self, options: ConnectionOptions, access: AzureAccess) -> None:
        self.transport = Transport(options)
        self.access = access

    async def aclose(self) -> None:
        """Close every connection."""
        await self.transport.aclose()


class AzureStore(LoopBound[_AzureClient], HttpReads):
    """The objects below ``azure://container/prefix``.

    azure-storage-blob reads the account and signs; requests go out over aiohttp.

    Args:
        url: ``azure://container`` or ``azure://container/prefix``.
        storage_options: Of ``BlobServiceClient``: ``account_url`` and ``credential`` (an account
            key, a SAS token, a credential object; without one, only public containers can be
            read), or ``connection_string`` (else ``AZURE_STORAGE_CONNECTION_STRING``);
            ``verify``; and ``max_connections``, ``connect_timeout_s``, ``stall_timeout_s``.
        session_options: None are known.

    Raises:
        ConfigError: An unknown option, or a URL without a container.
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
        known = ("account_url", "credential", "connection_string", "verify")
        reject_unknown(given, known, which="storage_options", scheme="azure")
        reject_unknown(session_options or {}, (), which="session_options", scheme="azure")
        scheme, _, rest = url.partition("://")
        self._container, _, prefix = rest.partition("/")
        if scheme != "azure" or not self._container:
            raise ConfigError(f"{url!r} is not of the form azure://container/prefix")
        self.url = url.rstrip("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._connection = ConnectionOptions(verify=given.pop("verify", True), **connection)
        self._account = AzureAccount(**given)

    async def _open_client(self) -> _AzureClient:
        access = AzureAccess(self._account, self._container, self.url)
        return _AzureClient(self._connection, access)

    async def _request(
        self,
        method: str,
        key: str,
        *,
        path: str | None = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and open its answer; a status of 300 or more is an error."""
        client, url = await self._client(), self.object_url(key)
        queries = "&".join(part for part in (query, await client.access.query()) if part)
        address = client.access.address + (self._path(key) if path is None else path)
        response = await client.transport.request(
            method,
            f"{address}?{queries}" if queries else address,
            url=url,
            headers={**(headers or {}), **await client.access.headers()},
            body=body,
        )
        if response.status >= 300:
            raise self._error(response, await error_body(response, url), url)
        return response

    def _path(self, key: str) -> str:
        return f"/{quote(self._prefix + check_key(key, self.url), safe='/-_.~')}"

    def _error(self, response: aiohttp.ClientResponse, body: str, url: str) -> StoreError:
        told = re.search(r"<Message>([^<\n]*)", body)
        code = response.headers.get("x-ms-error-code", "")
        said = f"{code}: {told[1]}" if told else code
        if code in ("ContainerNotFound", "ContainerBeingDeleted"):
            return ObjectNotFoundError(
                f"there is no container {self._container} (asked for {url}: {said})", url=url
            )
        status = response.status
        if code == "BlobAlreadyExists":
            return ObjectExistsError(f"{url} is there already", url=url)
        if code == "PublicAccessNotPermitted":
            status = 403
        return status_error(
            status, response.headers, url=url, detail=said, access_help=_ACCESS_HELP
        )

    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        response = await self._request("GET", key, headers={**headers, **if_match(etag)})
        return Versioned(response, response.headers.get("ETag"))

    async def head(self, key: str) -> ObjectInfo:
        async with await self._request("HEAD", key) as response:
            headers = response.headers
            size = content_length(headers)
            if size is None:
                url = self.object_url(key)
                raise StoreError(f"{url}: the server does not say its size", url=url)
            return ObjectInfo(key, size, headers.get("ETag"), modified(headers))

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        wanted = quote(self._prefix + prefix, safe="")
        marker = ""
        while True:
            query = f"restype=container&comp=list&prefix={wanted}"
            query += f"&marker={quote(marker, safe='')}" if marker else ""
            async with await self._request("GET", prefix, path="", query=query) as response:
                with NetworkErrors(self.object_url(prefix)):
                    text = await response.text("utf-8-sig")
            page = ET.fromstring(text)
            for blob in page.iter("Blob"):
                info = self._info(blob)
                # Tools make empty objects with a slash at the end, to look like folders.
                if info.key > after and not (info.key.endswith("/") and info.size == 0):
                    yield info
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def _info(self, blob: ET.Element) -> ObjectInfo:
        name = blob.find("Name")
        assert name is not None
        key = name.text or ""
        if name.get("Encoded") == "true":
            key = unquote(key)
        etag = blob.findtext("Properties/Etag", "")
        return ObjectInfo(
            key[len(self._prefix) :],
            int(blob.findtext("Properties/Content-Length", "0")),
            # Without the quotes that it has in a header.
            etag if etag.startswith('"') else f'"{etag}"',
            parsedate_to_datetime(blob.findtext("Properties/Last-Modified", "")).timestamp(),
        )

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        if if_absent:
            headers["If-None-Match"] = "*"
        try:
            async with await self._request("PUT", key, headers=headers, body=buffers(data)):
                return
        except ObjectChangedError as error:
            url = self.object_url(key)
            raise ObjectExistsError(f"{url} is there already", url=url) from error

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        return _AzureUpload(self, key, part_nbytes_for(nbytes))

    async def copy(self, src: str, dst: str) -> None:
        """Copy an object; one beyond 256 MiB passes through here, in parts."""
        if (await self.head(src)).size > _COPY_NBYTES:
            async with self.stream(src) as pieces:
                await self.put_stream(dst, pieces)
            return
        access = (await self._client()).access
        source, signature = access.address + self._path(src), await access.query()
        headers = {
            "x-ms-copy-source": f"{source}?{signature}" if signature else source,
            "x-ms-requires-sync": "true",
        }
        if bearer := (await access.headers()).get("Authorization"):
            headers["x-ms-copy-source-authorization"] = bearer
        async with await self._request("PUT", dst, headers=headers, body=[]):
            return

    async def delete(self, key: str) -> None:
        try:
            async with await self._request("DELETE", key):
                return
        except ObjectNotFoundError as error:
            if "no container" in str(error):
                raise


class _AzureUpload(Upload):
    """Blocks, which make a blob once they are listed; the service drops others after a week."""

    def __init__(self, store: AzureStore, key: str, part_nbytes: int) -> None:
        self.part_nbytes = part_nbytes
        self._store, self._key = store, key
        self._numbers: set[int] = set()

    async def put_part(self, number: int, data: memoryview) -> None:
        query = f"comp=block&blockid={quote(_block(number), safe='')}"
        async with await self._store._request("PUT", self._key, query=query, body=[data]):
            self._numbers.add(number)

    async def complete(self) -> None:
        blocks = "".join(f"<Latest>{_block(number)}</Latest>" for number in sorted(self._numbers))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'
        async with await self._store._request(
            "PUT", self._key, query="comp=blocklist", body=[memoryview(body.encode())]
        ):
            return

    async def abort(self) -> None:
        """Do nothing: blocks that are in no list do not show, and go by themselves."""


def _block(number: int) -> str:
    # All of one length, as the service wants them.
    return b64encode(f"{number:0{len(str(MAX_PARTS))}}".encode()).decode()
