"""Change cache directory path."""

import os

from aiolit import StreamingDataset
from aiolit.streaming.cache import Dir

cache_dir = "path/to/your/cache"
data_dir = "s3://my-bucket/my_optimized_dataset"

dataset = StreamingDataset(input_dir=Dir(path=cache_dir, url=data_dir))
print(sum(1 for _ in dataset), any(files for _, _, files in os.walk(cache_dir)))
