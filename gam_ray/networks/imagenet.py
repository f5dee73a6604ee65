"""What networks that begin with ImageNet's weights share: the weights, and the images' scale."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gam_ray.networks.base import WeightsUnavailableError

logger = logging.getLogger(__name__)

# Of ImageNet's images in [0, 1], per channel.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Images in [0, 1] → what torchvision's networks were trained on.

    Images of other than three channels get the mean over the colours.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            value = torch.tensor(values).view(1, 3, 1, 1)
            if channels != 3:
                value = value.mean(1, keepdim=True)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, channels, H, W] of mean 0 and standard deviation 1, as far as ImageNet's."""
        return (images - self.mean) / self.std


def imagenet_state(weights: Any) -> Mapping[str, Tensor]:
    """The state of one of torchvision's networks, downloaded once.

    Args:
        weights: A member of one of torchvision's enumerations of weights.

    Raises:
        WeightsUnavailableError: If it could not be downloaded or read.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.exists():
        megabytes = weights.meta["_file_size"]
        logger.info("downloading %s (%.0f MB) to %s", weights.url, megabytes, file)
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsUnavailableError(
            f"the weights at {weights.url} could not be downloaded and read ({error}); "
            f"download that file by other means and put it at {file} on every machine that trains"
        ) from error
    return state
