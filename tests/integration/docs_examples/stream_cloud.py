"""Stream large cloud datasets."""

from aiolit import StreamingDataLoader, StreamingDataset

seen = []


def process(batch):
    seen.extend(batch.tolist())


dataset = StreamingDataset("s3://my-bucket/my-data", shuffle=True)
dataloader = StreamingDataLoader(dataset, batch_size=64)
for batch in dataloader:
    process(batch)  # Replace with your data processing logic

print(sorted(seen) == list(range(100_000)), seen != sorted(seen))
