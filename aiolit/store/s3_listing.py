"""A page of a bucket's listing: what is asked (ListObjectsV2), and what the answer says."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree

from aiolit.errors import StoreError


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
        root = ElementTree.fromstring(text)
        if _name(root) != "ListBucketResult":
            raise ValueError(f"it is a {_name(root)}")
        fields = {_name(child): child.text or "" for child in root}
        encoded = fields.get("EncodingType") == "url"
        found = [_listed(child, encoded) for child in root if _name(child) == "Contents"]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise StoreError(f"{url}: the server's answer is no listing ({error})", url=url) from error
    if fields.get("IsTruncated") != "true":
        return found, ""
    token = fields.get("NextContinuationToken")
    if not token:
        raise StoreError(f"{url}: a listing that goes on does not say where", url=url)
    return found, token


def _listed(entry: ElementTree.Element, encoded: bool) -> Listed:
    fields = {_name(child): child.text or "" for child in entry}
    name, changed = fields["Key"], fields.get("LastModified")
    return Listed(
        unquote_plus(name) if encoded else name,
        int(fields["Size"]),
        fields.get("ETag") or None,
        datetime.fromisoformat(changed).timestamp() if changed else None,
    )


def _name(element: ElementTree.Element) -> str:
    """Return a tag without its namespace, which not all servers give."""
    return element.tag.rpartition("}")[2]
