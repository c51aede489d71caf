"""Smart index caching: force a rebuild."""

from aiolit import StreamingRawDataset

# When dataset files have changed
dataset = StreamingRawDataset("s3://bucket/files/", recompute_index=True)
print(len(dataset))
