"""Stream raw datasets: pairs of files by overriding setup."""

from typing import Union

from aiolit import StreamingRawDataset
from aiolit.raw.indexer import FileMetadata
from torch.utils.data import DataLoader


class SegmentationRawDataset(StreamingRawDataset):
    def setup(
        self, files: list[FileMetadata]
    ) -> Union[list[FileMetadata], list[list[FileMetadata]]]:
        images = sorted((f for f in files if f.path.endswith(".png")), key=lambda f: f.path)
        masks = sorted((f for f in files if f.path.endswith(".mask")), key=lambda f: f.path)
        return [[image, mask] for image, mask in zip(images, masks)]


# Initialize the custom dataset
dataset = SegmentationRawDataset("s3://bucket/pairs/")
loader = DataLoader(dataset, batch_size=32)
for item in loader:
    # Each item in the batch is a pair: [image_bytes, mask_bytes]
    print(len(dataset), len(item))
    print(item[0][0], item[1][0])
