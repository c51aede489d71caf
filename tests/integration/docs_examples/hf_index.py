"""Stream Hugging Face datasets: index ahead of time."""

import aiolit as ld

hf_dataset_uri = "hf://datasets/leonardPKU/clevr_cogen_a_train/data"

ld.index_hf_dataset(hf_dataset_uri)
