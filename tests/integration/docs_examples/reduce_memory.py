"""Reduce memory use for large files: a generator over Parquet batches, without a guard."""

from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from aiolit import StreamingDataset, optimize
from tokenizer import Tokenizer


# 1. Define a function to convert the text within the parquet files into tokens
def tokenize_fn(filepath, tokenizer=None):
    parquet_file = pq.ParquetFile(filepath)
    # Process per batch to reduce RAM usage
    for batch in parquet_file.iter_batches(batch_size=8192, columns=["content"]):
        for text in batch.column("content").to_pylist():
            yield tokenizer.encode(text, bos=False, eos=True)


# 2. Generate the inputs
input_dir = "./tinyllama-template"
inputs = [str(file) for file in Path(f"{input_dir}/starcoderdata").rglob("*.parquet")]

# 3. Store the optimized data wherever you want
outputs = optimize(
    fn=partial(tokenize_fn, tokenizer=Tokenizer(f"{input_dir}/checkpoints/Llama-2-7b-hf")),
    inputs=inputs,
    output_dir="./starcoderdata",
    chunk_size=(2049 * 8012),  # Number of tokens to store by chunks
)
print(len(StreamingDataset("./starcoderdata")))
