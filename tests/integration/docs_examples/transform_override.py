"""Transform datasets while streaming: a subclass that overrides transform."""

import image_transforms as transforms
from aiolit import StreamingDataset

data_dir, cache_dir, shuffle = "s3://my-bucket/my-images", "cache", True


class StreamingDatasetWithTransform(StreamingDataset):
    """A custom dataset class that inherits from StreamingDataset and applies a transform."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

        self.torch_transform = transforms.Compose(
            [
                transforms.Resize((256, 256)),  # Resize to 256x256
                transforms.ToTensor(),  # Convert to PyTorch tensor (C x H x W)
                transforms.Normalize(  # Normalize using ImageNet stats
                    mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
                ),
            ]
        )

    # Define your transform method
    def transform(self, x, *args, **kwargs):
        """A simple transform function."""
        return self.torch_transform(x)


dataset = StreamingDatasetWithTransform(data_dir, cache_dir=str(cache_dir), shuffle=shuffle)
print({tuple(sample.shape) for sample in dataset}, tuple(dataset[0].shape))
