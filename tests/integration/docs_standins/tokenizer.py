"""A stand-in for the documentation's tokenizer: one token for each byte of the text."""

from __future__ import annotations

import torch


class Tokenizer:
    """Encodes a text as its UTF-8 bytes, 256 marking the beginning and 257 the end."""

    def __init__(self, checkpoint_dir: str) -> None:
        self.checkpoint_dir = checkpoint_dir

    def encode(self, text: str, bos: bool, eos: bool) -> torch.Tensor:
        """Turn a text into a 1-D tensor of token ids."""
        ids = [256] * bos + list(text.encode()) + [257] * eos
        return torch.tensor(ids, dtype=torch.int32)
