"""Profile data loading speed."""

import json

from aiolit import StreamingDataLoader, StreamingDataset

dataset = StreamingDataset("s3://my-bucket/my-data")
for batch in StreamingDataLoader(dataset, batch_size=64, num_workers=1, profile_batches=5):
    pass

with open("result.json") as trace:
    print(len(json.load(trace)["traceEvents"]) > 0)
