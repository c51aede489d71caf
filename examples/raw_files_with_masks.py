"""Raw files, as they lie in a bucket: images and their masks, paired, streamed into training.

Nothing is converted beforehand: ``images/NAME.png`` and ``masks/NAME.png`` stay the files they are,
and `setup` says which belong together. Run it with ``python examples/raw_files_with_masks.py``: it
cuts a photograph of a flower that ships inside scikit-learn into tiles, with masks of its petals,
on an S3 server it starts on loopback.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_s3 import local_s3
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import aiolit
from aiolit.raw.indexer import FileMetadata

TILE = 48
EPOCHS = 6


class ImagesWithMasks(aiolit.StreamingRawDataset):
    """Pairs of an image and its mask, by name."""

    def setup(self, files: list[FileMetadata]) -> list[list[FileMetadata]]:
        """Group ``images/x.png`` with ``masks/x.png``; leave out what has no partner."""
        by_place: dict[str, dict[str, FileMetadata]] = {"images": {}, "masks": {}}
        for file in files:
            path = Path(file.path)
            if path.parent.name in by_place:
                by_place[path.parent.name][path.stem] = file
        images, masks = by_place["images"], by_place["masks"]
        return [[images[name], masks[name]] for name in images if name in masks]

    def transform(self, item: list[bytes]) -> tuple[Tensor, Tensor]:
        """Decode one pair, in the worker that fetched it."""
        image, mask = (np.array(Image.open(io.BytesIO(data))) for data in item)
        return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(mask > 0)


Tile = tuple[str, NDArray[np.uint8]]  # its name, its pixels


def cut() -> list[Tile]:
    """Cut the photograph into tiles."""
    pixels = load_sample_image("flower.jpg")
    height, width, _ = pixels.shape
    return [
        (f"{top:03}-{left:03}.png", pixels[top : top + TILE, left : left + TILE])
        for top in range(0, height - TILE, TILE)
        for left in range(0, width - TILE, TILE)
    ]


def save(tile: Tile, output_dir: str) -> None:
    """Write a tile and its mask as files; `aiolit.map` stores what lies in `output_dir` on S3."""
    name, pixels = tile
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    petals = (red > 150) & (red > blue + 40) & (red > green)
    for folder, content in (("images", pixels), ("masks", petals.astype(np.uint8) * 255)):
        place = Path(output_dir) / folder
        place.mkdir(exist_ok=True)
        Image.fromarray(content).save(place / name)


def train(loader: aiolit.StreamingDataLoader) -> nn.Module:
    """Train a network that says of each pixel whether it is of a petal."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.Flatten(1, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for epoch in range(EPOCHS):
        for image, mask in loader:
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(image), mask.float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    return model


def run(url: str, **storage: Any) -> None:
    """Train on the pairs below `url`."""
    dataset = ImagesWithMasks(url, shuffle=True, **storage)
    loader = aiolit.StreamingDataLoader(
        dataset, batch_size=16, num_workers=2, persistent_workers=True
    )
    model = train(loader)
    with torch.inference_mode():
        right = [((model(image) > 0) == mask).float().mean() for image, mask in loader]
    print(f"pixels of {len(dataset)} pairs told right: {torch.stack(right).mean():.3f}")


def main() -> None:
    """Put tiles and masks on S3, as files, and train on them."""
    with tempfile.TemporaryDirectory() as work, local_s3("demo") as storage_options:
        where: dict[str, Any] = {"storage_options": storage_options}
        aiolit.map(save, cut(), "s3://demo/flower", num_workers=2, verbose=False, **where)
        # Files that were fetched are kept, so that later epochs read them from this disk.
        run("s3://demo/flower", cache_dir=work, cache_files=True, **where)


if __name__ == "__main__":
    main()
