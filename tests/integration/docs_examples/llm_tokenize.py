"""LLM pre-training: tokenize the entire dataset."""

import json
from functools import partial
from pathlib import Path

import zstandard as zstd
from aiolit import TokensLoader, optimize
from tokenizer import Tokenizer


# 1. Define a function to convert the text within the jsonl files into tokens
def tokenize_fn(filepath, tokenizer=None):
    with zstd.open(open(filepath, "rb"), "rt", encoding="utf-8") as f:
        for row in f:
            text = json.loads(row)["text"]
            if json.loads(row)["meta"]["redpajama_set_name"] == "RedPajamaGithub":
                continue  # exclude the GitHub data since it overlaps with starcoder
            text_ids = tokenizer.encode(text, bos=False, eos=True)
            yield text_ids


if __name__ == "__main__":
    # 2. Generate the inputs (all the compressed json files of the dataset)
    input_dir = "./slimpajama-raw"
    inputs = [str(file) for file in Path(f"{input_dir}/SlimPajama-627B/train").rglob("*.zst")]

    # 3. Store the optimized data wherever you want
    outputs = optimize(
        fn=partial(tokenize_fn, tokenizer=Tokenizer(f"{input_dir}/checkpoints/Llama-2-7b-hf")),
        inputs=inputs,
        output_dir="./slimpajama-optimized/train",
        chunk_size=(2049 * 8012),
        # This is important to inform aiolit that we are encoding contiguous 1D array (tokens).
        # It skips storing metadata for each sample: the tokens form one large tensor.
        item_loader=TokensLoader(),
    )
