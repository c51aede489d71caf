"""Cycle datasets."""

from aiolit import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset
from tqdm import tqdm

dataset = StreamingDataset(input_dir="input_dir")

cycled_dataset = ParallelStreamingDataset([dataset], length=100)

print(len(cycled_dataset))  # 100

dataloader = StreamingDataLoader(cycled_dataset)

seen = []
for (batch,) in tqdm(dataloader):
    seen.append(int(batch))
print(seen == [i % 30 for i in range(100)])
