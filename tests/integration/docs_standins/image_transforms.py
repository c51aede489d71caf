"""A stand-in for torchvision's transforms: the four the documentation uses, on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class Compose:
    """Apply transforms one after another."""

    def __init__(self, steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> None:
        self.steps = steps

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    """Resize a (channels, height, width) image."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return resize(image, self.size)


class ToTensor:
    """Scale 0..255 to 0..1."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image.float() / 255


class Normalize:
    """Subtract the mean of each channel and divide by its deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean[:, None, None]) / self.std[:, None, None]


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a (channels, height, width) image, bilinearly."""
    return torch.nn.functional.interpolate(image[None].float(), size)[0]
