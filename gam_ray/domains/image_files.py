"""What all readers of image files share: damage, turning, threads, and lists in errors."""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

Result = TypeVar("Result")

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


def to_pixels(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 `[C, H, W]` of an image: grey or RGB, stretched (bilinear, antialiased)."""
    channels, height, width = shape
    converted = image.convert("L" if channels == 1 else "RGB")
    resized = converted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)


def decoding_threads() -> int:
    """Return how many threads decode images at once."""
    return min(_MOST_THREADS, os.cpu_count() or 1)


def attempt_each(
    paths: Sequence[Path], work: Callable[[Path], Result]
) -> tuple[list[Result], dict[Path, Exception]]:
    """Return what `work` makes of each path, in several threads, and why it failed for others."""
    faults: dict[Path, Exception] = {}

    def attempt(path: Path) -> list[Result]:
        try:
            return [work(path)]
        except DAMAGE as error:
            faults[path] = error
            return []

    Image.init()  # Here, because threads would do it at once.
    with ThreadPoolExecutor(decoding_threads()) as pool:
        results = [result for made in pool.map(attempt, paths) for result in made]
    return results, faults


def mode_of(path: Path) -> str:
    """Return Pillow's mode of an image file, such as L or RGB, from its header.

    Raises:
        ValueError: It has more than 8 bits a channel.
    """
    with Image.open(path) as image:
        check_depth(image)
        return image.mode


def upright(path: Path) -> Image.Image:
    """Return an image, decoded, and turned as its EXIF orientation says.

    Raises:
        DAMAGE: It cannot be read.
    """
    # Given a path, Pillow maps uncompressed TIFFs, and mixes up the pixels of turned ones.
    with path.open("rb") as file, Image.open(file) as image:
        return ImageOps.exif_transpose(image)


def upright_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image that is turned as its EXIF orientation says."""
    with Image.open(path) as image:
        if ExifTags.Base.Orientation not in image.getexif():
            return image.height, image.width
    turned = upright(path)  # Whether the size is turned before it is loaded differs by format.
    return turned.height, turned.width


def first_ten(items: Iterable[str]) -> list[str]:
    """Return the first ten, and where there are more, how many."""
    items = list(items)
    more = [f"and {len(items) - _TOLD} more"] if len(items) > _TOLD else []
    return items[:_TOLD] + more
