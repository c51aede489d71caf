"""RSA keys for data sets, of any message length."""

from __future__ import annotations

import json
import os
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aiolit.errors import EncryptionError
from aiolit.format.encryption_base import LEVELS, Encryption, LoadKey, check_level, write_key_file

_MAGIC = b"AIOLRSA1"
_NONCE = 12
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
_OAEP_COST = 66  # bytes of a message block that OAEP with SHA-256 needs for itself


class RSAEncryption(Encryption):
    """Asymmetric encryption: the public key writes, the private key reads.

    What fits one RSA block (190 bytes for a key of 2048 bits) is encrypted as LitData does, so that
    it can read it. Anything longer goes into an envelope of ours: ``"AIOLRSA1"``, a fresh AES-256
    key encrypted by RSA, a nonce of 12 bytes, then the data under AES-GCM.

    A key pair is made when it is first needed, once; a pickled object carries it.

    Args:
        password: Protects the private key where it is saved, or None.
        level: ``"sample"`` or ``"chunk"``.

    Raises:
        ConfigError: There is no such level.
    """

    algorithm = "rsa"

    def __init__(self, password: str | None = None, level: str = "sample") -> None:
        self.password = password
        self.level = check_level(level)
        self._public: rsa.RSAPublicKey | None = None
        self._private: rsa.RSAPrivateKey | None = None

    load = LoadKey()

    def __repr__(self) -> str:
        return f"RSAEncryption(level={self.level!r})"

    def __getstate__(self) -> dict[str, Any]:
        private, public = self._private_pem(None), self._public_pem()
        return {**self.__dict__, "_private": private, "_public": public}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._private = _load_private(state["_private"], None, "pickle")
        self._public = _load_public(state["_public"], "pickle")

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` encrypted for whoever has the private key."""
        data = bytes(data)
        public = self._keys()
        if len(data) <= public.key_size // 8 - _OAEP_COST:
            return public.encrypt(data, _OAEP)
        key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE)
        wrapped = public.encrypt(key, _OAEP)
        return b"".join((_MAGIC, wrapped, nonce, AESGCM(key).encrypt(nonce, data, None)))

    def decrypt(self, data: bytes) -> bytes:
        """Return what was encrypted.

        Raises:
            EncryptionError: The key is another one or has no private part, or the data is damaged.
        """
        data = bytes(data)
        self._keys()
        if self._private is None:
            raise EncryptionError("reading needs the private key, and only the public one is here")
        size = self._private.key_size // 8
        try:
            if len(data) == size:
                return self._private.decrypt(data, _OAEP)
            start = len(_MAGIC) + size
            if data[: len(_MAGIC)] != _MAGIC or len(data) < start + _NONCE:
                raise EncryptionError("the data was not encrypted with an RSA key of this size")
            key = self._private.decrypt(data[len(_MAGIC) : start], _OAEP)
            body = data[start + _NONCE :]
            return AESGCM(key).decrypt(data[start : start + _NONCE], body, None)
        except (ValueError, InvalidTag) as error:
            raise EncryptionError(
                "the data cannot be decrypted: another RSA key, or damaged data"
            ) from error

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        include_password: bool = False,
        include_private: bool = True,
    ) -> None:
        """Write the key file: level and both keys, the private one encrypted with the password.

        Args:
            path: The file to write; only its owner may read it.
            include_private: False leaves the private key out: a file for those who only write.
            include_password: Put the password beside the key that it protects, in clear. LitData
                does so and needs it to load the file.
        """
        private = self._private_pem(self.password) if include_private else None
        fields = {
            "algorithm": self.algorithm,
            "private_key": None if private is None else private.decode("ascii"),
            "public_key": self._public_pem().decode("ascii"),
            "password": (self.password or "") if include_password else "",
            "level": self.level,
        }
        write_key_file(path, json.dumps(fields).encode("ascii"))

    def save_keys(
        self, private_key_path: str | os.PathLike[str], public_key_path: str | os.PathLike[str]
    ) -> None:
        """Write the two keys as PEM files, the private one encrypted with the password.

        Raises:
            EncryptionError: Only the public key is here.
        """
        private = self._private_pem(self.password)
        if private is None:
            raise EncryptionError("only the public key is here; there is no private one to save")
        write_key_file(private_key_path, private)
        write_key_file(public_key_path, self._public_pem())

    def _keys(self) -> rsa.RSAPublicKey:
        if self._public is None:
            self._private = rsa.generate_private_key(65537, 2048)
            self._public = self._private.public_key()
        return self._public

    def _private_pem(self, password: str | None) -> bytes | None:
        self._keys()
        if self._private is None:
            return None
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode("utf-8"))
            if password
            else serialization.NoEncryption(),
        )

    def _public_pem(self) -> bytes:
        return self._keys().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def _restore(self, fields: dict[str, Any], password: str | None, source: str) -> None:
        if fields.get("algorithm", "rsa") != "rsa" or fields.get("level") not in LEVELS:
            raise EncryptionError(f"{source}: not a key file of RSAEncryption")
        password = getattr(self, "password", None) if password is None else password
        stored = fields.get("password")
        password = stored if isinstance(stored, str) and stored else password
        private = _pem_field(fields, "private_key", source)
        public = _pem_field(fields, "public_key", source)
        self._private = _load_private(private, password or None, source)
        if public is not None:
            self._public = _load_public(public, source)
        elif self._private is not None:
            self._public = self._private.public_key()
        else:
            raise EncryptionError(f"{source}: holds no key")
        self.password, self.level = password, fields["level"]


def _pem_field(fields: dict[str, Any], key: str, source: str) -> bytes | None:
    text = fields.get(key)
    if text is not None and not isinstance(text, str):
        raise EncryptionError(f"{source}: field {key!r} must be PEM text")
    return None if text is None else text.encode("utf-8")


def _load_private(pem: bytes | None, password: str | None, source: str) -> rsa.RSAPrivateKey | None:
    if pem is None:
        return None
    secret = password.encode("utf-8") if password else None
    try:
        key = serialization.load_pem_private_key(pem, secret)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise EncryptionError(
            f"{source}: the private key cannot be read; a wrong or missing password? {error}"
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise EncryptionError(f"{source}: the private key is no RSA key")
    return key


def _load_public(pem: bytes, source: str) -> rsa.RSAPublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EncryptionError(f"{source}: the public key cannot be read: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise EncryptionError(f"{source}: the public key is no RSA key")
    return key
