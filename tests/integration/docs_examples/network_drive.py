"""Optimize loading on networked drives."""

import os

from aiolit import StreamingDataset

drive = os.path.abspath("data/shared-drive/some-data")
dataset = StreamingDataset(input_dir=f"local:{drive}")
print(list(dataset) == list(range(30)))
