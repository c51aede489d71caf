"""Stream Hugging Face datasets: the full workflow."""

import aiolit as ld
from aiolit.streaming.item_loader import ParquetLoader

hf_dataset_uri = "hf://datasets/open-thoughts/OpenThoughts-114k/data"

ld.index_parquet_dataset(hf_dataset_uri, "hf-index-dir")

dataset = ld.StreamingDataset(
    hf_dataset_uri, item_loader=ParquetLoader(), index_path="hf-index-dir"
)

for batch in ld.StreamingDataLoader(dataset, batch_size=4):
    pass
