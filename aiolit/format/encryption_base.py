"""What every encryption of a data set has in common: its interface, key files, the index check."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError, EncryptionError
from aiolit.format.dataset_info import DatasetConfig

LEVELS = ("sample", "chunk")


class Encryption(ABC):
    """How the bytes of samples or chunks are made unreadable, and readable again.

    A subclass needs ``encrypt`` and ``decrypt`` and nothing else. Objects are pickled into worker
    processes.

    Attributes:
        algorithm: The name in the index; the class's name unless it says otherwise.
        level: ``"sample"`` (each item for itself) or ``"chunk"`` (a chunk as one).
    """

    algorithm: str = ""
    level: str = "sample"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "algorithm" not in cls.__dict__ and not cls.algorithm:
            cls.algorithm = cls.__name__

    @abstractmethod
    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` encrypted."""

    @abstractmethod
    def decrypt(self, data: bytes) -> bytes:
        """Return what ``encrypt`` was given.

        Raises:
            EncryptionError: The key is wrong, or the data is damaged.
        """

    def state_dict(self) -> dict[str, str]:
        """Return what the index says about the encryption; no key material."""
        return {"algorithm": self.algorithm, "level": self.level}


def check_encryption(
    config: DatasetConfig, encryption: Encryption | None, *, source: str
) -> Encryption | None:
    """Return the encryption that a data set needs, once it is known to fit; None if it needs none.

    Raises:
        EncryptionError: The data is encrypted and no key was given, or one of another kind.
    """
    info = config.encryption
    if info is None:
        return None
    if encryption is None:
        raise EncryptionError(
            f"{source}: the data is encrypted ({info.algorithm}, level {info.level!r}); pass the "
            "key as encryption="
        )
    if (encryption.algorithm, encryption.level) != (info.algorithm, info.level):
        raise EncryptionError(
            f"{source}: encrypted with {info.algorithm!r} at level {info.level!r}, but the key is "
            f"for {encryption.algorithm!r} at level {encryption.level!r}"
        )
    return encryption


def check_level(level: str) -> str:
    """Return ``level`` if it is one.

    Raises:
        ConfigError: It is neither ``"sample"`` nor ``"chunk"``.
    """
    if level not in LEVELS:
        raise ConfigError(f"level={level!r}: must be 'sample' or 'chunk'")
    return level


def encrypt(encryption: Encryption, data: bytes) -> bytes:
    """Encrypt, refusing what a user's ``encrypt`` returns if it is no bytes.

    Raises:
        EncryptionError: It returned something else.
    """
    return _bytes_of(encryption, "encrypt", encryption.encrypt(data))


def decrypt(encryption: Encryption, data: bytes, source: str) -> bytes:
    """Decrypt, naming in the error what could not be decrypted.

    Raises:
        EncryptionError: The key is wrong or the data is damaged.
    """
    try:
        return _bytes_of(encryption, "decrypt", encryption.decrypt(data))
    except EncryptionError as error:
        raise EncryptionError(f"{source}: {error}") from error


def _bytes_of(encryption: Encryption, method: str, result: Any) -> bytes:
    if not isinstance(result, bytes | bytearray | memoryview):
        raise EncryptionError(
            f"{type(encryption).__name__}.{method} returned {type(result).__name__}, not bytes"
        )
    return bytes(result)


class LoadKey:
    """``load`` of a key class: makes an object on the class, changes the object on an object.

    The documentation calls ``fernet.load("fernet.pem")`` and goes on with ``fernet``; LitData's own
    ``load`` is a class method. Both work here, and both return the object.
    """

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        def load(path: str | os.PathLike[str], password: str | None = None) -> Any:
            """Read a key file written by ``save``, of aiolit or of LitData.

            Args:
                path: The key file.
                password: Its password; on an object, by default the object's own.

            Raises:
                EncryptionError: The file is no such key file, or the password does not open it.
            """
            fields = read_key_file(path)
            target = object.__new__(owner) if instance is None else instance
            target._restore(fields, password, str(path))
            return target

        return load


def read_key_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON object of a key file.

    Raises:
        EncryptionError: It is none.
    """
    try:
        fields = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise EncryptionError(f"{os.fspath(path)}: not a key file: {error}") from error
    if not isinstance(fields, dict):
        raise EncryptionError(f"{os.fspath(path)}: not a key file")
    return fields


def write_key_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that only its owner may read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
