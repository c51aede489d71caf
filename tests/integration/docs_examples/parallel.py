"""Parallel streaming."""

from aiolit import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset
from tqdm import tqdm

parallel_dataset = ParallelStreamingDataset(
    [
        StreamingDataset(input_dir="input_dir_1"),
        StreamingDataset(input_dir="input_dir_2"),
    ],
)

dataloader = StreamingDataLoader(parallel_dataset)

differences = set()
for batch_1, batch_2 in tqdm(dataloader):
    differences.add(int(batch_2 - batch_1))
print(differences)
