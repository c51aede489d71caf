"""A page of a bucket's listing: what is asked (ListObjectsV2), and what the answer says."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, unquote_plus
from xml.parsers.expat import ExpatError, ParserCreate

from aiolit.errors import StoreError

_BEHIND_NAMESPACE = " "  # no name holds one


class Listed(NamedTuple):
    """An object of a listing."""

    name: str
    size: int
    etag: str | None
    modified_s: float | None


def listing_query(*, prefix: str, after: str, token: str) -> str:
    """Return the query of a page, sorted and encoded as its signature needs it.

    Args:
        prefix: What the names begin with.
        after: Only names behind this one; empty: all.
        token: What the page before said of its continuation; empty: the first page.
    """
    asked = {
        "continuation-token": token,
        "encoding-type": "url",  # names may hold what XML cannot
        "list-type": "2",
        "prefix": prefix,
        "start-after": after,
    }
    pairs = ((name, value) for name, value in asked.items() if value)
    return "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in pairs)


def parse_listing(text: bytes, *, url: str) -> tuple[list[Listed], str]:
    """Return the objects of a page, and what continues it; that is empty on the last page.

    Raises:
        StoreError: The answer is no listing.
    """
    try:
        page = _Page(text)
        encoded = page.fields.get("EncodingType") == "url"
        found = [_listed(entry, encoded) for entry in page.entries]
    except (ExpatError, KeyError, ValueError) as error:
        raise StoreError(f"{url}: the server's answer is no listing ({error})", url=url) from error
    if page.fields.get("IsTruncated") != "true":
        return found, ""
    token = page.fields.get("NextContinuationToken")
    if not token:
        raise StoreError(f"{url}: a listing that goes on does not say where", url=url)
    return found, token


class _Page:
    """A listing's own fields, and those of each of its objects, as texts.

    Straight from the parser: a tree would have thousands of elements, and so many objects made at
    once set off the garbage collector, which takes longer than all of this.
    """

    def __init__(self, text: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.entries: list[dict[str, str]] = []
        self._open: list[str] = []
        self._text = ""
        parser = ParserCreate(namespace_separator=_BEHIND_NAMESPACE)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(text, True)

    def _start(self, name: str, _: object) -> None:
        name = name.rpartition(_BEHIND_NAMESPACE)[2]  # which not all servers give
        if not self._open and name != "ListBucketResult":
            raise ValueError(f"it is a {name}")
        if name == "Contents" and len(self._open) == 1:
            self.entries.append({})
        self._open.append(name)
        self._text = ""

    def _characters(self, text: str) -> None:
        self._text += text

    def _end(self, _: object) -> None:
        name = self._open.pop()
        if len(self._open) == 1:
            self.fields[name] = self._text
        elif len(self._open) == 2 and self._open[1] == "Contents":
            self.entries[-1][name] = self._text


def _listed(fields: dict[str, str], encoded: bool) -> Listed:
    name, changed = fields["Key"], fields.get("LastModified")
    return Listed(
        unquote_plus(name) if encoded else name,
        int(fields["Size"]),
        fields.get("ETag") or None,
        datetime.fromisoformat(changed).timestamp() if changed else None,
    )
