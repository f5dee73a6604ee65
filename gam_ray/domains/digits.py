"""What the digit domains have in common: ten classes and 28x28 grey pixels."""

import torch
from torch import Tensor
from torch.nn import functional

from gam_ray.domains.base import LabelledDomain, LabelledImages

_SIDE = 28
_ENOUGH_IMAGES = 1_000
_BRIGHT = 200  # The brightest pixel of a data set is at least this.


class DigitDomain(LabelledDomain):
    """A domain of single digits, grey: uint8 `[N, 1, 28, 28]` in 0-255.

    They are white on black, except those of `svhn`, which has both polarities.
    """

    class_names = tuple("0123456789")
    image_shape = (1, _SIDE, _SIDE)
    resize = "torch"


def resize_digits(images: Tensor) -> Tensor:
    """Resize digits to 28x28 (bilinear, antialiased).

    Args:
        images: uint8 `[N, 1, H, W]`.

    Returns:
        uint8 `[N, 1, 28, 28]`.
    """
    # What torchvision.transforms.v2.functional.resize calls, without importing torchvision.
    return functional.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)


def check_digits(
    digits: LabelledImages, *, origin: str, darkest: int = 0, white_on_black: bool = True
) -> None:
    """Check that digits are over the whole of 0-255, of one polarity, and their labels all of 0-9.

    A copy of a data set that is inverted, or scaled to another range, or whose labels start at
    another number, trains without an error and ends at chance: it is found here.

    Args:
        digits: One part of a data set, as it was read.
        origin: Where it was read from, for the message.
        darkest: What the darkest pixel is at most: 0 where digits are drawn on black, more for
            photographs.
        white_on_black: Whether the digits are; False for a data set that has both polarities.

    Raises:
        ValueError: One of these does not hold.
    """
    _check_range(digits.images, origin=origin, darkest=darkest)
    if white_on_black:
        _check_polarity(digits.images, origin=origin)
    _check_classes(digits.labels, origin=origin)


def _check_range(images: Tensor, *, origin: str, darkest: int) -> None:
    low, high = int(images.min()), int(images.max())
    if low > darkest or high < _BRIGHT:
        raise ValueError(
            f"Digits range over 0-255, but those of {origin} range over {low}-{high}: "
            "they were scaled. Get the data set as it was published."
        )


def _check_polarity(images: Tensor, *, origin: str) -> None:
    background = int(images[:_ENOUGH_IMAGES].median())
    if background >= 64:
        raise ValueError(
            f"Digits are white on black, but the median pixel of {origin} is {background}: they "
            "were inverted or scaled. Get the data set as it was published."
        )


def _check_classes(labels: Tensor, *, origin: str) -> None:
    classes = torch.unique(labels).tolist()
    if classes != list(range(10)):
        raise ValueError(
            f"The classes of digits are 0 to 9, but those of {origin} are {classes}. Get the data "
            "set as it was published."
        )
