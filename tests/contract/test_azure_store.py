"""AzureStore keeps the contract, against Azurite."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import generate_container_sas
from azure.storage.blob.aio import ContainerClient

from aiolit.errors import AccessDeniedError, ConfigError, ObjectNotFoundError
from aiolit.store.azure import AzureStore
from aiolit.store.azure_access import AzureAccess, AzureAccount
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.testing.store_contract import RawObjects, StoreContract

ACCOUNT = "devstoreaccount1"
# Azurite's own well-known key, of its documentation.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ROOT = "a folder/data"


class RawContainer(RawObjects):
    """A container of its own, through azure's client."""

    def __init__(self, client: ContainerClient) -> None:
        self.container = str(client.container_name)
        self._client = client

    async def write(self, key: str, data: bytes) -> None:
        await self._client.upload_blob(f"{ROOT}/{key}", data, overwrite=True)

    async def read(self, key: str) -> bytes | None:
        try:
            found = await self._client.download_blob(f"{ROOT}/{key}")
        except ResourceNotFoundError:
            return None
        data: bytes = await found.readall()
        return data


@pytest.fixture
async def container(azurite_url: str) -> AsyncIterator[RawContainer]:
    name = f"container-{uuid.uuid4().hex[:12]}"
    # Small blocks: aiohttp warns of large ones, which azure's client hands it whole.
    small: dict[str, Any] = {"max_single_put_size": 1 << 19, "max_block_size": 1 << 19}
    account = f"{azurite_url}/{ACCOUNT}"
    async with ContainerClient(account, name, credential=KEY, **small) as client:
        await client.create_container()
        yield RawContainer(client)


class TestAzureStore(StoreContract):
    @pytest.fixture
    async def store(self, container: RawContainer, azurite_url: str) -> AsyncIterator[Store]:
        options = {"account_url": f"{azurite_url}/{ACCOUNT}", "credential": KEY}
        async with AzureStore(f"azure://{container.container}/{ROOT}", options) as store:
            yield store

    @pytest.fixture
    def raw(self, container: RawContainer) -> RawObjects:
        return container


def signature(container: str) -> str:
    return generate_container_sas(
        ACCOUNT,
        container,
        account_key=KEY,
        permission="rl",
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )


async def test_options_as_users_write_them(container: RawContainer, azurite_url: str) -> None:
    await container.write("a", b"12345")
    account = f"{azurite_url}/{ACCOUNT}"
    sas = signature(container.container)
    text = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={account};"
    for options in (
        {"connection_string": text},
        {"account_url": account, "credential": sas},
        {"account_url": account, "credential": AzureSasCredential(sas)},
        {"account_url": account, "credential": AzureNamedKeyCredential(ACCOUNT, KEY)},
        {"account_url": f"{account}?{sas}"},
    ):
        url = f"azure://{container.container}/{ROOT}"
        async with open_store(url, storage_options=options) as store:
            assert await store.get_range("a", 1, 3) == b"23"
            assert [info.key async for info in store.list()] == ["a"]


async def test_refusals_name_the_object(container: RawContainer, azurite_url: str) -> None:
    account = f"{azurite_url}/{ACCOUNT}"
    url = f"azure://{container.container}"
    options: dict[str, Any] = {"account_url": account, "credential": signature("another")}
    async with open_store(url, storage_options=options) as store:
        with pytest.raises(AccessDeniedError, match=f"{url}/a is refused.*'credential'"):
            await store.get("a")
    options["credential"] = KEY
    async with open_store("azure://no-such-container", storage_options=options) as store:
        with pytest.raises(ObjectNotFoundError, match="no container no-such-container"):
            await store.get("a")
        with pytest.raises(ObjectNotFoundError, match="no container no-such-container"):
            await store.delete("a")


class Tokens:
    """A credential of azure.identity's kind."""

    async def get_token(self, *scopes: str) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        return AccessToken("secret", 2**31)


class BlockingTokens:
    """The same, of the kind that is not async."""

    def get_token(self, *scopes: str) -> AccessToken:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # it runs in a thread
        return AccessToken("secret", 2**31)


@pytest.mark.parametrize("credential", [Tokens(), BlockingTokens()])
async def test_a_token_is_sent(credential: object) -> None:
    account = AzureAccount(account_url="https://account.invalid", credential=credential)
    access = AzureAccess(account, "container", "azure://container")
    assert access.address == "https://account.invalid/container"
    assert await access.query() == ""
    assert (await access.headers())["Authorization"] == "Bearer secret"


async def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="did you mean 'account_url'"):
        open_store("azure://container", storage_options={"acount_url": "x"})
    with pytest.raises(ConfigError, match="azure://container/prefix"):
        open_store("azure://")
    for options, message in (
        ({}, "AZURE_STORAGE_CONNECTION_STRING"),
        ({"connection_string": "nonsense"}, "malformed"),
    ):
        async with open_store("azure://container", storage_options=options) as store:
            with pytest.raises(ConfigError, match=message):
                await store.get("a")
