"""Encrypted data sets: the names that users import."""

from aiolit.format.encryption_base import Encryption, check_encryption, check_level
from aiolit.format.fernet import FernetEncryption
from aiolit.format.rsa import RSAEncryption

__all__ = [
    "Encryption",
    "FernetEncryption",
    "RSAEncryption",
    "check_encryption",
    "check_level",
]
