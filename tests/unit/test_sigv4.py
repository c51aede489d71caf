"""Signatures: the examples of Amazon's reference, and whatever botocore signs."""

from __future__ import annotations

import datetime
from unittest import mock
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from aiolit.store.sigv4 import sign

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
EXAMPLE = ReadOnlyCredentials(
    "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None
)


@pytest.mark.parametrize(
    ("method", "path", "headers", "payload", "signature"),
    [
        (
            "GET",
            "test.txt",
            {"Range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "test%24file.text",
            {
                "Date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
            },
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "?lifecycle",
            {},
            EMPTY,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "?max-keys=2&prefix=J",
            {},
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_examples_of_the_reference(
    method: str, path: str, headers: dict[str, str], payload: str, signature: str
) -> None:
    address = f"https://examplebucket.s3.amazonaws.com/{path}"
    now = "20130524T000000Z"
    sent = sign(method, address, headers, payload, EXAMPLE, region="us-east-1", now=now)
    assert sent["Authorization"].endswith(f"Signature={signature}")


class _Signer(S3SigV4Auth):  # type: ignore[misc]
    def payload(self, request: AWSRequest) -> str:
        return EMPTY


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    etag=st.none() | st.text('abc \t"*-', max_size=12).map(str.strip),
    query=st.sampled_from(["", "partNumber=3&uploadId=a-b_c", "uploads", "a=&b=%20x"]),
    base=st.sampled_from(
        [
            "http://127.0.0.1:9000/bucket",
            "https://bucket.s3.eu-west-1.amazonaws.com",
            "http://minio:80/b",
            "https://host:443/b",
            "https://host:8443/a/b",
        ]
    ),
    token=st.none() | st.just("FwoGZXIvYXdzE+/="),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    method=st.sampled_from(["GET", "HEAD", "PUT"]),
)
def test_the_same_as_botocore(
    key: str,
    etag: str | None,
    query: str,
    base: str,
    token: str | None,
    secret: str,
    method: str,
) -> None:
    address = f"{base}/{quote(key, safe='/~')}{'?' + query if query else ''}"
    headers = {"Range": "bytes=0-9"} | ({} if etag is None else {"If-Match": etag})
    credentials = ReadOnlyCredentials("AKIAEXAMPLE", secret, token)
    moment = datetime.datetime(2026, 2, 28, 23, 59, 59)
    request = AWSRequest(method, address, headers=dict(headers))
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        _Signer(credentials, "s3", "eu-west-1").add_auth(request)
    now = moment.strftime("%Y%m%dT%H%M%SZ")
    sent = sign(method, address, headers, EMPTY, credentials, region="eu-west-1", now=now)
    expected = dict(request.headers.items())
    assert sent["Authorization"] == expected["Authorization"]
    lower = {name.lower(): value for name, value in sent.items()}
    assert lower == {name.lower(): value for name, value in expected.items()}
