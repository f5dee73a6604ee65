"""Images of a data set as what a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray


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
