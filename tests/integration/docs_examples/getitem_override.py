"""Use any data transforms: a subclass that overrides __getitem__."""

import image_transforms as F
from aiolit import StreamingDataLoader, StreamingDataset


class ImagenetStreamingDataset(StreamingDataset):
    def __getitem__(self, index):
        image = super().__getitem__(index)
        return F.resize(image, (224, 224))


dataset = ImagenetStreamingDataset("s3://my-bucket/my-images")
dataloader = StreamingDataLoader(dataset, batch_size=4)

for batch in dataloader:
    print(tuple(batch.shape))
    # Out: (4, 3, 224, 224)
