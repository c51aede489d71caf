"""A folder of images, one sub-folder for each class, to S3 and from there into training.

Run it on images and a bucket of your own, with credentials where boto3 finds them::

    python examples/image_folder_to_s3.py my-images s3://my-bucket/my-images

Without arguments it cuts the two photographs that ship inside scikit-learn into a folder of tiles,
starts an S3 server on loopback, and learns which photograph a tile comes from.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from local_s3 import local_s3
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torch import nn

import aiolit

SIZE = 64  # pixels: images are stored as large as training wants them
EPOCHS = 5


def list_images(folder: Path) -> list[tuple[Path, int]]:
    """List the images as (path, class), a class for each sub-folder."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [
        (path, label) for label, place in enumerate(classes) for path in sorted(place.iterdir())
    ]


def to_sample(image: tuple[Path, int]) -> dict[str, Any]:
    """Shrink an image; a JPEG is stored as the file it is, and decoded when it is read."""
    path, label = image
    with Image.open(path) as opened:
        small = ImageOps.fit(opened.convert("RGB"), (SIZE, SIZE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return {"image": Image.open(file), "label": label}


def write(folder: Path, url: str, **storage: Any) -> None:
    """Write the images as chunks to `url`; from now on the folder is not needed."""
    written = aiolit.optimize(
        to_sample, list_images(folder), url, chunk_bytes="64MB", verbose=False, **storage
    )
    print(f"wrote {written}")


def train(train_set: aiolit.StreamingDataset, classes: int) -> nn.Module:
    """Train a small convolutional network on batches that two worker processes decode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, classes),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = aiolit.StreamingDataLoader(
        train_set, batch_size=32, num_workers=2, persistent_workers=True
    )
    for epoch in range(EPOCHS):
        for batch in loader:  # image: uint8, (batch, channels, height, width)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch["image"] / 255), batch["label"])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return model


@torch.inference_mode()
def measure(model: nn.Module, held_out: aiolit.StreamingDataset) -> float:
    """Measure the share of the held-out images whose class the model knows."""
    right = [
        model(batch["image"] / 255).argmax(1) == batch["label"]
        for batch in aiolit.StreamingDataLoader(held_out, batch_size=64)
    ]
    return torch.cat(right).float().mean().item()


def run(folder: Path, url: str, cache_dir: Path | None = None, **storage: Any) -> None:
    """Write the folder to `url`, train on four fifths of it, measure on the rest."""
    write(folder, url, **storage)
    dataset = aiolit.StreamingDataset(url, cache_dir, shuffle=True, **storage)
    train_set, held_out = aiolit.train_test_split(dataset, [0.8, 0.2])
    model = train(train_set, classes=sum(path.is_dir() for path in folder.iterdir()))
    print(f"accuracy on {len(held_out)} held-out images: {measure(model, held_out):.3f}")


def cut_photographs(folder: Path) -> None:
    """Make a folder of real images: tiles of two photographs, a class for each photograph."""
    photographs = load_sample_images()
    for name, pixels in zip(photographs.filenames, photographs.images, strict=True):
        place = folder / Path(name).stem
        place.mkdir(parents=True)
        for top in range(0, pixels.shape[0] - SIZE, SIZE // 2):
            for left in range(0, pixels.shape[1] - SIZE, SIZE // 2):
                tile = Image.fromarray(pixels[top : top + SIZE, left : left + SIZE])
                tile.save(place / f"{top}-{left}.png")


def main() -> None:
    """Take the folder and the URL of the command line, or the demonstration's own."""
    if len(sys.argv) == 3:
        run(Path(sys.argv[1]), sys.argv[2])
        return
    with tempfile.TemporaryDirectory() as folder, local_s3("demo") as storage_options:
        work = Path(folder)
        cut_photographs(work / "tiles")
        run(work / "tiles", "s3://demo/tiles", work / "cache", storage_options=storage_options)


if __name__ == "__main__":
    main()
