"""An open connection to one bucket: who signs, where to, and what the answers mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.loaders import Loader, create_loader
from botocore.utils import parse_timestamp, percent_encode

from aiolit.errors import AccessDeniedError, StoreError
from aiolit.store.s3_errors import client_errors, response_error
from aiolit.store.s3_options import S3Options
from aiolit.store.sigv4 import sign
from aiolit.store.threads import run_in_thread
from aiolit.store.transport import Transport, error_body, network_errors

_HASH_HERE_NBYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where a bucket is: its address without a slash at the end, and the region that signs."""

    address: str
    region: str


class S3Client:
    """What one loop has open for one bucket.

    aiobotocore finds the credentials and the endpoint, and serves the rare verbs; its ``client``
    is for those. Reads and writes of bytes are signed here and sent with aiohttp, which costs a
    fraction of the time.
    """

    def __init__(self, bucket: str, options: S3Options) -> None:
        self.bucket = bucket
        self._options = options
        self._session = AioSession(profile=options.profile_name)
        models = _models(self._session.get_config_variable("data_path"))
        self._session.register_component("data_loader", models)
        parsers = self._session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
        self.client: Any = None
        self._credentials: AioCredentials | None = None
        self._stack = AsyncExitStack()
        self._region_turn = asyncio.Lock()

    async def open(self) -> S3Client:
        """Find credentials and endpoint; botocore's errors pass."""
        # Some megabytes of JSON: read off the loop, kept by the session.
        await run_in_thread(_load_models, self._session)
        self._credentials = await self._find_credentials()
        await self._connect(self._options.region_name)
        self._transport = Transport(self._options.connection)
        self._stack.push_async_callback(self._transport.aclose)
        return self

    async def aclose(self) -> None:
        """Close every connection."""
        await self._stack.aclose()

    async def _find_credentials(self) -> AioCredentials | None:
        options = self._options
        if options.unsigned:
            return None
        if options.access_key_id is not None:
            return AioCredentials(
                options.access_key_id, options.secret_access_key, options.session_token
            )
        credentials = await self._session.get_credentials()
        if credentials is None:
            raise AccessDeniedError(
                f"no AWS credentials were found for s3://{self.bucket}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, name a profile (session_options={'profile_name': ...}), "
                "or read a public bucket unsigned (storage_options={'anon': True})",
                url=f"s3://{self.bucket}",
            )
        return credentials

    async def _connect(self, region: str | None) -> None:
        """Make the client for a region, and find out where it has the bucket."""
        options = self._options
        self.client = await self._stack.enter_async_context(
            self._session.create_client(
                "s3",
                region_name=region,
                endpoint_url=options.endpoint_url,
                use_ssl=options.use_ssl,
                verify=options.connection.verify,
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                aws_session_token=options.session_token,
                config=AioConfig(**options.config()),
            )
        )
        found = await self.client._ruleset_resolver.construct_endpoint(
            operation_model=self.client.meta.service_model.operation_model("GetObject"),
            call_args={"Bucket": self.bucket, "Key": "key"},
            request_context={},
        )
        schemes = found.properties.get("authSchemes") or [{}]
        signing_region = schemes[0].get("signingRegion") or self.client.meta.region_name
        self._endpoint = _Endpoint(found.url.rstrip("/"), signing_region)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        key: str,
        *,
        url: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a signed request and open its answer.

        A bucket that lies in another region is followed there, once.

        Args:
            method: The verb.
            key: Of the object, from the bucket on.
            url: What messages call it.
            query: ``name=value`` pairs, sorted and encoded.
            headers: More headers to sign.
            body: What to send; its hash is signed, so a flipped bit on the way is refused.

        Raises:
            StoreError: The answer's status is 300 or more.
        """
        payload = await _payload_hash(body or [])
        for last in (False, True):
            endpoint = self._endpoint
            address = f"{endpoint.address}/{percent_encode(key, safe='/~')}"
            if query:
                address += f"?{query}"
            signed = await self._sign(method, address, headers or {}, payload, endpoint.region)
            async with self._transport.request(
                method, address, url=url, headers=signed, body=body
            ) as response:
                if response.status < 300:
                    yield response
                    return
                with network_errors(url):
                    text = await error_body(response)
                error, region = response_error(response.status, response.headers, text, url=url)
            if last or region is None or region == endpoint.region:
                raise error
            await self._move(region, endpoint, error)

    async def _sign(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        payload: str,
        region: str,
    ) -> dict[str, str]:
        if self._credentials is None:
            return dict(headers)
        with client_errors(f"s3://{self.bucket}"):
            frozen = await self._credentials.get_frozen_credentials()
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return sign(method, address, headers, payload, frozen, region=region, now=now)

    async def _move(self, region: str, seen: _Endpoint, error: StoreError) -> None:
        """Go on with the region that the bucket is in."""
        if self._options.endpoint_url is not None:
            raise error
        async with self._region_turn:
            if self._endpoint is seen:
                with client_errors(f"s3://{self.bucket}"):
                    await self._connect(region)


async def _payload_hash(parts: list[memoryview]) -> str:
    if sum(map(len, parts)) < _HASH_HERE_NBYTES:
        return _sha256(parts)
    return await run_in_thread(_sha256, parts)


def _sha256(parts: list[memoryview]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _timestamp(value: Any) -> datetime:
    """Parse a time as listings have it; botocore's own way takes most of a listing's time."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        parsed: datetime = parse_timestamp(value)
        return parsed


@cache
def _models(data_path: str | None) -> Loader:
    """Return what reads and keeps botocore's models: one for all clients, forked children's too."""
    return create_loader(data_path)


def _load_models(session: AioSession) -> None:
    """Read what ``create_client`` will want; the session's loader keeps it."""
    loader = session.get_component("data_loader")
    loader.load_service_model("s3", "service-2")
    loader.load_service_model("s3", "endpoint-rule-set-1")
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
