"""Train straight from Parquet files, on a disk and on the Hugging Face Hub; nothing is converted.

Run it with ``python examples/parquet_and_hugging_face.py``. The data are the handwritten digits
that ship inside scikit-learn, stored as the Hub stores images: a column of structs with the bytes
of a PNG file. A stand-in for the Hub is started on loopback; without it, and with ``HF_TOKEN`` set
where it is needed, the same URLs read the real one.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from local_hub import local_hub
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import aiolit

FILES = 3
EPOCHS = 4


def write_parquet(folder: Path) -> None:
    """Write the digits as Parquet files, in row groups of 100."""
    folder.mkdir(parents=True)
    digits = load_digits()
    rows = [
        {"image": {"bytes": as_png(pixels), "path": f"{number}.png"}, "label": int(label)}
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    for part in range(FILES):
        table = pa.Table.from_pylist(rows[part::FILES])
        name = f"train-{part:05}-of-{FILES:05}.parquet"
        pq.write_table(table, folder / name, row_group_size=100)


def as_png(pixels: Any) -> bytes:
    """Return the PNG file of a digit."""
    file = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def decode(row: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Turn a row into a sample."""
    pixels = np.array(Image.open(io.BytesIO(row["image"]["bytes"])))
    return torch.from_numpy(pixels) / 255, row["label"]


def train(dataset: aiolit.StreamingDataset) -> float:
    """Train a small network; return its accuracy on the batches of the last epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loader = aiolit.StreamingDataLoader(dataset, batch_size=64)
    for _ in range(EPOCHS):
        right = []
        for images, labels in loader:
            scores = model(images)
            right.append(scores.argmax(1) == labels)
            optimizer.zero_grad()
            nn.functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return torch.cat(right).float().mean().item()


def from_disk(folder: Path) -> None:
    """Index a folder once, then read it; of the columns only those that are named."""
    aiolit.index_parquet_dataset(folder)  # reads the footers, writes index.json beside the files
    columns = aiolit.ParquetLoader(columns=["image", "label"])
    dataset = aiolit.StreamingDataset(folder, item_loader=columns, shuffle=True, transform=decode)
    print(f"{folder}: {len(dataset)} rows, accuracy {train(dataset):.3f}")


def from_the_hub(url: str, cache_dir: Path) -> None:
    """Read a data set of the Hub; it is indexed when it is opened first, and the index is kept."""
    dataset = aiolit.StreamingDataset(url, cache_dir=cache_dir, shuffle=True, transform=decode)
    image, label = dataset[1000]  # fetches the row group this row is in
    print(f"row 1000 is a {label}, {tuple(image.shape)} pixels")
    print(f"{url}: {len(dataset)} rows, accuracy {train(dataset):.3f}")


def main() -> None:
    """Write Parquet files and train on them, in a folder and on the Hub."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "hub" / "someone" / "digits" / "data"
        write_parquet(folder)
        with local_hub(f"{work}/hub"):
            from_the_hub("hf://datasets/someone/digits/data", Path(work) / "cache")
        from_disk(folder)


if __name__ == "__main__":
    main()
