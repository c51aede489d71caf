"""Data that is encrypted where it lies: with a password, and with a pair of keys.

With `FernetEncryption` who writes and who reads share a password. With `RSAEncryption` whoever has
the public key can write, and only the private key reads: machines that collect data cannot read it
back. Run it with ``python examples/encryption.py``; the data are the measurements of 442 patients
that ship inside scikit-learn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

import aiolit
from aiolit.errors import EncryptionError


def to_sample(patient: tuple[Any, Any]) -> dict[str, Any]:
    """Turn one input into one sample."""
    measured, progression = patient
    return {"measured": measured.astype(np.float32), "progression": float(progression)}


def write(output_dir: Path, encryption: aiolit.Encryption) -> None:
    """Write the patients, encrypted."""
    patients = load_diabetes()
    aiolit.optimize(
        to_sample,
        list(zip(patients.data, patients.target, strict=True)),
        str(output_dir),
        chunk_bytes="64MB",
        num_workers=2,
        encryption=encryption,
        verbose=False,
    )


def mean_progression(input_dir: Path, encryption: aiolit.Encryption) -> float:
    """Read all patients with a key."""
    dataset = aiolit.StreamingDataset(input_dir, encryption=encryption)
    batches = list(aiolit.StreamingDataLoader(dataset, batch_size=64))
    total = sum(float(batch["progression"].sum()) for batch in batches)
    return total / len(dataset)


def with_a_password(work: Path) -> None:
    """Level ``"sample"`` encrypts each sample for itself, so that one can be read alone."""
    encryption = aiolit.FernetEncryption("correct horse battery staple", level="sample")
    write(work / "by-password", encryption)
    # The file holds what makes a key of the password, not the password. Keep it: no file, no data.
    encryption.save(work / "fernet.key")

    # Elsewhere, later: the file and the password together are the key.
    key = aiolit.FernetEncryption.load(work / "fernet.key", "correct horse battery staple")
    print(f"with the password: mean {mean_progression(work / 'by-password', key):.1f}")
    wrong = aiolit.FernetEncryption.load(work / "fernet.key", "Tr0ub4dor&3")
    try:
        mean_progression(work / "by-password", wrong)
    except EncryptionError as error:
        print(f"with another password: {error}")


def with_a_key_pair(work: Path) -> None:
    """Level ``"chunk"`` encrypts chunks as one: smaller, but a sample costs a chunk."""
    owner = aiolit.RSAEncryption("protects the private key", level="chunk")
    owner.save(work / "owner.key")
    owner.save(work / "collector.key", include_private=False)

    collector = aiolit.RSAEncryption.load(work / "collector.key")
    write(work / "by-key", collector)
    try:
        mean_progression(work / "by-key", collector)
    except EncryptionError as error:
        print(f"with the public key: {error}")
    reader = aiolit.RSAEncryption.load(work / "owner.key", "protects the private key")
    print(f"with the private key: mean {mean_progression(work / 'by-key', reader):.1f}")


def main() -> None:
    """Write and read both kinds."""
    with tempfile.TemporaryDirectory() as work:
        with_a_password(Path(work))
        with_a_key_pair(Path(work))


if __name__ == "__main__":
    main()
