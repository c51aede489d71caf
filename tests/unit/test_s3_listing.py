"""A page of a listing: what is asked for, and what servers of many makers answer."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import pytest

from aiolit.errors import StoreError
from aiolit.store.s3_listing import Listed, listing_query, parse_listing

OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>"
    "<ETag>&quot;fba9&quot;</ETag><Size>434234</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(*parts: str, namespace: str = NAMESPACE) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<ListBucketResult{namespace}>{''.join(parts)}</ListBucketResult>".encode()


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_a_page(namespace: str) -> None:
    text = page(
        "<Name>bucket</Name><IsTruncated>false</IsTruncated>",
        OBJECT.format(key="a/b.bin"),
        "<Contents><Key>bare</Key><Size>0</Size></Contents>",
        "<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes>",
        namespace=namespace,
    )
    found, token = parse_listing(text, url="s3://bucket")
    assert found == [
        Listed("a/b.bin", 434234, '"fba9"', 1255369830.0),
        Listed("bare", 0, None, None),
    ]
    assert token == ""


def test_names_that_xml_cannot_hold_come_encoded() -> None:
    key = OBJECT.format(key="a%01b/%C3%A4+%2B%20.bin")
    (named,), _ = parse_listing(page("<EncodingType>url</EncodingType>", key), url="s3://bucket")
    assert named.name == "a\x01b/ä + .bin"
    (plain,), _ = parse_listing(page(OBJECT.format(key="a+%20b &amp; c")), url="s3://bucket")
    assert plain.name == "a+%20b & c"


def test_a_page_that_goes_on() -> None:
    more = "<IsTruncated>true</IsTruncated>"
    token = "<NextContinuationToken>1ueG+/=</NextContinuationToken>"
    assert parse_listing(page(more, token), url="s3://bucket") == ([], "1ueG+/=")
    with pytest.raises(StoreError, match=re.escape("s3://bucket/x: a listing that goes on")):
        parse_listing(page(more), url="s3://bucket/x")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"<html><body>Welcome to nginx</body></html>", b"{}", page()[:-5]),
        page("<Contents><Size>3</Size></Contents>"),
        page("<Contents><Key>a</Key><Size>many</Size></Contents>"),
        page("<Contents><Key>a</Key><Size>3</Size><LastModified>then</LastModified></Contents>"),
    ],
)
def test_what_is_no_listing_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(StoreError, match=re.escape("s3://bucket/x: the server's answer is no ")):
        parse_listing(text, url="s3://bucket/x")


def test_what_is_asked() -> None:
    assert listing_query(prefix="", after="", token="") == "encoding-type=url&list-type=2"
    query = listing_query(prefix="a folder/ä", after="a folder/ä&=+~", token="1ueG+/=")
    assert parse_qsl(query, strict_parsing=True) == [
        ("continuation-token", "1ueG+/="),
        ("encoding-type", "url"),
        ("list-type", "2"),
        ("prefix", "a folder/ä"),
        ("start-after", "a folder/ä&=+~"),
    ]
    assert "+" not in query  # signatures want a blank as %20
