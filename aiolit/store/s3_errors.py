"""What S3's refusals mean, and what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from xml.sax.saxutils import unescape

import aiohttp
from botocore import exceptions as boto

from aiolit.errors import (
    AccessDeniedError,
    ConfigError,
    ObjectNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from aiolit.store.http_semantics import retry_after_s, status_error

_UNAVAILABLE = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_THROTTLED = frozenset({"ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"})
_ACCESS_HELP = (
    "check that the credentials may read and list it; S3 answers 403 also for a missing object, "
    "to those who may not list the bucket. A public bucket can be read unsigned: "
    "storage_options={'anon': True}"
)
# Statuses other than 403 come with some of these.
_ACCESS = {
    "AccessDenied": _ACCESS_HELP,
    "AllAccessDisabled": _ACCESS_HELP,
    "ExpiredToken": "the session token has expired; get new credentials, or use a profile or "
    "role, whose credentials are renewed on the way",
    "InvalidAccessKeyId": "there is no such access key; check aws_access_key_id and, for a server "
    "other than AWS, endpoint_url",
    "InvalidToken": "the session token is not valid; check aws_session_token",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than 15 minutes; set it",
    "SignatureDoesNotMatch": "check aws_secret_access_key",
}
_REGION_HELP = "pass its region: session_options={'region_name': ...}"


def response_error(
    status: int, headers: Mapping[str, str], body: str, *, url: str
) -> tuple[StoreError, str | None]:
    """Return the error that an answer stands for, and the region to ask instead, if it names one.

    Args:
        status: 300 or more.
        headers: Of the answer.
        body: S3's XML, or anything else.
        url: The object, for the message.
    """
    code, message = _field(body, "Code"), _field(body, "Message")
    # A HEAD's refusal has no body; its region is in a header.
    region = headers.get("x-amz-bucket-region") or _field(body, "Region") or None
    moved = status in (301, 307) or code in ("AuthorizationHeaderMalformed", "PermanentRedirect")
    if not moved and not (status == 400 and not code):
        region = None
    return _error(status, headers, code, message, url=url, region=region), region


def _error(
    status: int,
    headers: Mapping[str, str],
    code: str,
    message: str,
    *,
    url: str,
    region: str | None,
) -> StoreError:
    said = f"{code}: {message}" if code and message else code or message
    if code == "NoSuchBucket":
        bucket = "/".join(url.split("/")[:3])
        return ObjectNotFoundError(
            f"there is no bucket {bucket} (asked for {url}); check its name and endpoint_url",
            url=url,
        )
    if code in _UNAVAILABLE:
        error = StoreUnavailableError(f"S3 cannot serve {url} now ({status} {said})", url=url)
        error.retry_after_s = retry_after_s(headers)
        error.throttled = code in _THROTTLED
        return error
    if region is not None:
        return StoreError(
            f"the bucket of {url} is in the region {region} ({status} {said}); {_REGION_HELP}",
            url=url,
        )
    if code in _ACCESS:
        return AccessDeniedError(
            f"access to {url} is refused ({status} {said}); {_ACCESS[code]}", url=url
        )
    if code == "EntityTooLarge":
        return StoreError(f"{url} is too large for one request ({said})", url=url)
    return status_error(status, headers, url=url, detail=said, access_help=_ACCESS_HELP)


def _field(body: str, name: str) -> str:
    # Not an XML parser: the body may be cut off, or a proxy's HTML.
    match = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return unescape(match[1]) if match else ""


@contextmanager
def client_errors(url: str) -> Iterator[None]:
    """Turn the errors of botocore and aiobotocore into the store's."""
    try:
        yield
    except StoreError:
        raise
    except boto.ClientError as error:
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        told = answer.get("Error", {})
        code, message = str(told.get("Code", "")), str(told.get("Message", ""))
        region = told.get("Region") or headers.get("x-amz-bucket-region")
        raise _error(
            status,
            headers,
            "" if code.isdigit() else code,
            message,
            url=url,
            region=region if status in (301, 307) else None,
        ) from error
    except (boto.ProfileNotFound, boto.InvalidRegionError, boto.InvalidConfigError) as error:
        raise ConfigError(f"{url}: {error}") from error
    except (boto.NoCredentialsError, boto.CredentialRetrievalError) as error:
        raise AccessDeniedError(f"no credentials for {url}: {error}", url=url) from error
    except (boto.ConnectTimeoutError, boto.ReadTimeoutError) as error:
        raise StoreTimeoutError(f"{url}: {error}", url=url) from error
    except boto.EndpointConnectionError as error:
        unreached = StoreUnavailableError(f"{url}: {error}", url=url)
        unreached.reached = False
        raise unreached from error
    except (boto.HTTPClientError, aiohttp.ClientError) as error:
        raise StoreUnavailableError(f"{url}: {error}", url=url) from error
    except boto.BotoCoreError as error:
        raise StoreError(f"{url}: {error}", url=url) from error
    except ValueError as error:
        # botocore's word for an endpoint that is no URL.
        raise ConfigError(f"{url}: {error}") from error
