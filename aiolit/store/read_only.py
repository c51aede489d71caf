"""The verbs that a store without writing refuses."""

from __future__ import annotations

from typing import Never

from aiolit.errors import StoreError
from aiolit.store.base import Data, Store
from aiolit.store.upload import Upload


class ReadOnly(Store):
    """Every write is a ``StoreError`` that says so."""

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        self._refuse(key)

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        self._refuse(key)

    async def copy(self, src: str, dst: str) -> None:
        self._refuse(dst)

    async def delete(self, key: str) -> None:
        self._refuse(key)

    def _refuse(self, key: str) -> Never:
        url = self.object_url(key)
        raise StoreError(
            f"{url} cannot be written: {url.partition(':')[0]}:// is for reading only", url=url
        )
