"""What all readers of image files share: kinds of damage, threads, and lists in errors."""

import os
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

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

_MOST_THREADS = 8
_TOLD = 10


def decoding_threads() -> int:
    """Return how many threads decode images at once."""
    return min(_MOST_THREADS, os.cpu_count() or 1)


def first_ten(items: Iterable[str]) -> list[str]:
    """Return the first ten, and where there are more, how many."""
    items = list(items)
    more = [f"and {len(items) - _TOLD} more"] if len(items) > _TOLD else []
    return items[:_TOLD] + more
