"""Following redirects without telling the next host what was meant for the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from aiolit.errors import StoreError
from aiolit.store.transport import Transport

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Followed:
    """An answer that is no redirect.

    Attributes:
        response: The answer.
        address: Who gave it.
        passed: The headers of the redirects on the way, in order.
    """

    response: aiohttp.ClientResponse
    address: str
    passed: tuple[Mapping[str, str], ...]


async def follow(
    transport: Transport,
    method: str,
    address: str,
    *,
    url: str,
    headers: Mapping[str, str],
    private: Mapping[str, str],
    until: str = "",
) -> Followed:
    """Send a request and open the answer of whoever gives one, whatever its status.

    The caller leaves the answer by its ``async with`` block.

    Args:
        transport: Sends it.
        method: GET or HEAD.
        address: Where to begin.
        url: What messages call the object.
        headers: For everyone.
        private: For the first origin only: passwords and tokens.
        until: A redirect with this header is the answer, and is not followed.

    Raises:
        StoreError: Too many redirects, or one from https to http.
    """
    here = URL(address, encoded=True)
    origin = here.origin()
    passed: list[Mapping[str, str]] = []
    for _ in range(_MAX_REDIRECTS + 1):
        sent = {**headers, **private} if here.origin() == origin else headers
        response = await transport.request(method, str(here), url=url, headers=sent)
        location = response.headers.get("Location")
        final = response.status not in _REDIRECTS or until in response.headers
        if final or location is None:
            return Followed(response, str(here), tuple(passed))
        response.release()
        passed.append(response.headers)
        there = here.join(URL(location, encoded=True))
        if here.scheme == "https" and there.scheme != "https":
            raise StoreError(f"{url}: the server redirects from https to {there.scheme}", url=url)
        here = there
    raise StoreError(f"{url}: more than {_MAX_REDIRECTS} redirects", url=url)
