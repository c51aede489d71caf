"""Samples that cannot be made into a batch: torch's error, and what to do about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from aiolit.streaming.collation import default_batch


def test_it_is_torchs() -> None:
    batch = default_batch([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])
    assert batch["a"].tolist() == [1, 2]
    assert batch["b"] == ["x", "y"]


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        ([torch.zeros(3), torch.zeros(4)], RuntimeError),
        ([Image.new("L", (1, 1))], TypeError),
        ([{"a": 1}, {"b": 1}], KeyError),
        ([None, None], TypeError),
    ],
)
def test_what_to_do_is_said(samples: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        default_batch(samples)
    assert "collate_fn=" in raised.value.__notes__[0]
