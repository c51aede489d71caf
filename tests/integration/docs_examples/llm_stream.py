"""LLM pre-training: stream the tokens."""

import os

from aiolit import StreamingDataLoader, StreamingDataset, TokensLoader
from tqdm import tqdm

# Increase by one because we need the next word as well
dataset = StreamingDataset(
    input_dir="./slimpajama-optimized/train",
    item_loader=TokensLoader(block_size=2048 + 1),
    shuffle=True,
    drop_last=True,
)

train_dataloader = StreamingDataLoader(
    dataset, batch_size=8, pin_memory=True, num_workers=os.cpu_count() or 1
)

# Iterate over the SlimPajama dataset
for batch in tqdm(train_dataloader):
    print(tuple(batch.shape))
