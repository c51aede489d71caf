"""Limit local cache space."""

from aiolit import StreamingDataset

dataset = StreamingDataset("s3://my-bucket/my-data", max_cache_size="10GB")
print(sum(1 for _ in dataset))
