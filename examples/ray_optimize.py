"""One data set, written by several machines of a Ray cluster.

Each node runs worker processes of its own and takes the inputs of its region; a node that is done
helps the others, and what a lost one had not stored is done again. Run it with
``python examples/ray_optimize.py``: without ``RAY_ADDRESS`` it starts a cluster of this machine,
which stands in for two. Needs ``pip install 'aiolit[ray]'``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import aiolit


def to_sample(digit: tuple[np.ndarray, int]) -> dict[str, object]:
    """Turn one input into one sample."""
    image, label = digit
    return {"image": image.astype(np.uint8), "label": label}


def main() -> None:
    """Write the digits on two nodes and look at the order."""
    digits = load_digits()
    labels = digits.target.tolist()
    with tempfile.TemporaryDirectory() as folder:
        # A URL such as s3://bucket/digits lets the nodes store their chunks themselves.
        output_dir = str(Path(folder) / "digits")
        summary = aiolit.optimize(
            to_sample,
            list(zip(digits.images, labels, strict=True)),
            output_dir,
            chunk_size=200,
            num_workers=1,
            num_nodes=2,
            machine=aiolit.Machine(cpus=1),
            verbose=False,
        )
        dataset = aiolit.StreamingDataset(output_dir)
        print(f"{summary.samples} samples in {summary.chunks} chunks")
        print(f"in the order of the inputs: {[s['label'] for s in dataset[:]] == labels}")


if __name__ == "__main__":
    main()
