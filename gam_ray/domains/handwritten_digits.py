"""The 1,797 handwritten digits that come with scikit-learn: nothing to download."""

from collections.abc import Mapping

import torch
from sklearn.datasets import load_digits

from gam_ray.domains.base import LabelledImages, Split, fixed_permutation
from gam_ray.domains.digits import DigitDomain, resize_digits
from gam_ray.domains.registry import register_domain

_SIZES: dict[Split, int] = {"train": 897, "held_out": 400, "test": 500}


@register_domain("handwritten-digits")
class HandwrittenDigits(DigitDomain):
    """scikit-learn's digits (8x8, values 0-16), scaled to 0-255 and resized to 28x28.

    The set has no test part of its own, so `fixed_permutation` makes three parts of it: the first
    897 train, the next 400 are held out, the last 500 test.
    """

    def _load(self, split: Split) -> Mapping[Split, LabelledImages]:
        del split  # All three are read at once.
        digits = _read()
        parts = torch.split(fixed_permutation(len(digits)), list(_SIZES.values()))
        return {name: digits.take(part) for name, part in zip(_SIZES, parts, strict=True)}


def _read() -> LabelledImages:
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    return LabelledImages(resize_digits(images), torch.from_numpy(bunch.target).to(torch.int64))
