"""Predictions of an exported model on image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gam_ray.domains.image_files import decoding_threads
from gam_ray.domains.image_folder import images_below
from gam_ray.domains.label_files import resize_labels
from gam_ray.domains.prepare import read_prepared
from gam_ray.export.description import ModelDescription, read_description
from gam_ray.export.model import load_program
from gam_ray.training.evaluation import BATCH_PIXELS


@dataclass(frozen=True)
class ImageFile:
    """An image to predict.

    Attributes:
        path: Where it is.
        name: Its path within the folder that was asked for, or its file name.
    """

    path: Path
    name: Path


@dataclass(frozen=True)
class Classified:
    """What a classifier says of an image.

    Attributes:
        file: The image.
        probabilities: float32 [classes].
    """

    file: ImageFile
    probabilities: Tensor

    @property
    def index(self) -> int:
        """Of the class that is likeliest."""
        return int(self.probabilities.argmax())


@dataclass(frozen=True)
class Segmented:
    """What a segmentation network says of an image.

    Attributes:
        file: The image.
        mask: Class of every pixel of the file, uint8 [H, W].
    """

    file: ImageFile
    mask: NDArray[np.uint8]

    def shares(self, classes: int) -> list[float]:
        """Share of the pixels of each class, in [0, 1]."""
        counts = np.bincount(self.mask.ravel(), minlength=classes)
        return [float(share) for share in counts / self.mask.size]


@dataclass(frozen=True)
class Unreadable:
    """An image file that is none, and why."""

    file: ImageFile
    reason: str


Prediction = Classified | Segmented | Unreadable


@dataclass(frozen=True)
class _Prepared:
    file: ImageFile
    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def find_images(named: Sequence[str]) -> list[ImageFile]:
    """The images that files, folders and patterns such as ``photos/*.jpg`` name, each once.

    Of a folder those with an image's suffix, at any depth; a file that is named may have any.

    Raises:
        ValueError: Naming everything that names no image.
    """
    found: dict[Path, ImageFile] = {}
    nothing = []
    for each in named:
        images = [image for path in _paths(each) for image in _images(path)]
        if not images:
            nothing.append(each)
        for image in images:
            found.setdefault(image.path.absolute(), image)
    if nothing:
        raise ValueError(
            f"no file, no folder with images, no pattern of them: {', '.join(nothing)}"
        )
    return list(found.values())


def _paths(named: str) -> list[Path]:
    if Path(named).exists():
        return [Path(named)]
    return [Path(each) for each in sorted(glob(named, recursive=True))]  # noqa: PTH207 - absolute


def _images(path: Path) -> list[ImageFile]:
    if path.is_dir():
        return [ImageFile(each, each.relative_to(path)) for each in images_below(path)]
    return [ImageFile(path, Path(path.name))]


class Predictor:
    """An exported model that is told image files.

    Args:
        folder: What `export_model` wrote.

    Raises:
        ValueError: If it is no exported model.
    """

    def __init__(self, folder: Path) -> None:
        self.description: ModelDescription = read_description(folder)
        self._run: Callable[[Tensor], Tensor] = load_program(folder / "model.pt2")

    def predict(self, files: Sequence[ImageFile]) -> Iterator[Prediction]:
        """Predict images batch by batch, in their order; what cannot be read is told as such."""
        height, width = self.description.input.size
        count = max(1, BATCH_PIXELS // (height * width))
        Image.init()  # Here, because threads would do it at once.
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for start in range(0, len(files), count):
                yield from self._batch(list(pool.map(self._prepare, files[start : start + count])))

    def _prepare(self, file: ImageFile) -> _Prepared | Unreadable:
        given = self.description.input
        try:
            pixels, size = read_prepared(file.path, (given.channels, *given.size), given.resize)
        except ValueError as error:
            return Unreadable(file, str(error))
        return _Prepared(file, pixels, size)

    def _batch(self, batch: list[_Prepared | Unreadable]) -> Iterator[Prediction]:
        images = [each.pixels for each in batch if isinstance(each, _Prepared)]
        rows = iter(self._run(torch.from_numpy(np.stack(images))) if images else ())
        for each in batch:
            yield each if isinstance(each, Unreadable) else self._prediction(each, next(rows))

    def _prediction(self, image: _Prepared, probabilities: Tensor) -> Prediction:
        if self.description.problem == "classification":
            return Classified(image.file, probabilities)
        classes = probabilities.argmax(0).to(torch.uint8).numpy()
        return Segmented(image.file, resize_labels(classes, image.size))
