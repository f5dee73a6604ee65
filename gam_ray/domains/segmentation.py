"""Domains whose labels say the class of every pixel, read from image files."""

import json
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from gam_ray.domains.base import (
    VOID,
    DataMissingError,
    Domain,
    LabelledImages,
    LabelsMissingError,
    Problem,
    Split,
    UnlabelledImages,
    check_split,
    did_you_mean,
    fixed_permutation,
    listing,
)
from gam_ray.domains.image_cache import Decoded, Recipe, Stored, open_or_build
from gam_ray.domains.image_files import first_ten
from gam_ray.domains.label_files import (
    LabelTable,
    read_ids,
    read_image,
    resize_image,
    resize_labels,
)

_LOG = logging.getLogger(__name__)

_IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, in order.

    Attributes:
        images: The images.
        labels: The label file of each, or None where the split has no folder of labels.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None

    def take(self, indices: Iterable[int]) -> "SplitFiles":
        """Return the files at `indices`, in the order of this one, so that disks read ahead."""
        chosen = sorted(indices)
        labels = None if self.labels is None else tuple(self.labels[i] for i in chosen)
        return SplitFiles(tuple(self.images[i] for i in chosen), labels)


class SegmentationDomain(Domain):
    """A domain of image files and label files.

    A subclass says which files make up a split (`_list`) and what the ids in label files mean
    (`_classes_of_ids`). Images are RGB, resized to one size (bilinear, antialiased); labels are
    resized by taking the nearest. All of a split is decoded when it is first asked for, and kept
    on disk (see `image_cache`): it takes little memory, and next time no time.

    A split whose folder of labels is absent has none: `labelled` raises `LabelsMissingError` and
    `unlabelled` works. A folder of labels that lacks some of them is an error.

    Args:
        data_root: The folder of all data sets.
        size: Height and width of images and labels; None is `default_size`.
        classes: One of `class_lists`; None is the first.
        folder: The domain's own folder; None is the one of its name in `data_root`.

    Attributes:
        default_size: Height and width, where none are asked for.
        layout: What is expected in the folder, a line each, for messages.
        remedy: How to get the data set, for messages.
        folder: The folder that is read.
        class_list: The name of the class list; empty where there are none to choose from.

    Raises:
        ValueError: There is no such class list.
    """

    problem: Problem = "segmentation"
    default_size: tuple[int, int]
    layout: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str]

    def __init__(
        self,
        data_root: Path,
        *,
        size: tuple[int, int] | None = None,
        classes: str | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(data_root)
        self.folder = folder or data_root / self.name
        self.image_shape = (3, *(size or self.default_size))
        self.class_list = self._choose_list(classes)
        self.class_names = self.class_lists.get(self.class_list, ())
        self._listed: dict[Split, SplitFiles] = {}
        self._opened: dict[Split, Stored] = {}

    def _choose_list(self, classes: str | None) -> str:
        if not self.class_lists:
            return ""
        chosen = next(iter(self.class_lists)) if classes is None else classes
        if chosen not in self.class_lists:
            raise ValueError(
                f"Domain {self.name!r} has no class list {chosen!r}."
                f"{did_you_mean(chosen, self.class_lists)} It has {', '.join(self.class_lists)}."
            )
        return chosen

    @abstractmethod
    def _list(self, split: Split) -> SplitFiles:
        """List the files of a split.

        Raises:
            DataMissingError: Files are absent.
        """

    @abstractmethod
    def _classes_of_ids(self) -> Mapping[int, int | None]:
        """Return the class, in `class_list`, of every id that label files may have."""

    def _read_ids(self, path: Path) -> np.ndarray:
        """Read a label file: integer ids `[H, W]`."""
        return read_ids(path)

    @cached_property
    def _table(self) -> LabelTable:
        return LabelTable(self._classes_of_ids())

    def read(self, split: Split, index: int) -> tuple[Image.Image, np.ndarray | None]:
        """Read one image and the class of each pixel, both in their own size.

        Args:
            split: Which part.
            index: Into its `files`.

        Returns:
            The image, RGB, and uint8 `[H, W]` with `VOID` where void; None without labels.

        Raises:
            ValueError: A file cannot be read, an id is unknown, or the two differ in size.
        """
        files = self.files(split)
        image = read_image(files.images[index])
        if files.labels is None:
            return image, None
        origin = files.labels[index]
        ids = self._read_ids(origin)
        _check_sizes(image, files.images[index], ids, origin)
        return image, self._table(ids, origin=origin)

    def labelled(self, split: Split) -> LabelledImages:
        """Return a split's images and labels; see `Domain.labelled`.

        They are mapped from a file: nobody should write to them.
        """
        if not self.class_lists or self.files(split).labels is None:
            raise LabelsMissingError(
                f"Domain {self.name!r} has no labels for its {split!r} split: there is no folder "
                f"of them in {self.folder}. Take it as a target, or get the labels."
            )
        images = self._open(split).images
        assert isinstance(images, LabelledImages)
        return images

    def unlabelled(self, split: Split) -> UnlabelledImages:
        """Return a split's images, without labels even where the domain has them."""
        images = self._open(split).images
        return images.without_labels() if isinstance(images, LabelledImages) else images

    def files(self, split: Split) -> SplitFiles:
        """Return the files of a split, undecoded.

        Raises:
            DataMissingError: Files are absent.
            ValueError: There is no such split, or two files claim to be the same image.
        """
        check_split(split)
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def _open(self, split: Split) -> Stored:
        if split not in self._opened:
            stored = open_or_build(self._recipe(split))
            self._opened[split] = stored
            self._log(split, stored)
        return self._opened[split]

    def _recipe(self, split: Split) -> Recipe:
        files, size = self.files(split), self.image_shape[1:]
        classes = {} if files.labels is None else self._classes_of_ids()

        def decode(index: int) -> Decoded:
            image, labels = self.read(split, index)
            resized = None if labels is None else resize_labels(labels, size)
            return resize_image(image, size), resized

        content = {
            "files": [_identity(path, self.folder) for path in files.images + (files.labels or ())],
            "classes": list(classes.items()),
            "size": size,
        }
        return Recipe(
            title=f"{self.name} {split}",
            content=json.dumps(content),
            count=len(files.images),
            shape=self.image_shape,
            labelled=files.labels is not None,
            decode=decode,
        )

    def _log(self, split: Split, stored: Stored) -> None:
        _, height, width = self.image_shape
        _LOG.info("%s %s: %d images, %d×%d", self.name, split, len(stored.images), height, width)
        if stored.pixels:
            counts = [*stored.pixels[: len(self.class_names)], stored.pixels[VOID]]
            shares = (
                f"{name} {100 * count / sum(counts):.1f}"
                for name, count in zip((*self.class_names, "void"), counts, strict=True)
            )
            _LOG.info("%s %s: %% of pixels: %s", self.name, split, ", ".join(shares))

    def _missing(self, folder: Path) -> DataMissingError:
        """Return the error that says what is expected, what was found, and what to do."""
        looked = dict.fromkeys([self.folder, *_up_to(folder, self.folder)])
        lines = [
            f"The files of {self.name!r} are not there.",
            f"Expected in {self.folder}:",
            *(f"  {line}" for line in self.layout),
            "Found:",
            *(f"  {each}: {listing(each)}" for each in looked),
            f"To get them: {self.remedy}",
        ]
        return DataMissingError("\n".join(lines))

    def _carve(self, whole: SplitFiles, *, held_out: int, test: int = 0) -> dict[Split, SplitFiles]:
        """Make three of one: the first of `fixed_permutation` are held out, the next test.

        Raises:
            DataMissingError: Nothing is left to train on.
        """
        count, kept = len(whole.images), held_out + test
        if count <= kept:
            raise DataMissingError(
                f"Of the images of {self.name!r}, {held_out} are held out and {test} test, so more "
                f"than {kept} are needed, but {self.folder} has {count}. To get more: {self.remedy}"
            )
        order = fixed_permutation(count).tolist()
        return {
            "held_out": whole.take(order[:held_out]),
            "test": whole.take(order[held_out:kept]),
            "train": whole.take(order[kept:]),
        }

    def _pair(
        self,
        images: Path,
        labels: Path,
        *,
        image_ending: str | None = None,
        label_ending: str = ".png",
        leave_out: frozenset[str] = frozenset(),
    ) -> SplitFiles:
        """List the images of one folder and the labels of another that go with them.

        An image and its label have one path, relative to their folders, up to the endings.

        Args:
            images: Folder of the images, or of folders of images.
            labels: Folder of the labels; where it is absent, there are none.
            image_ending: How the images' names end; None is any image's suffix.
            label_ending: How the labels' names end.
            leave_out: What is not used, relative and without ending.

        Raises:
            DataMissingError: There is no image, or an image lacks a label, or a label an image.
            ValueError: Two files claim to be the same image.
        """
        found = _by_stem(images, image_ending)
        if not found:
            raise self._missing(images)
        of_images = {stem: path for stem, path in found.items() if stem not in leave_out}
        if not labels.is_dir():
            return SplitFiles(tuple(of_images.values()), None)
        of_labels = _by_stem(labels, label_ending)
        no_label = [f"{stem}{label_ending}" for stem in found.keys() - of_labels.keys() - leave_out]
        no_image = [f"{stem}{label_ending}" for stem in of_labels.keys() - found.keys() - leave_out]
        if no_label or no_image:
            raise DataMissingError(
                f"Every image of {self.name!r} in {images} has a label in {labels}, and every "
                f"label an image.{_told('Labels that are absent', no_label)}"
                f"{_told('Labels whose image is absent', no_image)}\nGet what is absent, or remove "
                f"what is alone; without the folder {labels}, the images are used as unlabelled."
            )
        return SplitFiles(tuple(of_images.values()), tuple(of_labels[stem] for stem in of_images))


class OneFolderDomain(SegmentationDomain):
    """A data set that is published in one part: three splits are made of it.

    By `fixed_permutation`, the first `held_out_size` images are held out, the next `test_size`
    test, and the rest train.

    Attributes:
        images: The folder of the images, in the domain's folder.
        labels: The folder of the labels.
        held_out_size: How many images are held out.
        test_size: How many test.
        faulty: Names, without suffix, of published images that cannot be used.
    """

    images: ClassVar[str]
    labels: ClassVar[str]
    held_out_size: ClassVar[int]
    test_size: ClassVar[int]
    faulty: ClassVar[frozenset[str]] = frozenset()

    def _list(self, split: Split) -> SplitFiles:
        whole = self._pair(
            self.folder / self.images, self.folder / self.labels, leave_out=self.faulty
        )
        return self._carve(whole, held_out=self.held_out_size, test=self.test_size)[split]


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name; none if there is no such folder."""
    return list(_by_stem(folder, None).values())


def _check_sizes(image: Image.Image, of_image: Path, ids: np.ndarray, of_label: Path) -> None:
    height, width = ids.shape
    if image.size != (width, height):
        raise ValueError(
            f"A label is as large as its image, but {of_label} is {width}×{height} and {of_image} "
            f"is {image.size[0]}×{image.size[1]} (width×height). Get both again, or remove both."
        )


def _by_stem(folder: Path, ending: str | None) -> dict[str, Path]:
    """Return the files in a folder and below, sorted, by relative path without their ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix if ending is None else ending
        fits = suffix.lower() in _IMAGE_SUFFIXES if ending is None else True
        if not (fits and path.name.lower().endswith(suffix.lower())) or path.name.startswith("."):
            continue
        stem = path.relative_to(folder).as_posix()[: -len(suffix)]
        if stem in found:
            raise ValueError(
                f"An image's name is its own, but {found[stem]} and {path} differ in their suffix "
                "alone. Remove or rename one."
            )
        found[stem] = path
    return found


def _identity(path: Path, folder: Path) -> list[str | int]:
    """Return what tells whether a file is still the same, without reading it."""
    facts = path.stat()
    return [path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns]


def _up_to(folder: Path, top: Path) -> list[Path]:
    """Return the folders from below `top` down to `folder`, as far as they exist."""
    between = [each for each in (folder, *folder.parents) if top in each.parents]
    return [each for each in reversed(between) if each.is_dir()]


def _told(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"\n{what} ({len(names)}): {', '.join(first_ten(sorted(names)))}"
