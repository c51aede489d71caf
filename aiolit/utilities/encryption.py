"""The documented place to import encryption from."""

from aiolit.format.encryption import Encryption, FernetEncryption, RSAEncryption

__all__ = ["Encryption", "FernetEncryption", "RSAEncryption"]
