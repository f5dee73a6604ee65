"""Discriminators that tell source from target activations, one for each chosen layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MAP_WIDTH = 64
VECTOR_WIDTH = 500


def build_discriminator(shape: torch.Size, *, outputs: int = 1) -> nn.Module:
    """A discriminator for activations of one layer, with fresh weights.

    Vectors [N, K] get the authors' multilayer perceptron (500, 500, ReLU). Maps [N, K, H, W]
    get three convolutions that end in a judgement for each location of about a quarter of the
    map's side: a map is judged patch by patch, so that every patch is an example and the
    discriminator cannot learn whole images by heart; strides keep it cheaper than the layers
    it judges. What the paper takes for maps is unknown.

    Args:
        shape: Of the activation; only the channels matter.
        outputs: 1, positive for source; or 2, target and source, as in the authors' code.

    Raises:
        ValueError: If the activation is neither a vector nor a map.
    """
    if len(shape) == 2:
        return nn.Sequential(
            nn.Linear(shape[1], VECTOR_WIDTH),
            nn.ReLU(),
            nn.Linear(VECTOR_WIDTH, VECTOR_WIDTH),
            nn.ReLU(),
            nn.Linear(VECTOR_WIDTH, outputs),
        )
    if len(shape) == 4:
        return nn.Sequential(
            nn.Conv2d(shape[1], MAP_WIDTH, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(MAP_WIDTH, MAP_WIDTH, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(MAP_WIDTH, outputs, 1),
        )
    raise ValueError(f"an activation must be [N, K] or [N, K, H, W], but got {tuple(shape)}")


class Discriminators(nn.Module):
    """One discriminator a layer, called together.

    Args:
        by_layer: Layer name → discriminator.
    """

    def __init__(self, by_layer: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.by_layer = nn.ModuleDict(by_layer)

    def forward(self, activations: dict[str, Tensor]) -> dict[str, Tensor]:
        """Layer name → logits [N, outputs] or [N, outputs, h, w]."""
        return {name: self.by_layer[name](value) for name, value in activations.items()}
