"""Where an Azure container is and who asks: account, credential, signatures."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError
from azure.storage.blob import generate_container_sas
from azure.storage.blob.aio import BlobServiceClient

from aiolit.errors import AccessDeniedError, ConfigError
from aiolit.store.threads import run_in_thread

API_VERSION = "2021-08-06"
_SCOPE = "https://storage.azure.com/.default"
_PERMISSIONS = "racwdl"
_SIGNATURE_LIFETIME = timedelta(hours=1)
_RENEW_BEFORE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAccount:
    """What the user said of the account.

    Attributes:
        account_url: ``https://name.blob.core.windows.net``; a SAS may be its query.
        credential: What azure-storage-blob takes: an account key, a SAS, or a credential object.
        connection_string: Both in one.
    """

    account_url: str | None = None
    credential: Any = None
    connection_string: str | None = None

    def client(self, url: str) -> BlobServiceClient:
        """Return azure's own client, which reads these; it opens nothing.

        Raises:
            ConfigError: There is no account, or the values make no sense.
        """
        connection_string = self.connection_string
        if self.account_url is None and connection_string is None:
            connection_string = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        try:
            if connection_string is not None:
                return BlobServiceClient.from_connection_string(
                    connection_string, credential=self.credential
                )
            if self.account_url is not None:
                return BlobServiceClient(self.account_url, credential=self.credential)
        except ValueError as error:
            raise ConfigError(f"{url}: {error}") from error
        raise ConfigError(
            f"{url} needs an account: storage_options={{'account_url': "
            "'https://<account>.blob.core.windows.net', 'credential': ...}} or "
            "{'connection_string': ...}, or AZURE_STORAGE_CONNECTION_STRING"
        )


class AzureAccess:
    """What to add to the requests to one container.

    With an account's key, a signature for the container is made here, once in fifty minutes: a
    request then costs no signing of its own.
    """

    def __init__(self, account: AzureAccount, container: str, url: str) -> None:
        client = account.client(url)
        self._url, self._container = url, container
        base, _, signature = client.url.partition("?")
        self.address = f"{base.rstrip('/')}/{container}"
        self._signature = signature
        self._credential = client.credential
        self._good_until_s = 0.0

    async def query(self) -> str:
        """Return the signature that goes into a request's query, or ``""``."""
        credential = self._credential
        if isinstance(credential, AzureSasCredential):
            return credential.signature.lstrip("?")
        if hasattr(credential, "account_key"):
            now_s = asyncio.get_running_loop().time()
            if now_s > self._good_until_s - _RENEW_BEFORE_S:
                self._signature = generate_container_sas(
                    credential.account_name,
                    self._container,
                    account_key=credential.account_key,
                    permission=_PERMISSIONS,
                    expiry=datetime.now(UTC) + _SIGNATURE_LIFETIME,
                )
                self._good_until_s = now_s + _SIGNATURE_LIFETIME.total_seconds()
        return self._signature

    async def headers(self) -> Mapping[str, str]:
        """Return the headers of a request.

        Raises:
            AccessDeniedError: The credential gives no token.
        """
        headers = {"x-ms-version": API_VERSION}
        credential = self._credential
        if not hasattr(credential, "get_token"):
            return headers
        try:
            # Of azure.identity.aio or of azure.identity; both keep a token until it is due.
            if inspect.iscoroutinefunction(credential.get_token):
                token = await credential.get_token(_SCOPE)
            else:
                token = await run_in_thread(credential.get_token, _SCOPE)
        except AzureError as error:
            raise AccessDeniedError(
                f"no Azure token for {self._url}: {error}", url=self._url
            ) from error
        return {**headers, "Authorization": f"Bearer {token.token}"}
