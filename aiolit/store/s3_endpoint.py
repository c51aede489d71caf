"""Where a bucket is: at once in the ordinary cases, else by botocore's rules.

To ask botocore, its models have to be read: a tenth of a second and megabytes of JSON, for an
address that nearly always follows from the names of bucket and region.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.session import AioSession

from aiolit.store.s3_options import S3Options

_REGION = re.compile(r"(?:af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-\d")
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_PATH_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_DEFAULT_REGION = "us-east-1"
# What a botocore Config may say without changing the address.
_HARMLESS = frozenset(
    {
        "connect_timeout",
        "max_pool_connections",
        "parameter_validation",
        "read_timeout",
        "region_name",
        "retries",
        "tcp_keepalive",
        "user_agent",
        "user_agent_appid",
        "user_agent_extra",
    }
)
# What the environment and ~/.aws/config may say that changes it.
_VARIABLES = ("s3", "use_dualstack_endpoint", "use_fips_endpoint")
_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT")
_PROFILE = ("endpoint_url", "services", "s3_us_east_1_regional_endpoint")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is: its address without a slash at the end, and the region that signs."""

    address: str
    region: str


def plain_endpoint(
    bucket: str, region: str | None, options: S3Options, session: AioSession
) -> Endpoint | None:
    """Return where a bucket is, or None where only botocore's rules tell.

    What it returns is what they would (a property test compares them).

    Args:
        bucket: Its name.
        region: As the user says, or as the server answered; None: that of the configuration.
        options: How to reach S3.
        session: Knows the configuration.
    """
    if "--" in bucket or bucket.startswith("xn-") or bucket.endswith("-s3alias"):
        return None  # names that mean something else to S3 than a bucket
    if not _HARMLESS.issuperset(options.botocore_config or {}):
        return None
    if any(session.get_config_variable(name) for name in _VARIABLES):
        return None
    if session.get_config_variable("defaults_mode") not in (None, "legacy"):
        return None
    region = region or session.get_config_variable("region") or None
    if options.endpoint_url is not None:
        return _elsewhere(bucket, region, options.endpoint_url)
    profile: dict[str, Any] = session.get_scoped_config()
    if any(os.environ.get(name) for name in _ENVIRONMENT) or any(map(profile.get, _PROFILE)):
        return None
    return _on_aws(bucket, region, "https" if options.use_ssl else "http")


def _on_aws(bucket: str, region: str | None, scheme: str) -> Endpoint | None:
    if not _HOST_LABEL.fullmatch(bucket):
        return None
    if region is None or region == _DEFAULT_REGION:
        return Endpoint(f"{scheme}://{bucket}.s3.amazonaws.com", _DEFAULT_REGION)
    if not _REGION.fullmatch(region):
        return None
    return Endpoint(f"{scheme}://{bucket}.s3.{region}.amazonaws.com", region)


def _elsewhere(bucket: str, region: str | None, url: str) -> Endpoint | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # botocore shall say what is wrong with it
        return None
    plain = url.startswith(("http://", "https://")) and not re.search(r"[?#@%]", url)
    if not plain or not host or ".amazonaws." in host or "//" in parts.path:
        return None
    if not _PATH_LABEL.fullmatch(bucket) or region == "aws-global":
        return None
    return Endpoint(f"{url.rstrip('/')}/{bucket}", region or _DEFAULT_REGION)
