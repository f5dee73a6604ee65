"""Images as users have them in Python: tensors, data sets, loaders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gam_ray.domains import LabelledImages, UnlabelledImages, carve_held_out, fixed_permutation

Images = Tensor | tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]
"""Images [N, C, H, W], uint8 in 0-255 or float in [0, 1]; a pair of images and labels; a data set
of images or of (image, label, …); or a loader of batches of either."""

HELD_OUT_SHARE = 10


def gather_images(data: Images, side: str) -> tuple[Tensor, Tensor | None]:
    """All images, uint8 [N, C, H, W] in 0-255, and their labels as far as there are some.

    Args:
        data: Read once, and kept in memory as a byte a value.
        side: ``source`` or ``target``, for messages.

    Raises:
        ValueError: They are of another shape, type or range, or differ in size.
    """
    if isinstance(data, Tensor):
        return _bytes(data, side), None
    if isinstance(data, tuple) and len(data) == 2:
        images, labels = data
        return _bytes(images, side), labels
    single = isinstance(data, Dataset)
    items: Any = (data[k] for k in range(len(data))) if single else data  # type: ignore[arg-type, index]
    parts = [_parts(item, single=single, side=side) for item in items]
    if not parts:
        raise ValueError(f"the {side} has at least one image, but there is none; check its loader")
    try:
        images = torch.cat([images for images, _ in parts])
    except RuntimeError as error:
        raise ValueError(f"the images of the {side} have one shape; resize them: {error}") from None
    labels_of = [labels for _, labels in parts if labels is not None]
    return images, torch.cat(labels_of) if labels_of else None


def _parts(item: Any, *, single: bool, side: str) -> tuple[Tensor, Tensor | None]:
    """A batch of images and its labels; an image alone is a batch of one."""
    images, labels = (item[0], item[1]) if isinstance(item, tuple | list) else (item, None)
    if not isinstance(images, Tensor):
        raise ValueError(  # noqa: TRY004 - what users give wrongly is a ValueError everywhere
            f"an image of the {side} is a tensor [C, H, W], but got {type(images).__name__}; add "
            "torchvision.transforms.ToTensor() to its data set"
        )
    if labels is not None:
        labels = torch.as_tensor(labels)
    if single:
        images, labels = images.unsqueeze(0), None if labels is None else labels.unsqueeze(0)
    return _bytes(images, side), labels


def _bytes(images: Tensor, side: str) -> Tensor:
    """Images as uint8 in 0-255."""
    if images.dtype == torch.uint8:
        return images
    low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
    if not images.is_floating_point() or low < 0 or high > 1:
        raise ValueError(
            f"images of the {side} are uint8 in 0-255 or float in [0, 1], but got {images.dtype} "
            f"in [{low:g}, {high:g}]; put a normalisation into the network, as its first layer"
        )
    return images.mul(255).round().to(torch.uint8)


def carve_labelled(images: Tensor, labels: Tensor) -> tuple[LabelledImages, LabelledImages]:
    """What trains, and a tenth, at least one image, that is held out.

    Raises:
        ValueError: Images and labels do not go together, or there is one image only.
    """
    wide = labels.to(torch.uint8) if labels.dim() == 3 else labels.to(torch.int64)
    whole = LabelledImages(images, wide)
    parts = carve_held_out(whole, held_out=_tenth(len(images)))
    return parts["train"], parts["held_out"]


def carve_unlabelled(images: Tensor) -> tuple[UnlabelledImages, UnlabelledImages]:
    """The same of images alone.

    Raises:
        ValueError: There is one image only.
    """
    if len(images) < 2:
        raise ValueError(f"two images or more are needed, but got {len(images)}")
    held_out = _tenth(len(images))
    order = fixed_permutation(len(images))
    return UnlabelledImages(images[order[held_out:]]), UnlabelledImages(images[order[:held_out]])


def _tenth(count: int) -> int:
    return max(1, count // HELD_OUT_SHARE)
