"""What the digit domains have in common: ten classes, 28x28 pixels, white on black."""

import torch
from torch import Tensor
from torch.nn import functional

from gam_ray.domains.base import LabelledDomain, LabelledImages

_SIDE = 28
_ENOUGH_IMAGES = 1_000


class DigitDomain(LabelledDomain):
    """A domain of single digits, grey, white on black: uint8 `[N, 1, 28, 28]` in 0-255."""

    class_names = tuple("0123456789")
    image_shape = (1, _SIDE, _SIDE)


def resize_digits(images: Tensor) -> Tensor:
    """Resize digits to 28x28 (bilinear, antialiased).

    Args:
        images: uint8 `[N, 1, H, W]`.

    Returns:
        uint8 `[N, 1, 28, 28]`.
    """
    # What torchvision.transforms.v2.functional.resize calls, without importing torchvision.
    return functional.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)


def check_digits(digits: LabelledImages, *, origin: str) -> None:
    """Check that images are white on black over the whole of 0-255, and labels all of 0-9.

    A copy of a data set that is inverted, or scaled to another range, or whose labels start at
    another number, trains without an error and ends at chance: it is found here.

    Args:
        digits: One part of a data set, as it was read.
        origin: Where it was read from, for the message.

    Raises:
        ValueError: One of the two does not hold.
    """
    darkest, brightest = int(digits.images.min()), int(digits.images.max())
    if darkest != 0 or brightest < 200:
        raise ValueError(
            f"Digits range over 0-255, but those of {origin} range over {darkest}-{brightest}: "
            "they were scaled. Get the data set as it was published."
        )
    background = int(digits.images[:_ENOUGH_IMAGES].median())
    if background >= 64:
        raise ValueError(
            f"Digits are white on black, but the median pixel of {origin} is {background}: they "
            "were inverted or scaled. Get the data set as it was published."
        )
    classes = torch.unique(digits.labels).tolist()
    if classes != list(range(10)):
        raise ValueError(
            f"The classes of digits are 0 to 9, but those of {origin} are {classes}. Get the data "
            "set as it was published."
        )
