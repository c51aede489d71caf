"""What HTTP answers mean: ranges, versions, errors. No sockets here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from aiolit.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectNotFoundError,
    RangeError,
    StoreError,
    StoreUnavailableError,
)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_UNAVAILABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 529})
_THROTTLED = frozenset({429, 503, 509, 529})

RANGE_HELP = "it does not serve byte ranges, so its objects can only be read from their start"


def range_header(start: int, end: int | None) -> str:
    """Return the value of a Range header for the bytes ``[start, end)``."""
    return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def check_partial(
    status: int, headers: Mapping[str, str], start: int, end: int, *, url: str
) -> None:
    """Refuse an answer that cannot hold the bytes ``[start, end)`` that were asked for.

    A 200 with the whole object serves a range that begins at 0. A partial answer may end early:
    then its body is short, and the rest can be asked for.

    Raises:
        RangeError: The server answered with other bytes, or the object ends before ``end``.
    """
    if status == 200:
        if start:
            raise RangeError(
                f"{url}: the server answered the range {start} to {end} with the whole object; "
                f"{RANGE_HELP}",
                url=url,
            )
        length = content_length(headers)
        if length is not None and length < end:
            raise RangeError(f"{url} has {length} bytes: no {start} to {end}", url=url)
        return
    text = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if status != 206 or match is None:
        raise RangeError(
            f"{url}: asked for {start} to {end}, the server answered {status} "
            f"with Content-Range {text!r}",
            url=url,
        )
    first, last = int(match[1]), int(match[2])
    if match[3] != "*" and int(match[3]) < end:
        raise RangeError(f"{url} has {match[3]} bytes: no {start} to {end}", url=url)
    if first != start or last >= end:
        raise RangeError(
            f"{url}: asked for {start} to {end}, the server sent {first} to {last + 1}", url=url
        )


def check_start(status: int, headers: Mapping[str, str], start: int, *, url: str) -> None:
    """Refuse an answer that does not begin at ``start``.

    Raises:
        RangeError: It begins elsewhere.
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    first = int(match[1]) if status == 206 and match is not None else 0
    if first != start:
        raise RangeError(
            f"{url}: asked for the bytes from {start} on, the server sent those from {first}; "
            f"{RANGE_HELP}",
            url=url,
        )


def check_version(etag: str | None, answer: str | None, *, url: str) -> None:
    """Refuse an answer of another version than the one wanted.

    Raises:
        ObjectChangedError: Both versions are known and differ.
    """
    if etag is not None and answer is not None and etag != answer:
        raise ObjectChangedError(
            f"{url} was replaced while it was read: it was {etag} and is {answer}", url=url
        )


def if_match(etag: str | None) -> dict[str, str]:
    """Return the header that pins a version; a weak one cannot be pinned, only compared."""
    return {} if etag is None or etag.startswith("W/") else {"If-Match": etag}


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the announced length of the body, in bytes, or None."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def whole_size(status: int, headers: Mapping[str, str]) -> int | None:
    """Return how large the whole object is, in bytes, or None if the answer does not say."""
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        return int(match[3]) if match is not None and match[3] != "*" else None
    return content_length(headers)


def modified(headers: Mapping[str, str]) -> float | None:
    """Return when the object was last written, in seconds since 1970, or None."""
    return _date(headers.get("Last-Modified"))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long the server asks to wait, in seconds, or None.

    A date is taken relative to the server's own clock, which is in the same answer.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    until, now = _date(text), _date(headers.get("Date"))
    return None if until is None or now is None else max(0.0, until - now)


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def status_error(
    status: int, headers: Mapping[str, str], *, url: str, detail: str = "", access_help: str = ""
) -> StoreError:
    """Return the error that a refusing status stands for.

    Args:
        status: 300 or more.
        headers: Of the answer.
        url: The object, for the message.
        detail: What else the server said.
        access_help: What to do about a 401 or 403.
    """
    said = f"{status}{': ' + detail if detail else ''}"
    if status in (404, 410):
        return ObjectNotFoundError(f"there is no object {url} ({said})", url=url)
    if status in (401, 403):
        return AccessDeniedError(
            f"access to {url} is refused ({said}){'; ' + access_help if access_help else ''}",
            url=url,
        )
    if status == 412:
        return ObjectChangedError(f"{url} was replaced while it was read ({said})", url=url)
    if status == 416:
        return RangeError(f"{url} does not have the range that was asked for ({said})", url=url)
    if status in _UNAVAILABLE:
        error = StoreUnavailableError(f"the server cannot serve {url} now ({said})", url=url)
        error.retry_after_s = retry_after_s(headers)
        error.throttled = status in _THROTTLED
        return error
    if 300 <= status < 400:
        where = headers.get("Location", "elsewhere")
        return StoreError(f"{url}: the server redirects to {where} ({said})", url=url)
    return StoreError(f"{url}: the server answered {said}", url=url)
