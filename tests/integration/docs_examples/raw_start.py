"""Quick start, option 1: start immediately with existing data."""

from aiolit import StreamingRawDataset
from torch.utils.data import DataLoader

# Point to your existing cloud data
dataset = StreamingRawDataset("s3://my-bucket/raw-data/")
dataloader = DataLoader(dataset, batch_size=32)
seen = []
for batch in dataloader:
    # Process raw bytes on-the-fly
    seen += batch
print(len(seen), sorted(seen)[0])
