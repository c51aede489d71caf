"""Stream raw datasets from cloud storage."""

from aiolit import StreamingRawDataset
from torch.utils.data import DataLoader

dataset = StreamingRawDataset("s3://bucket/files/")

# Use with PyTorch DataLoader
loader = DataLoader(dataset, batch_size=32)
for batch in loader:
    # Each item is raw bytes
    print(len(batch), {type(item).__name__ for item in batch})
