"""Encryption with a password."""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from aiolit.errors import ConfigError, EncryptionError
from aiolit.format.encryption_base import (
    LEVELS,
    Encryption,
    LoadKey,
    check_level,
    write_key_file,
)

_ITERATIONS = 480_000


class FernetEncryption(Encryption):
    """Symmetric encryption with a key made from a password.

    The key is derived (480,000 rounds) when it is first needed, once; a pickled object carries it.

    Args:
        password: The password.
        level: ``"sample"`` or ``"chunk"``.

    Raises:
        ConfigError: The password is no text, or there is no such level.
    """

    algorithm = "fernet"

    def __init__(self, password: str, level: str = "sample") -> None:
        if not isinstance(password, str):
            raise ConfigError(f"password must be a str, not {type(password).__name__}")
        self.password = password
        self.level = check_level(level)
        self.salt = os.urandom(16)
        self._key: bytes | None = None
        self._fernet: Fernet | None = None

    load = LoadKey()

    def __repr__(self) -> str:
        return f"FernetEncryption(level={self.level!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fernet": None}

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` as a Fernet token."""
        return self._engine().encrypt(bytes(data))

    def decrypt(self, data: bytes) -> bytes:
        """Return the content of a Fernet token.

        Raises:
            EncryptionError: The password or the salt is wrong, or the data is damaged.
        """
        try:
            return self._engine().decrypt(bytes(data))
        except InvalidToken as error:
            raise EncryptionError(
                "the data cannot be decrypted: wrong password, a key file other than the one saved "
                "when writing, or damaged data"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key file: algorithm, level and salt. The password is not in it."""
        salt = base64.urlsafe_b64encode(self.salt).decode("ascii")
        fields = {"algorithm": self.algorithm, "level": self.level, "salt": salt}
        write_key_file(path, json.dumps(fields).encode("ascii"))

    def _engine(self) -> Fernet:
        if self._fernet is None:
            if self._key is None:
                derive = PBKDF2HMAC(hashes.SHA256(), 32, self.salt, _ITERATIONS)
                self._key = derive.derive(self.password.encode("utf-8"))
            self._fernet = Fernet(base64.urlsafe_b64encode(self._key))
        return self._fernet

    def _restore(self, fields: dict[str, Any], password: str | None, source: str) -> None:
        if fields.get("algorithm") != "fernet" or fields.get("level") not in LEVELS:
            raise EncryptionError(f"{source}: not a key file of FernetEncryption")
        password = getattr(self, "password", None) if password is None else password
        if password is None:
            raise EncryptionError(f"{source}: needs its password: FernetEncryption.load(path, ...)")
        try:
            salt = base64.urlsafe_b64decode(fields["salt"])
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise EncryptionError(f"{source}: field 'salt' is missing or no base64") from error
        self.password, self.level, self.salt = password, fields["level"], salt
        self._key = self._fernet = None
