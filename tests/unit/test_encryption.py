"""Encryption: the documented examples work, key files are LitData's, wrong keys fail."""

from __future__ import annotations

import json
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from aiolit.errors import ConfigError, EncryptionError
from aiolit.format.assemble import assemble
from aiolit.format.encryption import (
    Encryption,
    FernetEncryption,
    RSAEncryption,
    check_encryption,
)
from aiolit.format.index import DatasetConfig, EncryptionInfo, Index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry

SAMPLES = [{"n": n, "t": "x" * n} for n in range(6)]


class Reverse(Encryption):
    """What the documentation asks of a user's own encryption, and no more."""

    def encrypt(self, data: bytes) -> bytes:
        return data[::-1]

    def decrypt(self, data: bytes) -> bytes:
        return data[::-1]


class Broken(Encryption):
    """Forgets to return anything."""

    def encrypt(self, data: bytes) -> bytes:
        return None  # type: ignore[return-value]

    def decrypt(self, data: bytes) -> bytes:
        return None  # type: ignore[return-value]


@pytest.fixture(scope="module")
def rsa_key() -> RSAEncryption:
    key = RSAEncryption("secret")
    key.encrypt(b"")  # makes the key pair, once for all tests
    return key


def read(index: Index, files: dict[str, bytes], key: Encryption | None) -> list[Any]:
    bound = PyTreeLoader().bind(
        index, registry=SerializerRegistry(), source="index.json", encryption=key
    )
    samples: list[Any] = []
    for chunk in index.chunks:
        reader = bound.open(memoryview(files[chunk.filename]), chunk, chunk.filename)
        samples += reader.samples(range(chunk.num_items))
    return samples


@pytest.mark.parametrize("level", ["sample", "chunk"])
def test_fernet_round_trip_as_documented(level: str, tmp_path: Path) -> None:
    path = tmp_path / "fernet.pem"
    writing = FernetEncryption(password="your_secure_password", level=level)
    index, files = assemble(SAMPLES, chunk_size=4, encryption=writing)
    writing.save(path)

    reading = FernetEncryption(password="your_secure_password", level=level)
    reading.load(path)
    assert read(index, files, reading) == SAMPLES
    assert read(index, files, FernetEncryption.load(path, "your_secure_password")) == SAMPLES
    assert not any(b"xxxx" in data for data in files.values())
    if level == "sample":
        assert files["chunk-0-0.bin"].count(b"gAAAAA") == 4
    else:
        assert files["chunk-0-0.bin"].startswith(b"gAAAAA")
        assert index.chunks[0].nbytes == len(files["chunk-0-0.bin"])


def test_fernet_key_file_is_that_of_litdata(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(
        '{"algorithm": "fernet", "level": "sample", "salt": "Ox9dC6qLrkdNoenX0HmUfQ=="}'
    )
    key = FernetEncryption.load(str(path), "pw")
    assert key.level == "sample"
    assert len(key.salt) == 16
    key.save(path)
    assert path.read_text() == (
        '{"algorithm": "fernet", "level": "sample", "salt": "Ox9dC6qLrkdNoenX0HmUfQ=="}'
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"algorithm": "rsa", "level": "sample"}',
        '{"algorithm": "fernet", "level": "all", "salt": ""}',
        '{"algorithm": "fernet", "level": "sample"}',
        '{"algorithm": "fernet", "level": "sample", "salt": 3}',
        '{"algorithm": "fernet", "level": "sample", "salt": "a"}',
        "\ud800",
    ],
)
def test_files_that_are_no_fernet_key(content: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(EncryptionError, match="key"):
        FernetEncryption.load(path, "pw")


def test_fernet_needs_a_password(tmp_path: Path) -> None:
    path = tmp_path / "key"
    FernetEncryption("pw").save(path)
    with pytest.raises(EncryptionError, match="needs its password"):
        FernetEncryption.load(path)
    with pytest.raises(ConfigError, match="password must be a str"):
        FernetEncryption(b"pw")  # type: ignore[arg-type]


def test_a_wrong_fernet_key_is_named() -> None:
    index, files = assemble(SAMPLES, chunk_size=4, encryption=FernetEncryption("right"))
    with pytest.raises(EncryptionError, match=r"chunk-0-0\.bin: item 0: .*wrong password"):
        read(index, files, FernetEncryption("wrong"))
    chunk_key = FernetEncryption("right", level="chunk")
    index, files = assemble(SAMPLES, chunk_size=4, encryption=chunk_key)
    with pytest.raises(EncryptionError, match=r"chunk-0-0\.bin: the data cannot be decrypted"):
        read(index, files, FernetEncryption("wrong", level="chunk"))


def test_the_key_is_derived_once_and_travels() -> None:
    key = FernetEncryption("pw")
    assert key.__getstate__()["_key"] is None
    token = key.encrypt(b"hello")
    derived = key.__getstate__()["_key"]
    copy = pickle.loads(pickle.dumps(key))
    assert derived is not None
    assert copy.__getstate__()["_key"] == derived
    assert copy.decrypt(token) == b"hello"
    assert "pw" not in repr(key)


@pytest.mark.parametrize("level", ["sample", "chunk"])
def test_rsa_of_any_length(level: str, rsa_key: RSAEncryption) -> None:
    key = pickle.loads(pickle.dumps(rsa_key))
    key.level = level
    samples = [*SAMPLES, {"n": 7, "t": "long " * 1000}]
    index, files = assemble(samples, chunk_size=5, encryption=key)
    assert read(index, files, key) == samples


@pytest.mark.parametrize("length", [0, 1, 190, 191, 10_000])
def test_short_rsa_messages_are_plain_oaep(length: int, rsa_key: RSAEncryption) -> None:
    data = b"x" * length
    secret = rsa_key.encrypt(data)
    assert (len(secret) == 256) == (length <= 190)
    assert rsa_key.decrypt(secret) == data


def damaged_copies(secret: bytes) -> list[bytes]:
    return [secret[:-1], secret[1:], secret + b"x", b"", secret[:8], secret[:200], secret[::-1]]


@pytest.mark.parametrize("length", [10, 1000])
def test_damaged_rsa_messages(length: int, rsa_key: RSAEncryption) -> None:
    for damaged in damaged_copies(rsa_key.encrypt(b"y" * length)):
        with pytest.raises(EncryptionError):
            rsa_key.decrypt(damaged)


def test_another_rsa_key(rsa_key: RSAEncryption) -> None:
    other = RSAEncryption()
    for length in (10, 1000):
        with pytest.raises(EncryptionError, match="another RSA key"):
            other.decrypt(rsa_key.encrypt(b"y" * length))


def test_rsa_key_file_without_its_password(rsa_key: RSAEncryption, tmp_path: Path) -> None:
    path = tmp_path / "rsa.json"
    rsa_key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "secret" not in path.read_text()
    secret = rsa_key.encrypt(b"hello")
    assert RSAEncryption.load(path, "secret").decrypt(secret) == b"hello"
    instance = RSAEncryption("secret", level="chunk")
    assert instance.load(path) is instance
    assert instance.decrypt(secret) == b"hello"
    assert instance.level == "sample"
    for wrong in (None, "wrong"):
        with pytest.raises(EncryptionError, match="private key cannot be read"):
            RSAEncryption.load(path, wrong)


def test_rsa_key_file_of_litdata(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key()
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    pem = private.private_bytes(
        serialization.Encoding.PEM, traditional, serialization.BestAvailableEncryption(b"open")
    )
    fields = {
        "private_key": pem.decode(),
        "public_key": public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "password": "open",
        "level": "sample",
    }
    path = tmp_path / "rsa.json"
    path.write_text(json.dumps(fields))
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    key = RSAEncryption.load(path, "another")  # LitData uses the stored one, whatever is passed
    assert key.decrypt(public.encrypt(b"hello", oaep)) == b"hello"
    assert private.decrypt(key.encrypt(b"back"), oaep) == b"back"
    key.save(path, include_password=True)
    assert json.loads(path.read_text())["password"] == "open"
    assert RSAEncryption.load(path).decrypt(public.encrypt(b"again", oaep)) == b"again"


def test_rsa_public_key_only(rsa_key: RSAEncryption, tmp_path: Path) -> None:
    path = tmp_path / "rsa.json"
    rsa_key.save(path, include_private=False)
    writer = RSAEncryption.load(path)
    secret = writer.encrypt(b"hello")
    assert rsa_key.decrypt(secret) == b"hello"
    with pytest.raises(EncryptionError, match="private key"):
        writer.decrypt(secret)
    with pytest.raises(EncryptionError, match="no private"):
        writer.save_keys(tmp_path / "a", tmp_path / "b")
    assert pickle.loads(pickle.dumps(writer)).encrypt(b"x")


def test_rsa_pem_files(rsa_key: RSAEncryption, tmp_path: Path) -> None:
    rsa_key.save_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    pem = (tmp_path / "private.pem").read_bytes()
    serialization.load_pem_private_key(pem, b"secret")
    serialization.load_pem_public_key((tmp_path / "public.pem").read_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "fernet"},
        {"level": "all"},
        {"private_key": 3},
        {"private_key": "no pem"},
        {"public_key": "no pem"},
        {"private_key": None, "public_key": None},
    ],
)
def test_files_that_are_no_rsa_key(
    changes: dict[str, Any], rsa_key: RSAEncryption, tmp_path: Path
) -> None:
    path = tmp_path / "rsa.json"
    rsa_key.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(EncryptionError, match=r"rsa\.json"):
        RSAEncryption.load(path, "secret")


@pytest.mark.parametrize("level", ["sample", "chunk"])
def test_a_users_own_encryption(level: str) -> None:
    key = Reverse()
    key.level = level
    index, files = assemble(SAMPLES, chunk_size=4, encryption=key)
    assert index.config.encryption == EncryptionInfo(algorithm="Reverse", level=level)
    assert read(index, files, key) == SAMPLES
    assert key.state_dict() == {"algorithm": "Reverse", "level": level}
    assert pickle.loads(pickle.dumps(key)).level == level


@pytest.mark.parametrize("level", ["sample", "chunk"])
def test_encryption_that_returns_no_bytes(level: str) -> None:
    key = Broken()
    key.level = level
    with pytest.raises(EncryptionError, match=r"Broken\.encrypt returned NoneType"):
        assemble(SAMPLES, chunk_size=4, encryption=key)
    good = Reverse()
    good.level = level
    index, files = assemble(SAMPLES, chunk_size=4, encryption=good)
    key.algorithm = "Reverse"
    with pytest.raises(EncryptionError, match=r"Broken\.decrypt returned NoneType"):
        read(index, files, key)


def test_levels_are_checked() -> None:
    with pytest.raises(ConfigError, match="level='all'"):
        FernetEncryption("pw", level="all")
    key = Reverse()
    key.level = "all"
    with pytest.raises(ConfigError, match="level='all'"):
        assemble(SAMPLES, chunk_size=4, encryption=key)


def test_the_key_must_fit_the_index() -> None:
    index, files = assemble(SAMPLES, chunk_size=4, encryption=Reverse())
    with pytest.raises(EncryptionError, match="pass the key as encryption="):
        read(index, files, None)
    with pytest.raises(EncryptionError, match="'Reverse' at level 'sample'"):
        read(index, files, FernetEncryption("pw"))
    other_level = Reverse()
    other_level.level = "chunk"
    with pytest.raises(EncryptionError, match="the key is for 'Reverse' at level 'chunk'"):
        read(index, files, other_level)
    assert check_encryption(DatasetConfig(), Reverse(), source="s") is None


def test_encrypted_and_compressed() -> None:
    key = FernetEncryption("pw", level="chunk")
    index, files = assemble(SAMPLES, chunk_size=4, encryption=key, compression="zstd")
    assert sorted(files) == ["chunk-0-0.zstd.bin", "chunk-0-1.zstd.bin"]
    with pytest.raises(ConfigError, match="neither encryption"):
        assemble(
            SAMPLES,
            chunk_size=4,
            encryption=key,
            compression="zstd",
            compression_level="batch",
        )
    assert index.chunks[0].nbytes > 0


def test_keys_of_another_kind(rsa_key: RSAEncryption, tmp_path: Path) -> None:
    path = tmp_path / "rsa.json"
    rsa_key.save(path)
    other = ec.generate_private_key(ec.SECP256R1())
    private = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    fields = json.loads(path.read_text())
    for name, pem in (("private_key", private), ("public_key", public)):
        path.write_text(json.dumps({**fields, "private_key": None, name: pem.decode()}))
        with pytest.raises(EncryptionError, match="no RSA key"):
            RSAEncryption.load(path)


def test_the_public_key_may_be_missing(rsa_key: RSAEncryption, tmp_path: Path) -> None:
    path = tmp_path / "rsa.json"
    rsa_key.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "public_key": None}))
    key = RSAEncryption.load(path, "secret")
    assert rsa_key.decrypt(key.encrypt(b"hello")) == b"hello"
    assert repr(key) == "RSAEncryption(level='sample')"
