"""MNIST, USPS and SVHN, read (and where absent, downloaded) by torchvision.

The files are looked for in `<data_root>/digits` and then in `<data_root>`, each as the `root` that
torchvision's class takes. If they are in neither, they are downloaded to `<data_root>/digits`; if
that fails, a `DataMissingError` says what was expected, what was found, and how to get it.

Of files that are there, what training depends on is checked: range, polarity, classes, number of
images. torchvision compares MNIST's and USPS's checksums only when it downloads, SVHN's whenever it
reads.
"""

import http.client
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST, SVHN, USPS
from torchvision.transforms.v2.functional import rgb_to_grayscale

from gam_ray.domains.base import (
    DataMissingError,
    LabelledImages,
    Split,
    carve_held_out,
    listing,
)
from gam_ray.domains.digits import DigitDomain, check_digits, resize_digits
from gam_ray.domains.registry import register_domain

_DOWNLOAD_SILENCE_SECONDS = 60.0
_CHUNK = 4_096  # Images converted at a time: SVHN as floats would take a gigabyte.


class TorchvisionDigits(DigitDomain):
    """A digit data set that torchvision can read.

    Attributes:
        torchvision_class: What reads and downloads it.
        files: What that class reads, relative to its `root`.
        training_size: The number of images of the training part.
        test_size: The number of images of the test part.
        held_out_size: How many of the training part are held out, by `fixed_permutation`.
        darkest: What the darkest pixel of a part is at most.
        white_on_black: Whether the digits are; False where both polarities occur.
    """

    torchvision_class: type[MNIST | USPS | SVHN]
    files: tuple[str, ...]
    training_size: int
    test_size: int
    held_out_size: int
    darkest: int = 0
    white_on_black: bool = True

    def _load(self, split: Split) -> Mapping[Split, LabelledImages]:
        if split == "test":
            return {"test": self._read(train=False)}
        return carve_held_out(self._read(train=True), held_out=self.held_out_size)

    def _read(self, *, train: bool) -> LabelledImages:
        root = self._find() or self._download()
        origin = f"{self.name} ({'training' if train else 'test'} part) in {root}"
        digits = _as_digits(self._open(root, train=train, origin=origin), origin=origin)
        check_digits(
            digits, origin=origin, darkest=self.darkest, white_on_black=self.white_on_black
        )
        expected = self.training_size if train else self.test_size
        if len(digits) != expected:
            raise ValueError(
                f"{origin} has {expected} images, but {len(digits)} were read. Remove the files "
                "and get the data set as it was published."
            )
        return digits

    def _open(self, root: Path, *, train: bool, origin: str) -> MNIST | USPS | SVHN:
        """Return torchvision's data set of files that are there."""
        # AssertionError, LookupError and RuntimeError: torchvision's parsers on damaged files.
        try:
            return self._dataset(root, train=train, download=False)
        except (OSError, EOFError, ValueError, AssertionError, LookupError, RuntimeError) as error:
            raise ValueError(
                f"{origin} cannot be read: {error!r}. The files are damaged or in another format; "
                "remove them and get them again."
            ) from error

    def _dataset(self, root: Path | str, *, train: bool, download: bool) -> MNIST | USPS | SVHN:
        return self.torchvision_class(root, train=train, download=download)

    def _roots(self) -> tuple[Path, Path]:
        return self.data_root / "digits", self.data_root

    def _find(self) -> Path | None:
        complete = (root for root in self._roots() if not self._absent_in(root))
        return next(complete, None)

    def _absent_in(self, root: Path) -> list[str]:
        return [file for file in self.files if not (root / file).is_file()]

    def _download(self) -> Path:
        root = self._roots()[0]
        found = [f"  {folder}: {listing(folder)}" for folder in self._roots()]
        try:
            self._download_to(root)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise DataMissingError(self._missing(found, error)) from error
        return root

    def _download_to(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        # Downloaded aside and moved whole: an interrupted download leaves nothing that looks like
        # a data set, and several workers may download at once.
        with (
            tempfile.TemporaryDirectory(dir=root, prefix=".download-") as aside,
            _no_endless_wait(),
        ):
            for train in (True, False):
                self._dataset(aside, train=train, download=True)
            for file in self._absent_in(root):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(aside) / file).replace(root / file)

    def _missing(self, found: list[str], cause: Exception) -> str:
        digits, data_root = self._roots()
        lines = [
            f"The files of {self.name!r} are not there and could not be downloaded.",
            f"Expected in {digits} or in {data_root}:",
            *(f"  {file}" for file in self.files),
            "Found:",
            *found,
            "To get them: put the files there; or name the folder that has them, by --data-root or",
            "by the environment variable GAM_RAY_DATA; or run once with internet access, and they",
            f"are downloaded to {digits}.",
            f"The download ended with {cause!r}.",
        ]
        return "\n".join(lines)


@register_domain("mnist")
class Mnist(TorchvisionDigits):
    """MNIST: 55,000 train, 5,000 held out of its 60,000, 10,000 test."""

    torchvision_class = MNIST
    files = (
        "MNIST/raw/train-images-idx3-ubyte",
        "MNIST/raw/train-labels-idx1-ubyte",
        "MNIST/raw/t10k-images-idx3-ubyte",
        "MNIST/raw/t10k-labels-idx1-ubyte",
    )
    training_size = 60_000
    test_size = 10_000
    held_out_size = 5_000


@register_domain("usps")
class Usps(TorchvisionDigits):
    """USPS: 6,291 train, 1,000 held out of its 7,291, 2,007 test; 16x16 resized to 28x28."""

    torchvision_class = USPS
    files = ("usps.bz2", "usps.t.bz2")
    training_size = 7_291
    test_size = 2_007
    held_out_size = 1_000


@register_domain("svhn")
class Svhn(TorchvisionDigits):
    """SVHN: 68,257 train, 5,000 held out of its 73,257, 26,032 test; digit 0 has label 0.

    32x32 photographs of house numbers, made grey by torchvision's `rgb_to_grayscale` and resized to
    28x28, so that they go with MNIST and LeNet. Some are bright on dark, some dark on bright.
    """

    torchvision_class = SVHN
    files = ("train_32x32.mat", "test_32x32.mat")
    training_size = 73_257
    test_size = 26_032
    held_out_size = 5_000
    darkest = 32
    white_on_black = False

    def _dataset(self, root: Path | str, *, train: bool, download: bool) -> SVHN:
        return SVHN(root, split="train" if train else "test", download=download)


def _as_digits(dataset: MNIST | USPS | SVHN, *, origin: str) -> LabelledImages:
    """Take images and labels out of a data set that holds all of them, as 28x28 and grey."""
    labels = dataset.labels if isinstance(dataset, SVHN) else dataset.targets
    try:
        return LabelledImages(
            _as_images(torch.as_tensor(dataset.data)), torch.as_tensor(labels, dtype=torch.int64)
        )
    except ValueError as error:
        raise ValueError(f"{origin} is not as it was published. {error}") from error


def _as_images(pixels: Tensor) -> Tensor:
    """Return uint8 `[N, 1, 28, 28]` of grey images `[N, H, W]` or colour images `[N, 3, H, W]`."""
    images = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels
    return torch.cat([prepare_digits(part) for part in torch.split(images, _CHUNK)])


def prepare_digits(images: Tensor) -> Tensor:
    """Return uint8 `[N, 1, 28, 28]` of grey or colour images, uint8 `[N, 1 or 3, H, W]`."""
    if images.shape[1:] == DigitDomain.image_shape:
        return images
    return resize_digits(rgb_to_grayscale(images))


@contextmanager
def _no_endless_wait() -> Iterator[None]:
    """Let a connection that falls silent end as an error: torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
