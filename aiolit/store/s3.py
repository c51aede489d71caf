"""Objects in an S3 bucket, of AWS or of any server that speaks S3."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from aiolit.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
)
from aiolit.store.base import Data, ObjectInfo, buffers
from aiolit.store.http_reads import HttpReads, Versioned
from aiolit.store.http_semantics import content_length, if_match, modified
from aiolit.store.loop_bound import LoopBound
from aiolit.store.s3_client import S3Client
from aiolit.store.s3_errors import client_errors
from aiolit.store.s3_listing import listing_query, parse_listing
from aiolit.store.s3_options import S3Options, parse_s3_options
from aiolit.store.transport import NetworkErrors
from aiolit.store.upload import Upload, part_nbytes_for


class S3Store(LoopBound[S3Client], HttpReads):
    """The objects below ``s3://bucket/prefix``.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``; ``r2://`` means the same, with an endpoint.
        storage_options: Of ``boto3.client``: ``endpoint_url``, ``aws_access_key_id``,
            ``aws_secret_access_key``, ``aws_session_token``, ``region_name``, ``use_ssl``,
            ``verify``, ``config``; the same in the environment's spelling; ``anon=True`` to send
            no credentials; and ``max_connections``, ``connect_timeout_s``, ``stall_timeout_s``.
        session_options: Of ``boto3.Session``: ``profile_name``, ``region_name`` and the keys.

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
        scheme, _, rest = url.partition("://")
        self._bucket, _, prefix = rest.partition("/")
        if scheme not in ("s3", "r2") or not self._bucket:
            raise ConfigError(f"{url!r} is not of the form s3://bucket/prefix")
        self.url = url.rstrip("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._options: S3Options = parse_s3_options(storage_options, session_options)
        if scheme == "r2" and self._options.endpoint_url is None:
            raise ConfigError(
                f"{url} needs storage_options={{'endpoint_url': "
                "'https://<account>.r2.cloudflarestorage.com'}}"
            )

    async def _open_client(self) -> S3Client:
        with client_errors(self.url):
            client = S3Client(self._bucket, self._options)
            try:
                return await client.open()
            except BaseException:
                await client.aclose()
                raise

    async def _request(
        self,
        method: str,
        key: str | None,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        client = await self._client()
        return await client.request(
            method,
            "" if key is None else self._prefix + key,
            url=self.object_url(key or ""),
            query=query,
            headers=headers,
            body=body,
        )

    async def head(self, key: str) -> ObjectInfo:
        async with await self._request("HEAD", key) as response:
            headers = response.headers
            size = content_length(headers)
            if size is None:
                url = self.object_url(key)
                raise StoreError(f"{url}: the server does not say its size", url=url)
            return ObjectInfo(key, size, headers.get("ETag"), modified(headers))

    async def _get(self, key: str, headers: Mapping[str, str], etag: str | None) -> Versioned:
        response = await self._request("GET", key, headers={**headers, **if_match(etag)})
        return Versioned(response, response.headers.get("ETag"))

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        url, token = self.object_url(prefix), ""
        start = f"{self._prefix}{after}" if after else ""
        while True:
            query = listing_query(prefix=self._prefix + prefix, after=start, token=token)
            async with await self._request("GET", None, query=query) as response:
                with NetworkErrors(url):
                    text = await response.read()
            found, token = parse_listing(text, url=url)
            for name, size, etag, modified_s in found:
                key = name[len(self._prefix) :]
                # Consoles make empty objects with a slash at the end, to look like folders.
                if key and not (key.endswith("/") and size == 0):
                    yield ObjectInfo(key, size, etag, modified_s)
            if not token:
                return

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        headers = {"If-None-Match": "*"} if if_absent else {}
        try:
            async with await self._request("PUT", key, headers=headers, body=buffers(data)):
                return
        except ObjectChangedError as error:
            url = self.object_url(key)
            raise ObjectExistsError(f"{url} is there already", url=url) from error

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        client = await self._client()
        with client_errors(self.object_url(key)):
            boto = await client.client()
            begun = await boto.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + key)
        return _S3Upload(self, key, begun["UploadId"], part_nbytes_for(nbytes))

    async def copy(self, src: str, dst: str) -> None:
        client = await self._client()
        with client_errors(self.object_url(src)):
            boto = await client.client()
            await boto.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + dst,
                CopySource={"Bucket": self._bucket, "Key": self._prefix + src},
            )

    async def delete(self, key: str) -> None:
        async with await self._request("DELETE", key):
            return


class _S3Upload(Upload):
    """A multipart upload; parts are hashed, signed and sent like any other bytes."""

    def __init__(self, store: S3Store, key: str, upload_id: str, part_nbytes: int) -> None:
        self.part_nbytes = part_nbytes
        self._store, self._key, self._upload_id = store, key, upload_id
        self._parts: dict[int, tuple[str, int]] = {}
        self._completing = False

    async def put_part(self, number: int, data: memoryview) -> None:
        # Sorted by name, as the signature needs.
        query = f"partNumber={number + 1}&uploadId={quote(self._upload_id, safe='-_.~')}"
        async with await self._store._request(
            "PUT", self._key, query=query, body=[data]
        ) as response:
            self._parts[number] = response.headers["ETag"], len(data)

    async def complete(self) -> None:
        store, again = self._store, self._completing
        self._completing = True
        client = await store._client()
        try:
            with client_errors(store.object_url(self._key)):
                boto = await client.client()
                await boto.complete_multipart_upload(
                    Bucket=store._bucket,
                    Key=store._prefix + self._key,
                    UploadId=self._upload_id,
                    MultipartUpload={
                        "Parts": [
                            {"PartNumber": number + 1, "ETag": self._parts[number][0]}
                            for number in sorted(self._parts)
                        ]
                    },
                )
        except ObjectNotFoundError:
            # The first try's answer was lost, and the upload is no more since it was completed.
            if not again or not await self._is_complete():
                raise

    async def _is_complete(self) -> bool:
        info = await self._store.head(self._key)
        marked = (info.etag or "").rstrip('"').endswith(f"-{len(self._parts)}")
        return marked and info.size == sum(nbytes for _, nbytes in self._parts.values())

    async def abort(self) -> None:
        store = self._store
        client = await store._client()
        try:
            with client_errors(store.object_url(self._key)):
                boto = await client.client()
                await boto.abort_multipart_upload(
                    Bucket=store._bucket, Key=store._prefix + self._key, UploadId=self._upload_id
                )
        except ObjectNotFoundError:
            return  # gone already
