"""Tokenise text, then pre-train a small language model on it, with checkpoints to go on from.

Run it with ``python examples/llm_tokens.py [FOLDER]``: the folder's ``*.py`` files are the text; by
default it is some of Python's own standard library. The tokeniser is the simplest there is, a token
for each byte; put your own in its place.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import aiolit

VOCABULARY = 257  # the 256 bytes, and the end of a text
END_OF_TEXT = 256
CONTEXT = 64
BATCH = 16


def tokenize(path: Path) -> Iterator[Tensor]:
    """Yield the tokens of a file, in pieces; worker processes of `optimize` run this."""
    with open(path, "rb") as file:
        while piece := file.read(1 << 16):
            yield torch.tensor(list(piece), dtype=torch.int16)
    yield torch.tensor([END_OF_TEXT], dtype=torch.int16)


def write(files: list[Path], output_dir: str) -> None:
    """Write the tokens of all files, one after the other, as one long stream."""
    written = aiolit.optimize(
        tokenize,
        files,
        output_dir,
        chunk_size=100_000,  # tokens; some millions for real data
        item_loader=aiolit.TokensLoader(),
        num_workers=2,
        verbose=False,
    )
    print(f"tokenised {written.inputs} files: {written.nbytes // 2:,} tokens")


def open_loader(input_dir: str) -> aiolit.StreamingDataLoader:
    """Read the stream in shuffled blocks: what the model sees, and the token after it."""
    dataset = aiolit.StreamingDataset(
        input_dir,
        item_loader=aiolit.TokensLoader(block_size=CONTEXT + 1),
        shuffle=True,
        drop_last=True,
    )
    return aiolit.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=2)


class LanguageModel(nn.Module):
    """A transformer of two layers that predicts each token from those before it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the token after each of `tokens`."""
        found = self.tokens(tokens) + self.places.weight
        scores: Tensor = self.head(self.layers(found, mask=self.mask, is_causal=True))
        return scores


def train(input_dir: str, checkpoint: Path, until_step: int) -> float:
    """Train up to a step; go on from the checkpoint, if there is one, and leave one."""
    torch.manual_seed(0)
    model, loader = LanguageModel(), open_loader(input_dir)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]
        print(f"going on behind step {step}")
    while True:  # epochs
        for batch in loader:
            tokens = batch.long()
            scores = model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % 20 == 0:
                print(f"step {step}: loss {loss.item():.3f}")
            if step == until_step:
                saved = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                    "step": step,
                }
                torch.save(saved, checkpoint)
                return loss.item()


def main() -> None:
    """Tokenise, train for a while, stop, and go on."""
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(os.__file__).parent
    with tempfile.TemporaryDirectory() as work:
        write(sorted(folder.glob("*.py"))[:40], f"{work}/tokens")
        checkpoint = Path(work) / "checkpoint.pt"
        train(f"{work}/tokens", checkpoint, until_step=60)
        loss = train(f"{work}/tokens", checkpoint, until_step=120)
    print(f"loss after 120 steps: {loss:.3f}, of a guess without training: 5.549")


if __name__ == "__main__":
    main()
