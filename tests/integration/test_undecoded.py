"""``decode=False``: encoded files as they were stored, by every way of reading."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from PIL import Image

from aiolit import StreamingDataLoader, StreamingDataset, aio
from aiolit.errors import ConfigError, IndexFormatError
from aiolit.format.serializers.registry import SerializerRegistry

pytestmark = pytest.mark.keeps_open(
    "environment", "threads", reason="torch's handler of SIGCHLD; the portal's threads"
)

COUNT = 12


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), 20 * number, np.uint8)).save(file, "JPEG", quality=91)
    return file.getvalue()


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


@pytest.fixture
def folder(write_dataset: WriteDataset) -> Path:
    samples = [
        {
            "n": n,
            "image": opened(jpeg(n)),
            "several": [opened(jpeg(n)), opened(jpeg(0))],
            "pixels": Image.fromarray(np.full((2, 2), n, np.uint8)),
        }
        for n in range(COUNT)
    ]
    return write_dataset(samples, chunk_size=5)


def check(sample: dict[str, Any], number: int) -> None:
    assert sample["n"] == number
    assert sample["image"] == jpeg(number)
    assert sample["several"] == [jpeg(number), jpeg(0)]
    assert isinstance(sample["pixels"], Image.Image)  # it was stored as pixels, in no file


@pytest.mark.parametrize("prefix", ["", "local:"])
def test_files_come_as_they_were_stored(prefix: str, folder: Path, tmp_path: Path) -> None:
    dataset = StreamingDataset(f"{prefix}{folder}", cache_dir=tmp_path / "cache", decode=False)
    for number, sample in enumerate(dataset):
        check(sample, number)
    check(dataset[3], 3)
    for number, sample in zip((7, 1), dataset.get_many([7, 1]), strict=True):
        check(sample, number)
    decoded = StreamingDataset(folder)[3]
    assert isinstance(decoded["image"], torch.Tensor)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_in_a_loader(num_workers: int, folder: Path) -> None:
    dataset = StreamingDataset(folder, decode=False)
    loader = StreamingDataLoader(
        dataset,
        batch_size=4,
        num_workers=num_workers,
        collate_fn=list,
        multiprocessing_context=None,
    )
    for number, sample in enumerate(sample for batch in loader for sample in batch):
        check(sample, number)


async def test_in_the_async_twin(folder: Path) -> None:
    async with aio.StreamingDataset(str(folder), decode=False) as dataset:
        check(await dataset.get(5), 5)


def test_what_the_user_serializes_is_the_users(write_dataset: WriteDataset, folder: Path) -> None:
    class Size:
        def can_serialize(self, item: Any) -> bool:
            return False

        def serialize(self, item: Any) -> tuple[bytes, str | None]:
            raise NotImplementedError

        def deserialize(self, data: bytes) -> int:
            return len(data)

    dataset = StreamingDataset(folder, decode=False, serializers={"jpeg": Size()})
    assert dataset[2]["image"] == len(jpeg(2))


@pytest.mark.parametrize(
    "name",
    ["jpeg", "image", "image:png", "image:jpeg", "image:tiff", "tiff", "tifffile", "video:mp4"],
)
def test_formats_that_are_files(name: str) -> None:
    read = SerializerRegistry(decode_files=False).decoder(name)
    assert read(memoryview(b"a file")) == b"a file"


def test_formats_that_are_none() -> None:
    registry = SerializerRegistry(decode_files=False)
    assert registry.decoder("int")(memoryview(bytes(8))) == 0
    assert registry.decoder("str")(memoryview(b"a")) == "a"
    with pytest.raises(IndexFormatError, match="no serializer for leaves of format 'unknown'"):
        registry.decoder("unknown")


def test_decode_is_yes_or_no(folder: Path) -> None:
    wrong: Any = "jpeg"
    with pytest.raises(ConfigError, match="decode must be True or False, not 'jpeg'"):
        StreamingDataset(folder, decode=wrong)
