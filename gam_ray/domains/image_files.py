"""What all readers of image files share: damage, turning, threads, and lists in errors."""

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are damaged, or are no images."""

GREY_MODES = frozenset({"1", "L"})
"""Pillow's modes of an image that a domain takes as grey."""

_MOST_THREADS = 8
_TOLD = 10


def check_depth(image: Image.Image) -> None:
    """Raise ValueError if an image has more than 8 bits a channel: Pillow would cut them off."""
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")


def read_upright(path: Path) -> Image.Image:
    """Return an image turned as its EXIF orientation says.

    Raises:
        DAMAGE: It cannot be read.
    """
    # Given a path, Pillow maps uncompressed TIFFs, and mixes up the pixels of turned ones.
    with path.open("rb") as file, Image.open(file) as image:
        return ImageOps.exif_transpose(image)


def to_pixels(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 `[C, H, W]` of an image: grey or RGB, stretched (bilinear, antialiased)."""
    channels, height, width = shape
    converted = image.convert("L" if channels == 1 else "RGB")
    resized = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)


def decoding_threads() -> int:
    """Return how many threads decode images at once."""
    return min(_MOST_THREADS, os.cpu_count() or 1)


def first_ten(items: Iterable[str]) -> list[str]:
    """Return the first ten, and where there are more, how many."""
    items = list(items)
    more = [f"and {len(items) - _TOLD} more"] if len(items) > _TOLD else []
    return items[:_TOLD] + more
