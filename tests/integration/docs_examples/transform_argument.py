"""Transform datasets while streaming: the transform argument."""

import image_transforms as transforms
from aiolit import StreamingDataset

data_dir, cache_dir, shuffle = "s3://my-bucket/my-images", "cache", True

# Define a simple transform function
torch_transform = transforms.Compose(
    [
        transforms.Resize((256, 256)),  # Resize to 256x256
        transforms.ToTensor(),  # Convert to PyTorch tensor (C x H x W)
        transforms.Normalize(  # Normalize using ImageNet stats
            mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
        ),
    ]
)


def transform_fn(x, *args, **kwargs):
    """Define your transform function."""
    return torch_transform(x)  # Apply the transform to the input image


# Create dataset with appropriate configuration
dataset = StreamingDataset(
    data_dir, cache_dir=str(cache_dir), shuffle=shuffle, transform=[transform_fn]
)
print({tuple(sample.shape) for sample in dataset})
