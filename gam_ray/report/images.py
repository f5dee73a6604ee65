"""Images of a data set as what a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray


def beside(*images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [C, H, W] of one size in a row, [3, H, W'], with a white gap between them."""
    colour = [each if len(each) == 3 else np.repeat(each[:1], 3, axis=0) for each in images]
    height, width = images[0].shape[1:]
    gap = np.full((3, height, max(1, width // 60)), 255, np.uint8)
    parts = [part for each in colour for part in (each, gap)][:-1]
    row: NDArray[np.uint8] = np.concatenate(parts, axis=2)
    return row


def data_uri(image: NDArray[np.uint8], most: int) -> str:
    """An image as a ``data:`` address of a PNG.

    Args:
        image: uint8 [C, H, W] in 0-255; of other than three channels the first is shown.
        most: Pixels of its longer side, to which a larger one is reduced.
    """
    from PIL import Image

    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((most, most))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
