"""Combine datasets."""

import os

from aiolit import (
    CombinedStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
    TokensLoader,
)
from tqdm import tqdm

train_datasets = [
    StreamingDataset(
        input_dir="s3://tinyllama-template/slimpajama/train/",
        item_loader=TokensLoader(block_size=2048 + 1),  # Optimized loader for tokens used by LLMs
        shuffle=True,
        drop_last=True,
    ),
    StreamingDataset(
        input_dir="s3://tinyllama-template/starcoder/",
        item_loader=TokensLoader(block_size=2048 + 1),  # Optimized loader for tokens used by LLMs
        shuffle=True,
        drop_last=True,
    ),
]

# Mix SlimPajama data and Starcoder data with these proportions:
weights = (0.693584, 0.306416)
combined_dataset = CombinedStreamingDataset(
    datasets=train_datasets, seed=42, weights=weights, iterate_over_all=False
)

train_dataloader = StreamingDataLoader(
    combined_dataset, batch_size=8, pin_memory=True, num_workers=os.cpu_count() or 1
)

# Iterate over the combined datasets
shapes = set()
for batch in tqdm(train_dataloader):
    shapes.add(tuple(batch.shape)[1:])
print(shapes)
