"""Random changes of training images, the same for an image whatever the number of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gam_ray.adaptation import rank, world_size
from gam_ray.config import AugmentationConfig, derive_seed
from gam_ray.domains import VOID


class Augmentation:
    """Changes this worker's share of a batch; each image by a seed of its own.

    Args:
        config: What is done.
        seed: Of all draws.
    """

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        self._transform = _transform(config)
        self._seed = seed

    def images(self, images: Tensor, *, step: int) -> Tensor:
        """This worker's uint8 images [N, C, H, W] of a step, changed."""
        return self.pairs(images, images.new_zeros(len(images)), step=step)[0]

    def pairs(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Images and their labels: maps [N, H, W] move with their image, others stay.

        Raises:
            ValueError: If a crop is larger than the images.
        """
        if self._transform is None:
            return images, labels
        changed = []
        with torch.random.fork_rng(devices=[]):
            for position, (image, label) in enumerate(zip(images, labels, strict=True)):
                place = position * world_size() + rank()
                # torch.manual_seed would do, but seeds GPUs too: as slow as all that it is for.
                torch.default_generator.manual_seed(
                    derive_seed(self._seed, "augmentation", step, place)
                )
                changed.append(self._pair(image, label))
        return torch.stack([image for image, _ in changed]), torch.stack([x for _, x in changed])

    def _pair(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        assert self._transform is not None
        if label.dim() < 2:
            return self._transform(tv_tensors.Image(image)).as_subclass(torch.Tensor), label
        both = self._transform(tv_tensors.Image(image), tv_tensors.Mask(label))
        return both[0].as_subclass(torch.Tensor), both[1].as_subclass(torch.Tensor)


def _transform(config: AugmentationConfig) -> Callable[..., Any] | None:
    """What is done to an image and its labels; None if nothing is."""
    if config == AugmentationConfig():
        return None
    # Imported here: it takes seconds, and by default images are trained on as they are.
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transforms: list[v2.Transform] = []
    if config.rotate or config.shift or config.zoom:
        transforms.append(
            v2.RandomAffine(
                degrees=config.rotate,
                translate=(config.shift, config.shift),
                scale=(1 - config.zoom, 1 + config.zoom),
                interpolation=v2.InterpolationMode.BILINEAR,
                # What comes into the picture from outside is black (as None is), and has no label.
                fill={tv_tensors.Image: None, tv_tensors.Mask: VOID},
            )
        )
    if config.crop:
        transforms.append(v2.RandomCrop(config.crop))
    if config.flip:
        transforms.append(v2.RandomHorizontalFlip())
    if config.colour:
        factors = (config.colour,) * 3
        transforms.append(v2.ColorJitter(*factors, hue=config.colour / 10))
    composed: Callable[..., Any] = v2.Compose(transforms)
    return composed


def check_augmentation(name: str, config: AugmentationConfig, image_size: tuple[int, int]) -> None:
    """Raise ValueError if a crop does not fit into images of `image_size` (H, W)."""
    if config.crop and (config.crop[0] > image_size[0] or config.crop[1] > image_size[1]):
        raise ValueError(
            f"{name}.crop must fit into the images, but got {config.crop[0]}×{config.crop[1]} of "
            f"{image_size[0]}×{image_size[1]}; make it smaller, or task.size larger"
        )
