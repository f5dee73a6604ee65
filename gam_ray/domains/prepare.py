"""An image file as a network that was trained on a domain takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gam_ray.domains.base import Resize
from gam_ray.domains.image_files import DAMAGE, GREY_MODES, check_depth, to_pixels, upright


def read_prepared(
    path: Path, shape: tuple[int, int, int], resize: Resize
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image file's pixels as a domain loads them, and its own size.

    Any mode with 8 bits a channel will do: it is made grey or RGB, and transparency is dropped.

    Args:
        path: The file.
        shape: The domain's `(C, H, W)`.
        resize: The domain's.

    Returns:
        uint8 `[C, H, W]`, and the file's height and width, turned as its EXIF orientation says.

    Raises:
        ValueError: It cannot be read as an image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as opened:
            check_depth(opened)
        image = upright(path)
    except DAMAGE as error:
        raise ValueError(str(error) or repr(error)) from error
    size = image.height, image.width
    return (_digit(image) if resize == "torch" else to_pixels(image, shape)), size


def _digit(image: Image.Image) -> np.ndarray:
    from gam_ray.domains.torchvision_digits import prepare_digits

    channels = 1 if image.mode in GREY_MODES else 3
    own = to_pixels(image, (channels, image.height, image.width))
    return prepare_digits(torch.from_numpy(own.copy()).unsqueeze(0))[0].numpy()
