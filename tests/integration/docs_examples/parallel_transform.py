"""Parallel streaming: a transform of the samples, and one with random number generators."""

from typing import Any, Dict, Tuple

from aiolit import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset
from tqdm import tqdm

dset_1, dset_2 = StreamingDataset("input_dir_1"), StreamingDataset("input_dir_2")


def transform(samples: Tuple[Any, Any]):
    sample_1, sample_2 = samples  # as many samples as wrapped datasets
    return sample_1 + sample_2  # example transformation


parallel_dataset = ParallelStreamingDataset([dset_1, dset_2], transform=transform)

dataloader = StreamingDataLoader(parallel_dataset)

total = 0
for transformed_batch in tqdm(dataloader):
    total += int(transformed_batch)
print(total)


def random_transform(samples: Tuple[Any, Any], rngs: Dict[str, Any]):
    sample_1, sample_2 = samples  # as many samples as wrapped datasets
    rng = rngs["random"]  # "random", "numpy" and "torch" keys available
    return rng.random() * sample_1 + rng.random() * sample_2  # example transformation


parallel_dataset = ParallelStreamingDataset([dset_1, dset_2], transform=random_transform)
print(len({float(batch) for batch in StreamingDataLoader(parallel_dataset)}))
