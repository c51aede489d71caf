"""Stream large cloud datasets: a custom cache directory."""

import os

from aiolit import StreamingDataset

# Initialize the StreamingDataset with the custom cache directory
dataset = StreamingDataset("s3://my-bucket/my-data", cache_dir="path/to/cache")
print(sum(1 for _ in dataset), any(files for _, _, files in os.walk("path/to/cache")))
