"""An open connection to one bucket: who signs, where to, and what the answers mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import cache
from hashlib import sha256
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.loaders import Loader, create_loader
from botocore.utils import percent_encode

from aiolit.errors import AccessDeniedError, StoreError
from aiolit.store.s3_endpoint import Endpoint, plain_endpoint
from aiolit.store.s3_errors import client_errors, response_error
from aiolit.store.s3_options import S3Options
from aiolit.store.sigv4 import sign
from aiolit.store.threads import run_in_thread
from aiolit.store.transport import Transport, error_body

_HASH_HERE_NBYTES = 1 << 16
_NO_PAYLOAD = sha256().hexdigest()

FindEndpoint = Callable[[str, str | None, S3Options, AioSession], Endpoint | None]


class S3Client:
    """What one loop has open for one bucket.

    aiobotocore finds the credentials, and its ``client`` serves the rare verbs; where the bucket's
    address is not an ordinary one, it tells that too. Reads, writes and listings are signed here
    and sent with aiohttp, which costs a fraction of the time.

    Args:
        bucket: Its name.
        options: How to reach it.
        plain: Says where it is in the ordinary cases.
    """

    def __init__(
        self, bucket: str, options: S3Options, *, plain: FindEndpoint = plain_endpoint
    ) -> None:
        self.bucket = bucket
        self._options, self._plain = options, plain
        self._session = AioSession(profile=options.profile_name)
        models = _models(self._session.get_config_variable("data_path"))
        self._session.register_component("data_loader", models)
        self._credentials: AioCredentials | None = None
        self._stack = AsyncExitStack()
        self._region = options.region_name
        self._made: tuple[str | None, Any] | None = None  # botocore's client, and its region
        self._turn = asyncio.Lock()

    async def open(self) -> S3Client:
        """Find credentials and endpoint; botocore's errors pass."""
        self._credentials = await self._find_credentials()
        self.endpoint = await self._find_endpoint()
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

    @property
    def has_asked_botocore(self) -> bool:
        """Whether aiobotocore's client had to be made."""
        return self._made is not None

    async def client(self) -> Any:
        """Return aiobotocore's client for the bucket's region, made when it is first needed;
        botocore's errors pass."""
        async with self._turn:
            return await self._client()

    async def _client(self) -> Any:
        if self._made is None or self._made[0] != self._region:
            self._made = self._region, await self._make_client(self._region)
        return self._made[1]

    async def _make_client(self, region: str | None) -> Any:
        options = self._options
        # Some megabytes of JSON: read off the loop, kept by the session.
        await run_in_thread(_load_models, self._session)
        return await self._stack.enter_async_context(
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

    async def _find_endpoint(self) -> Endpoint:
        plain = self._plain(self.bucket, self._region, self._options, self._session)
        if plain is not None:
            return plain
        client = await self._client()
        found = await client._ruleset_resolver.construct_endpoint(
            operation_model=client.meta.service_model.operation_model("GetObject"),
            call_args={"Bucket": self.bucket, "Key": "key"},
            request_context={},
        )
        schemes = found.properties.get("authSchemes") or [{}]
        signing_region = schemes[0].get("signingRegion") or client.meta.region_name
        return Endpoint(found.url.rstrip("/"), signing_region)

    async def request(
        self,
        method: str,
        key: str,
        *,
        url: str,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: list[memoryview] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a signed request and open its answer, which the caller leaves by its block.

        A bucket that lies in another region is followed there, once.

        Args:
            method: The verb.
            key: Of the object, from the bucket on; none means the bucket itself.
            url: What messages call it.
            query: ``name=value`` pairs, sorted and encoded.
            headers: More headers to sign.
            body: What to send; its hash is signed, so a flipped bit on the way is refused.

        Raises:
            StoreError: The answer's status is 300 or more.
        """
        payload = _NO_PAYLOAD if body is None else await _payload_hash(body)
        for last in (False, True):
            endpoint = self.endpoint
            address = endpoint.address
            if key or endpoint.address.count("/") == 2:  # a bucket's path needs no slash
                address += f"/{percent_encode(key, safe='/~')}"
            if query:
                address += f"?{query}"
            signed = await self._sign(method, address, headers or {}, payload, endpoint.region)
            response = await self._transport.request(
                method, address, url=url, headers=signed, body=body
            )
            if response.status < 300:
                return response
            text = await error_body(response, url)
            error, region = response_error(response.status, response.headers, text, url=url)
            if last or region is None or region == endpoint.region:
                raise error
            await self._move(region, endpoint, error)
        raise AssertionError("the second answer is returned or raised")

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

    async def _move(self, region: str, seen: Endpoint, error: StoreError) -> None:
        """Go on with the region that the bucket is in."""
        if self._options.endpoint_url is not None:
            raise error
        async with self._turn:
            if self.endpoint is seen:
                self._region = region
                with client_errors(f"s3://{self.bucket}"):
                    self.endpoint = await self._find_endpoint()


async def _payload_hash(parts: list[memoryview]) -> str:
    if sum(map(len, parts)) < _HASH_HERE_NBYTES:
        return _sha256(parts)
    return await run_in_thread(_sha256, parts)


def _sha256(parts: list[memoryview]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


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
