"""Image files and label files: read, mapped to classes, resized."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from gam_ray.domains.base import VOID
from gam_ray.domains.image_files import DAMAGE, first_ten, to_pixels
from gam_ray.domains.street_classes import Colour

_ID_MODES = frozenset({"I", "I;16", "I;16B", "L", "P"})
_COLOURS = frozenset({"RGB", "RGBA"})


class LabelTable:
    """The way from the ids in label files to class indices.

    Args:
        classes: Class index, 0-254, of every id that a file may have; None is void.
    """

    def __init__(self, classes: Mapping[int, int | None]) -> None:
        # The last entry, which is also entry -1, stands for every id beyond the table.
        self._table = np.full(max(classes, default=-1) + 2, -1, dtype=np.int16)
        for id_, label in classes.items():
            self._table[id_] = VOID if label is None else label
        self._known = _ranges(sorted(classes))

    def __call__(self, ids: np.ndarray, *, origin: Path) -> np.ndarray:
        """Return the class index (uint8 `[H, W]`, `VOID` where void) of integer ids `[H, W]`.

        Raises:
            ValueError: An id is unknown; `origin` is named.
        """
        ids = ids.astype(np.int32)
        labels = self._table[np.clip(ids, -1, len(self._table) - 1)]
        unknown = np.unique(ids[labels < 0]).tolist()
        if unknown:
            raise ValueError(
                f"{origin} has label ids {_ranges(unknown)}, but those that have a meaning are "
                f"{self._known}. Get the labels as they were published, or map the ids first."
            )
        return labels.astype(np.uint8)


def read_image(path: Path) -> Image.Image:
    """Return an image file's pixels as RGB, turned as its EXIF orientation says.

    Raises:
        ValueError: It cannot be read; `path` is named.
    """
    return _read(path, lambda image: ImageOps.exif_transpose(image).convert("RGB"))


def read_ids(path: Path) -> np.ndarray:
    """Return the ids of a label file with one channel, or with a palette: integers `[H, W]`.

    Raises:
        ValueError: It cannot be read or has other channels; `path` is named.
    """
    return _as_ids(_read(path, lambda image: image.copy()), path)


def _as_ids(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode not in _ID_MODES:
        raise ValueError(
            f"Label files have one channel of ids, but {path} is of mode {image.mode}. Convert it "
            "from colours to ids."
        )
    return np.asarray(image)


def read_coloured_ids(path: Path, ids: Mapping[Colour, int]) -> np.ndarray:
    """Return the ids of a label file, as `read_ids`, or from its colours where it has three.

    Args:
        path: The file.
        ids: The id of each colour.

    Raises:
        ValueError: It cannot be read, or a colour has no id; `path` is named.
    """
    image = _read(path, lambda image: image.copy())
    if image.mode not in _COLOURS:
        return _as_ids(image, path)
    packed = _packed(np.asarray(image.convert("RGB")))
    colours = np.array(sorted(ids), dtype=np.uint8)
    codes = _packed(colours)
    places = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
    unknown = np.unique(packed[codes[places] != packed]).tolist()
    if unknown:
        told = ", ".join(first_ten(f"#{code:06x}" for code in unknown))
        raise ValueError(
            f"{path} has colours that stand for no class: {told}. Get the labels as they were "
            "published: resizing or JPEG mixes colours."
        )
    return np.array([ids[colour] for colour in sorted(ids)])[places]


def read_first_channel(path: Path) -> np.ndarray:
    """Return the first channel, up to 255, of a PNG of 16 bits a channel: uint8 `[H, W]`.

    A file with one channel is read as by `read_ids`.

    Raises:
        ValueError: It cannot be read, or has three channels of 8 bits; `path` is named.
    """
    image = _read(path, _with_lower_bytes)
    return np.asarray(image)[..., 0] if image.mode in _COLOURS else _as_ids(image, path)


def _with_lower_bytes(image: Image.Image) -> Image.Image:
    """Return the lower bytes of channels of 16 bits: Pillow alone keeps the upper ones, all 0."""
    if image.mode in _COLOURS:
        if not (isinstance(image, PngImageFile) and _is_of_sixteen_bits(image)):
            raise ValueError("ids are in the first of three channels of 16 bits, but these have 8")
        # Taken for 16 bits in the other order of bytes, the lower ones are the upper ones.
        image.tile = [
            tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in image.tile
        ]
    return image.copy()


def _is_of_sixteen_bits(image: PngImageFile) -> bool:
    return all(str(tile.args).endswith("16B") for tile in image.tile)


def resize_image(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 `[3, H, W]` of an RGB image, resized to `size` (bilinear, antialiased)."""
    return to_pixels(image, (3, *size))


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return labels (uint8 `[H, W]`) resized to `size`, each the nearest to its pixel's centre."""
    if labels.shape == size:
        return labels
    resized = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)


def _read(path: Path, take: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(path) as image:
            return take(image)
    except DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read as an image: {error!r}. It is damaged, or cut off, or "
            "something else; remove it and get it again."
        ) from error


def _packed(colours: np.ndarray) -> np.ndarray:
    """Return uint8 `[..., 3]` as one integer each, ordered as the colours are."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _ranges(numbers: list[int]) -> str:
    """Write sorted numbers briefly: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs)
