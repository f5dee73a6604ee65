"""A user's own images for classification: `image-folder:PATH`, and `unlabelled-folder:PATH`."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from gam_ray.domains.base import (
    SPLITS,
    DataMissingError,
    Domain,
    LabelledImages,
    Split,
    UnlabelledImages,
    check_split,
    fixed_permutation,
    listing,
    log_split,
)
from gam_ray.domains.image_files import (
    GREY_MODES,
    Result,
    attempt_each,
    first_ten,
    mode_of,
    to_pixels,
    upright,
    upright_size,
)
from gam_ray.domains.registry import argument_path, register_domain

_LAYOUTS = (
    "  train/CLASS/*.png and test/CLASS/*.png, and if wanted held_out/CLASS/*.png",
    "  CLASS/*.png, two classes or more, of which three splits are made",
    "  either of the two without CLASS, for a target without labels",
)
# What people call their splits. A class may be called so, too: VisDA has trains.
_SPLIT_NAMES = frozenset({*SPLITS, "dev", "eval", "training", "testing", "val", "valid"})
_SPLIT_NAMES |= {"validation", "heldout"}


@register_domain("image-folder")
class ImageFolder(Domain):
    """Images in folders that are named after their classes, or images alone.

    What is expected in the folder is one of:

    - `train/CLASS/*` and `test/CLASS/*`. With `held_out/CLASS/*` too, that is what is held out;
      else a tenth of the images of `train`, at least one, is taken out of it.
    - `CLASS/*`: a tenth, at least one, is held out, as many test, and the rest train.
    - Either of the two without the folders of the classes: then there are no labels, and the
      domain can be a target alone.

    Classes are numbered as torchvision's `ImageFolder` does it: the names sorted, and images below
    a class's folder belong to it at any depth. They are those of `train`; another split may lack
    some, but have no others. Which images are taken out is decided by `fixed_permutation` over the
    sorted paths, so that adding or removing an image changes the splits. Names that begin with a
    dot and files without an image's suffix are passed over.

    Images are grey (one channel) if the files of all splits are, and RGB otherwise, unless
    `channels` says so; transparency is dropped. They are turned as their EXIF orientation says, and
    stretched to `size` (bilinear, antialiased). A split is decoded when it is first asked for and
    then kept **in memory**, one byte a value: 30,000 images of 224x224 in colour take 4.5 GB in
    every worker process.

    Args:
        data_root: The folder of all data sets.
        argument: The folder of this one: absolute, from `~`, or in `data_root`.
        size: Height and width of the images; None is their own, if all have the same.

    Attributes:
        folder: The folder that is read.

    Raises:
        DataMissingError: There is no such folder.
        ValueError: What it holds is none of the above.
    """

    class_names: tuple[str, ...]
    keeps_class_names = True
    takes_channels = True

    def __init__(
        self, data_root: Path, *, argument: str, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(data_root)
        self.folder = argument_path(data_root, argument)
        self._size = size
        self._parts = self._list(self.folder)
        classes = {name for part in self._parts.values() for name in part.classes or ()}
        self.class_names = tuple(sorted(classes))
        self._decoded: dict[Split, UnlabelledImages] = {}

    def _list(self, folder: Path) -> dict[Split, "_Part"]:
        return _list_parts(folder)

    def files(self, split: Split) -> tuple[Path, ...]:
        """Return the files of a split's images, in their order, undecoded.

        Raises:
            ValueError: There is no such split.
        """
        check_split(split)
        return self._parts[split].paths

    def classes_of_files(self, split: Split) -> tuple[str, ...] | None:
        """Return the class of each of `files(split)`; None where there are no labels.

        Raises:
            ValueError: There is no such split.
        """
        check_split(split)
        return self._parts[split].classes

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """`(C, H, W)` of every image. The first use looks into all files.

        Raises:
            ValueError: The images have several sizes and none was given, or files are damaged.
        """
        return (self.channels or self._own_channels, *(self._size or self._own_size))

    @cached_property
    def _own_channels(self) -> int:
        return 1 if GREY_MODES.issuperset(_for_each(self._paths(), mode_of, self.folder)) else 3

    @cached_property
    def _own_size(self) -> tuple[int, int]:
        return _common_size(self._paths(), self.folder)

    def _paths(self) -> list[Path]:
        return [path for part in self._parts.values() for path in part.paths]

    def labelled(self, split: Split) -> LabelledImages:
        """Return a split's images and labels; see `Domain.labelled`."""
        check_split(split)
        classes = self._parts[split].classes
        if classes is None:
            return super().labelled(split)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        labels = torch.tensor([numbers[name] for name in classes], dtype=torch.int64)
        return LabelledImages(self.unlabelled(split).images, labels)

    def unlabelled(self, split: Split) -> UnlabelledImages:
        """Return a split's images; see `Domain.unlabelled`."""
        check_split(split)
        if split not in self._decoded:
            part = self._parts[split]
            self._decoded[split] = _decode(part.paths, self.image_shape, self.folder)
            counts = Counter(part.classes)
            by_class = {name: counts[name] for name in self.class_names} if part.classes else None
            log_split(self.name, split, self._decoded[split].images.shape, by_class)
        return self._decoded[split]


@register_domain("unlabelled-folder")
class UnlabelledFolder(ImageFolder):
    """All images of a folder and of those below it, without labels: a target alone.

    For folders that are no classes, such as days or cameras. The images become three splits as
    those of an `ImageFolder` do; names, sizes and channels are its, too.

    Raises:
        DataMissingError: There is no such folder.
        ValueError: It has fewer than three images.
    """

    def _list(self, folder: Path) -> dict[Split, "_Part"]:
        _check_is_there(folder)
        return _carve(_Part(tuple(images_below(folder)), None), ("held_out", "test"), folder)


@dataclass(frozen=True)
class _Part:
    """Some of the files, and the class of each unless there are none."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None

    def take(self, rows: Iterable[int]) -> "_Part":
        rows = list(rows)
        classes = None if self.classes is None else tuple(self.classes[row] for row in rows)
        return _Part(tuple(self.paths[row] for row in rows), classes)


def _check_is_there(folder: Path) -> None:
    if not folder.is_dir():
        raise DataMissingError(
            "An image folder is a folder of images, but there is no folder "
            f"{folder}; {folder.parent} has: {listing(folder.parent)}. Correct the path: one that "
            "is not absolute is looked for in the data root (--data-root or GAM_RAY_DATA)."
        )


def _list_parts(folder: Path) -> dict[Split, _Part]:
    _check_is_there(folder)
    folders = {each.name: each for each in _folders(folder)}
    if {"train", "test"} <= folders.keys():
        return _list_given_splits(folder, folders)
    _check_no_split_names(folder, folders)
    whole = _list_part(folder)
    _check_two_classes(folder, whole)
    return _carve(whole, ("held_out", "test"), folder)


def _list_given_splits(folder: Path, folders: Mapping[str, Path]) -> dict[Split, _Part]:
    others = [name for name in folders if name not in SPLITS] + _names(_images_in(folder))
    if others:
        raise _unexpected(
            folder,
            f"beside train and test it has {_some(others)}",
            "Move these elsewhere, or rename the folder of the images to hold out to held_out.",
        )
    parts = {split: _list_part(folders[split]) for split in SPLITS if split in folders}
    _check_two_classes(folders["train"], parts["train"])
    _check_one_kind(folder, parts)
    if "held_out" in parts:
        return parts
    return {"test": parts["test"], **_carve(parts["train"], ("held_out",), folders["train"])}


def _list_part(folder: Path) -> _Part:
    """List the images of one folder, by class where it has folders."""
    folders, images = _folders(folder), _images_in(folder)
    if folders and images:
        raise _unexpected(
            folder,
            f"it has both images ({_some(_names(images))}) and folders ({_some(_names(folders))})",
            "Move the images into the folders of their classes, or the folders elsewhere.",
        )
    if images:
        return _Part(tuple(images), None)
    by_class = {each.name: images_below(each) for each in folders}
    _check_classes(folder, by_class)
    return _Part(
        tuple(path for paths in by_class.values() for path in paths),
        tuple(name for name, paths in by_class.items() for _ in paths),
    )


def _check_classes(folder: Path, by_class: Mapping[str, list[Path]]) -> None:
    suffixes = f"An image's name ends in {', '.join(IMG_EXTENSIONS)}."
    if not by_class:
        raise _unexpected(
            folder, f"it has no image: {listing(folder)}", f"{suffixes} Check the path."
        )
    empty = [name for name, paths in by_class.items() if not paths]
    if empty:
        raise _unexpected(
            folder,
            f"there is no image in its {_some(empty)}",
            f"{suffixes} Get the images of these classes, or remove their folders.",
        )


def _check_two_classes(folder: Path, part: _Part) -> None:
    classes = set(part.classes or ())
    if len(classes) == 1:
        raise _unexpected(
            folder,
            f"its one class is {_some(classes)}",
            "Add the folder of another class; or move the images out of it, for a target without "
            "labels.",
        )


def _check_no_split_names(folder: Path, folders: Mapping[str, Path]) -> None:
    """Check that folders of classes are no splits by other names, or one alone."""
    named = [name for name in folders if name.lower() in _SPLIT_NAMES]
    if named and (len(named) == len(folders) or any(_folders(folders[name]) for name in named)):
        raise _unexpected(
            folder,
            f"its folders {_some(named)} look like splits, but train and test are not both there",
            "Rename the folders of the splits to train, test and, if wanted, held_out.",
        )


def _check_one_kind(folder: Path, parts: Mapping[Split, _Part]) -> None:
    without = [split for split, part in parts.items() if part.classes is None]
    if without and len(without) < len(parts):
        raise _unexpected(
            folder,
            f"its {_some(without)} has no folders of classes, but another split has",
            "Move the images into the folders of their classes, in all splits or in none.",
        )
    known = set(parts["train"].classes or ())
    for split, part in parts.items():
        unknown = sorted(set(part.classes or ()) - known)
        if unknown:
            raise _unexpected(
                folder,
                f"its {split} has classes that train lacks: {_some(unknown)}",
                f"Rename them to one of {', '.join(sorted(known))}, or add them to train.",
            )


def _unexpected(folder: Path, found: str, remedy: str) -> ValueError:
    lines = [
        "An image folder has one of these in it:",
        *_LAYOUTS,
        f"But of {folder}: {found}.",
        remedy,
    ]
    return ValueError("\n".join(lines))


def _carve(whole: _Part, wanted: tuple[Split, ...], folder: Path) -> dict[Split, _Part]:
    """Take a tenth for each of the wanted splits, at least one image; the rest is train."""
    count = len(whole.paths)
    if count <= len(wanted):
        raise ValueError(
            f"train and {' and '.join(wanted)} are made of the images in {folder}, one each at "
            f"least, but there are {count}. Add images."
        )
    order, size = fixed_permutation(count).tolist(), max(1, count // 10)
    parts = {split: order[i * size : (i + 1) * size] for i, split in enumerate(wanted)}
    parts["train"] = order[len(wanted) * size :]
    return {split: whole.take(rows) for split, rows in parts.items()}


def _folders(folder: Path) -> list[Path]:
    entries = (each for each in folder.iterdir() if each.is_dir())
    return sorted(each for each in entries if not each.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if _is_image(each.name) and each.is_file())


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder and of those below it, by sorted path."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def _common_size(paths: Sequence[Path], folder: Path) -> tuple[int, int]:
    sizes = _for_each(paths, upright_size, folder)
    examples = dict(zip(sizes, paths, strict=True))
    if len(examples) > 1:
        told = [
            f"{height}×{width}: {path.relative_to(folder)}"
            for (height, width), path in sorted(examples.items())
        ]
        lines = [
            f"All images of a domain have one size, but those of {folder} have {len(examples)}:",
            *(f"  {line}" for line in first_ten(told)),
            "(height×width). Give a size, to which all are stretched.",
        ]
        raise ValueError("\n".join(lines))
    return sizes[0]


def _decode(paths: Sequence[Path], shape: tuple[int, int, int], folder: Path) -> UnlabelledImages:
    images = torch.empty((len(paths), *shape), dtype=torch.uint8)
    places = dict(zip(paths, images.numpy(), strict=True))

    def decode(path: Path) -> None:
        places[path][:] = to_pixels(upright(path), shape)

    _for_each(paths, decode, folder)
    return UnlabelledImages(images)


def _for_each(paths: Sequence[Path], work: Callable[[Path], Result], folder: Path) -> list[Result]:
    """Return what `work` makes of each path, in several threads.

    Raises:
        ValueError: It failed. All failures are counted, and the first ten told.
    """
    results, faults = attempt_each(paths, work)
    if faults:
        raise ValueError(_unusable(faults, folder))
    return results


def _unusable(faults: Mapping[Path, Exception], folder: Path) -> str:
    told = [f"{path.relative_to(folder)}: {error}" for path, error in sorted(faults.items())]
    lines = [
        f"Of the images in {folder}, {len(told)} cannot be used:",
        *(f"  {line}" for line in first_ten(told)),
        "Get those again that are damaged or cut off, convert those that have more than 8 bits,",
        "or remove them.",
    ]
    return "\n".join(lines)


def _names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths]


def _some(names: Iterable[str]) -> str:
    return ", ".join(first_ten(names))
