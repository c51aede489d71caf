"""Where a bucket is: what is worked out at once is what botocore's rules say."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import AioSession
from botocore.config import Config

from aiolit.store.s3_client import S3Client
from aiolit.store.s3_endpoint import Endpoint, plain_endpoint
from aiolit.store.s3_options import S3Options, parse_s3_options

KEYS = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
BUCKETS = [
    *("bucket", "my-bucket-1", "my.bucket", "My_Bucket", "ab", "a" * 63, "a" * 64, "-bucket"),
    *("xn--bucket", "xn-bucket", "name-s3alias", "bucket--usw2-az1--x-s3", "192.168.0.1"),
    *("some--op-s3", "bucket-", "b%cket", "arn:aws:s3:us-west-2:123456789012:accesspoint/x"),
]
REGIONS = [None, "us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "aws-global"]
REGIONS += ["us-iso-east-1", "mars-1", "auto", "ap-southeast-5", "eusc-de-east-1", "US-EAST-1"]
ELSEWHERE = [None, "eu-central-1", "auto", "aws-global"]
URLS = [
    None,
    *("http://127.0.0.1:9000", "http://127.0.0.1:9000/", "https://minio.example.com/base"),
    *("https://account.r2.cloudflarestorage.com", "https://minio.example.com/base//"),
    *("https://s3.eu-west-1.amazonaws.com", "https://s3-accelerate.amazonaws.com", "example.com"),
    *("http://[::1]:9000", "http://host:port", "https://a.example.com/?x=1", "ftp://example.com"),
    *("http://u:p@example.com", "HTTP://EXAMPLE.com", "https://a.example.com/%20x", ""),
]


async def by_the_rules(bucket: str, options: S3Options) -> Endpoint | None:
    """Ask botocore; None where it refuses."""
    client = S3Client(bucket, options, plain=lambda *_: None)
    try:
        await client.open()
        return client.endpoint
    except Exception:  # noqa: BLE001  (of any kind: what matters is that it gives no address)
        return None
    finally:
        await client.aclose()


def compare(bucket: str, **given: Any) -> Endpoint | None:
    """Return the address that was worked out, if one was; it is the right one."""
    options = parse_s3_options({**KEYS, **given}, None)
    session = AioSession(profile=options.profile_name)
    found = plain_endpoint(bucket, options.region_name, options, session)
    if found is not None:
        assert found == asyncio.run(by_the_rules(bucket, options)), (bucket, given)
    return found


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the machine's own configuration counts."""
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    return path


@pytest.mark.parametrize("url", URLS)
def test_every_address_is_the_one_of_the_rules(url: str | None) -> None:
    worked_out = 0
    for bucket, region in product(BUCKETS, REGIONS if url is None else ELSEWHERE):
        given: dict[str, Any] = {} if url is None else {"endpoint_url": url}
        if region is not None:
            given["region_name"] = region
        worked_out += compare(bucket, **given) is not None
    usual = url is None or url.startswith(("http://127", "https://account", "http://[::1]:9000"))
    assert worked_out >= 10 or not usual


@pytest.mark.parametrize(
    "given",
    [
        {"config": Config(s3={"addressing_style": "path"})},
        {"config": Config(s3={"addressing_style": "virtual"}), "endpoint_url": "http://x.org"},
        {"config": Config(s3={"use_accelerate_endpoint": True})},
        {"config": Config(use_dualstack_endpoint=True)},
        {"config": Config(use_fips_endpoint=True), "region_name": "us-west-2"},
    ],
)
def test_settings_that_change_the_address_are_left_to_the_rules(given: dict[str, Any]) -> None:
    assert compare("bucket", **given) is None


@pytest.mark.parametrize(
    "given",
    [
        {"config": Config(max_pool_connections=3, read_timeout=5, retries={"max_attempts": 2})},
        {"config": Config(region_name="eu-north-1")},
        {"use_ssl": False, "region_name": "eu-west-3"},
        {"aws_session_token": "token"},
        {"anon": True, "aws_access_key_id": None, "aws_secret_access_key": None},
    ],
)
def test_settings_that_do_not_are_no_reason_to_ask(given: dict[str, Any]) -> None:
    assert compare("bucket", **given) is not None


@pytest.mark.parametrize(
    ("lines", "plain"),
    [
        ("region = eu-south-2", True),
        ("s3 =\n  addressing_style = path", False),
        ("s3 =\n  use_accelerate_endpoint = true", False),
        ("use_dualstack_endpoint = true", False),
        ("use_fips_endpoint = true\nregion = us-west-2", False),
        ("endpoint_url = http://127.0.0.1:9000", False),
        ("services = mine\n[services mine]\ns3 =\n  endpoint_url = http://127.0.0.1:9", False),
        ("defaults_mode = standard", False),
    ],
)
def test_the_configuration_file(configuration: Path, lines: str, plain: bool) -> None:
    configuration.write_text(f"[default]\n{lines}\n")
    assert (compare("bucket") is not None) is plain


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("AWS_DEFAULT_REGION", "ca-west-1", True),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000", False),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000", False),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true", False),
        ("AWS_USE_FIPS_ENDPOINT", "true", False),
        ("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "regional", False),
        ("AWS_DEFAULTS_MODE", "in-region", False),
    ],
)
def test_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, plain: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert (compare("bucket") is not None) is plain


async def test_a_bucket_whose_address_is_plain_needs_no_models() -> None:
    client = S3Client("bucket", parse_s3_options(KEYS, {"region_name": "eu-west-1"}))
    await client.open()
    assert client.endpoint == Endpoint("https://bucket.s3.eu-west-1.amazonaws.com", "eu-west-1")
    before = client.has_asked_botocore
    await client.client()
    assert (before, client.has_asked_botocore) == (False, True)
    await client.aclose()
