"""The options of S3, under the names that users know from boto3 and LitData."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import botocore
from botocore.config import Config

from aiolit.errors import ConfigError
from aiolit.store.options import reject_unknown, take_connection_options
from aiolit.store.transport import ConnectionOptions

# boto3.Session.client, boto3.Session, and the environment's names as LitData takes them.
_NAMES = {
    "endpoint_url": "endpoint_url",
    "S3_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "aws_access_key_id": "access_key_id",
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "aws_session_token": "session_token",
    "AWS_SESSION_TOKEN": "session_token",
    "region_name": "region_name",
    "AWS_REGION": "region_name",
    "AWS_DEFAULT_REGION": "region_name",
    "profile_name": "profile_name",
    "AWS_PROFILE": "profile_name",
    "use_ssl": "use_ssl",
    "verify": "verify",
    "config": "config",
    "anon": "anon",
}
# Names of boto3 that change nothing here.
_IGNORED = frozenset({"api_version", "aws_account_id", "service_name"})
_UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """How to reach S3; picklable.

    Attributes:
        endpoint_url: Of another server than AWS.
        access_key_id: With ``secret_access_key``; None: the usual chain of credentials.
        secret_access_key: See ``access_key_id``.
        session_token: Of temporary credentials.
        region_name: Of the bucket.
        profile_name: Of ``~/.aws/config``.
        use_ssl: False: plain HTTP to AWS.
        unsigned: Send no credentials.
        botocore_config: What the user set in a ``botocore.config.Config``. Its ``retries`` are
            not used: ``RetryPolicy`` decides.
        connection: How to connect.
    """

    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region_name: str | None = None
    profile_name: str | None = None
    use_ssl: bool = True
    unsigned: bool = False
    botocore_config: Mapping[str, Any] | None = None
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the botocore ``Config`` to use."""
        config = {
            # Servers other than AWS often refuse checksums they do not know.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "connect_timeout": self.connection.connect_timeout_s,
            "read_timeout": self.connection.stall_timeout_s,
            **(self.botocore_config or {}),
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
        if self.unsigned:
            config["signature_version"] = botocore.UNSIGNED
        return config


def parse_s3_options(
    storage_options: Mapping[str, Any] | None, session_options: Mapping[str, Any] | None
) -> S3Options:
    """Gather the options; those of the client win over those of the session.

    Raises:
        ConfigError: An unknown name, one thing said twice, or half of a key pair.
    """
    found: dict[str, Any] = {}
    for which, options in (
        ("session_options", session_options),
        ("storage_options", storage_options),
    ):
        given = {name: value for name, value in (options or {}).items() if value is not None}
        connection = take_connection_options(given)
        reject_unknown(given, [*_NAMES, *_IGNORED], which=which, scheme="s3")
        own: dict[str, Any] = {**connection}
        for name, value in given.items():
            if name in _IGNORED:
                continue
            if own.setdefault(_NAMES[name], value) != value:
                raise ConfigError(f"{which} gives {_NAMES[name]} twice, with different values")
        found |= own
    return _checked(found)


def _checked(found: dict[str, Any]) -> S3Options:
    if ("access_key_id" in found) != ("secret_access_key" in found):
        raise ConfigError("aws_access_key_id and aws_secret_access_key only work together")
    anon = bool(found.pop("anon", False))
    user = _user_config(found.pop("config", None))
    signature = user.pop("signature_version", None)
    if signature not in (None, "s3v4", "v4", _UNSIGNED):
        raise ConfigError(
            f"config: signature_version={signature!r} is not supported; use 's3v4' or "
            "botocore.UNSIGNED"
        )
    connection: dict[str, Any] = {
        "max_connections": user.get("max_pool_connections", 128),
        "connect_timeout_s": user.get("connect_timeout", 10.0),
        "stall_timeout_s": user.get("read_timeout", 30.0),
        "verify": found.pop("verify", True),
    }
    connection |= take_connection_options(found)
    found.setdefault("region_name", user.get("region_name"))
    return S3Options(
        **found,
        unsigned=anon or signature == _UNSIGNED,
        botocore_config=user,
        connection=ConnectionOptions(**connection),
    )


def _user_config(config: object) -> dict[str, Any]:
    """Return what the user set in a botocore Config, in a form that pickles."""
    if config is None:
        return {}
    if not isinstance(config, Config):
        raise ConfigError(f"config must be a botocore.config.Config, not {config!r}")
    found: dict[str, Any] = dict(config._user_provided_options)
    if found.get("signature_version") is botocore.UNSIGNED:
        found["signature_version"] = _UNSIGNED
    return found
