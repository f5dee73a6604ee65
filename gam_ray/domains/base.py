"""What a domain is: images by split, with or without labels."""

import difflib
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Split = Literal["train", "held_out", "test"]
"""`train` and `held_out` share the data set's training part and have no image in common;
`test` is the data set's own test part."""

SPLITS: tuple[Split, ...] = get_args(Split)

Problem = Literal["classification", "segmentation"]
"""What is to be said of an image: one class for all of it, or one for every pixel."""

Resize = Literal["pillow", "torch"]
"""What brings images to a domain's size, bilinear and antialiased: Pillow, as for image files, or
torch, as for the digits. They differ by a grey level here and there."""

VOID = 255
"""The label of a pixel that belongs to no class: it is neither trained on nor counted."""

_PERMUTATION_SEED = 2018
_LOG = logging.getLogger(__name__)
_LISTED_ENTRIES = 12


class DataMissingError(FileNotFoundError):
    """A domain's files are not where they were looked for, and could not be had."""


class LabelsMissingError(ValueError):
    """Labels were asked of a domain that has none."""


@dataclass(frozen=True, eq=False)
class UnlabelledImages:
    """Images alone, as a target domain gives them: there is no label to look at.

    Attributes:
        images: uint8 `[N, C, H, W]` in 0-255, N ≥ 1.

    Raises:
        ValueError: The images are of another type, shape or range.
    """

    images: Tensor

    def __post_init__(self) -> None:
        _check_images(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the images' shape and bytes, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _sha256(self.images)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and the class of each, or of each of their pixels.

    Attributes:
        images: uint8 `[N, C, H, W]` in 0-255, N ≥ 1.
        labels: For classification int64 `[N]`, each 0 or more. For segmentation uint8
            `[N, H, W]`, each a class index or `VOID`, and not all of them `VOID`.

    Raises:
        ValueError: Images or labels are of another type, shape or range, or differ in number.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, images=self.images)

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of both tensors' shapes and bytes, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return _sha256(self.images, self.labels)

    def take(self, indices: Tensor) -> "LabelledImages":
        """Return the images and labels at `indices` (int64 `[M]`), in that order, copied."""
        return LabelledImages(self.images[indices], self.labels[indices])

    def without_labels(self) -> UnlabelledImages:
        """Return the same images (the same memory) without their labels."""
        return UnlabelledImages(self.images)


class Domain(ABC):
    """A data set by name, in splits.

    A domain whose images have labels is a `LabelledDomain`; one that has none derives from this
    class and defines `unlabelled` alone.

    What else than `data_root` a domain's constructor takes by name, a study can say of it:
    `size`, `classes` and `argument`, each as `load_domain` describes it. What has no default must
    be said; what the constructor does not take is refused.

    Attributes:
        name: The name it was registered under (`register_domain` sets it); of a domain loaded
            with an argument, `name:argument`.
        problem: What its labels say.
        class_names: The classes' names; label k is the k-th. Empty where a domain has neither
            labels nor names: as a target it takes the source's (`load_pair` sets them).
        class_lists: Class names by the name of the list, such as `camvid-11`, in order of
            preference, where a domain's constructor lets one choose among them (`classes`).
        keeps_class_names: Whether the domain knows each label by its class's name, so that
            `class_names` may be set to a longer list, and labels are then numbered by that.
        channels: Of the images, where the domain can have them grey (1) or in colour (3) and this
            was set; None is what its files are. A domain that cannot does not `takes_channels`.
        takes_channels: Whether `channels` may be set, before the first split is asked for.
        image_shape: `(C, H, W)` of every image; known once the domain is constructed.
        resize: What brings images to that size.
    """

    name: str
    problem: Problem = "classification"
    class_names: tuple[str, ...]
    class_lists: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    keeps_class_names: bool = False
    channels: int | None = None
    takes_channels: bool = False
    image_shape: tuple[int, int, int]
    resize: Resize = "pillow"

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root

    def labelled(self, split: Split) -> LabelledImages:
        """Return a split's images and labels.

        Raises:
            LabelsMissingError: The domain has no labels.
            DataMissingError: The domain's files are absent.
            ValueError: There is no such split, or the files hold something else.
        """
        raise LabelsMissingError(
            f"Domain {self.name!r} has no labels, but those of its {split!r} split were asked for. "
            "Take it as a target without an oracle, or choose a labelled domain."
        )

    @abstractmethod
    def unlabelled(self, split: Split) -> UnlabelledImages:
        """Return a split's images, without labels even where the domain has them.

        Raises:
            DataMissingError: The domain's files are absent.
            ValueError: There is no such split, or the files hold something else.
        """


class LabelledDomain(Domain):
    """A domain whose images all have labels. A subclass says how to load them, in `_load`.

    What was loaded is kept, so that asking again for a split costs nothing.
    """

    def __init__(self, data_root: Path) -> None:
        super().__init__(data_root)
        self._loaded: dict[Split, LabelledImages] = {}

    @abstractmethod
    def _load(self, split: Split) -> Mapping[Split, LabelledImages]:
        """Load a split; those that are read along with it may be given too."""

    def labelled(self, split: Split) -> LabelledImages:
        """Return a split's images and labels; see `Domain.labelled`."""
        check_split(split)
        if split not in self._loaded:
            loaded = self._load(split)
            for part in loaded.values():
                self._check(part)
            self._loaded.update(loaded)
            for each, part in loaded.items():
                self._log(each, part)
        return self._loaded[split]

    def unlabelled(self, split: Split) -> UnlabelledImages:
        """Return the images of `labelled(split)`, without the labels."""
        return self.labelled(split).without_labels()

    def _log(self, split: Split, part: LabelledImages) -> None:
        if self.problem == "classification":
            counts = torch.bincount(part.labels, minlength=len(self.class_names)).tolist()
            by_class = dict(zip(self.class_names, counts, strict=True))
            log_split(self.name, split, part.images.shape, by_class)

    def _check(self, part: LabelledImages) -> None:
        problem = "segmentation" if part.labels.ndim == 3 else "classification"
        if problem != self.problem:
            raise ValueError(
                f"Domain {self.name!r} is one of {self.problem}, but loaded labels of {problem}: "
                f"{part.labels.dtype} {list(part.labels.shape)}. Correct its problem or its labels."
            )
        shape = tuple(part.images.shape[1:])
        if shape != self.image_shape:
            raise ValueError(
                f"Domain {self.name!r} promises images of shape {self.image_shape}, but loaded "
                f"{shape}. Correct its image_shape or resize the images as they are loaded."
            )
        largest = int(part.labels.masked_fill(_is_void(part.labels), 0).max())
        if largest >= len(self.class_names):
            raise ValueError(
                f"Domain {self.name!r} names {len(self.class_names)} classes, so its labels end at "
                f"{len(self.class_names) - 1}, but one is {largest}. Correct its class_names or "
                "map the labels as they are loaded."
            )


def check_split(split: str) -> None:
    """Raise ValueError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"A split is one of {', '.join(SPLITS)}; this one is {split!r}.")


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """Return a sentence, after a space, that offers the nearest known name; or nothing."""
    near = difflib.get_close_matches(written.lower(), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def add_to_digest(digest: "hashlib._Hash", tensor: Tensor) -> None:
    """Add a tensor to a fingerprint: its type, its shape, and its bytes."""
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(tensor.cpu().contiguous().numpy().data)


def listing(folder: Path) -> str:
    """Return the names in a folder, cut where there are many, or why it cannot be read."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"({error.strerror})"
    more = len(names) - _LISTED_ENTRIES
    listed = ", ".join(names[:_LISTED_ENTRIES]) or "(empty)"
    return f"{listed} and {more} more" if more > 0 else listed


def log_split(
    name: str, split: Split, shape: Sequence[int], by_class: Mapping[str, int] | None
) -> None:
    """Log how many images a split has, their shape, and how many there are of each class.

    Args:
        name: The domain's.
        split: Which one.
        shape: `(N, C, H, W)` of its images.
        by_class: Class name → number of images; None without labels.
    """
    count, channels, height, width = shape
    counts = ", ".join(f"{each} {number}" for each, number in (by_class or {}).items())
    _LOG.info(
        "%s %s: %d images, %d channels, %d×%d; %s",
        name,
        split,
        count,
        channels,
        height,
        width,
        "no labels" if by_class is None else f"by class: {counts}",
    )


def fixed_permutation(length: int) -> Tensor:
    """Return one permutation of 0..length-1 (int64 `[length]`), the same in every run.

    It decides which images are held out, so it is part of the data and takes no trial's seed.
    """
    # RandomState, not Generator: numpy promises never to change its stream.
    order = np.random.RandomState(_PERMUTATION_SEED).permutation(length)
    return torch.from_numpy(order.astype(np.int64))


def carve_held_out(part: LabelledImages, *, held_out: int) -> dict[Split, LabelledImages]:
    """Split a training part in two, by `fixed_permutation`.

    Args:
        part: The whole training part.
        held_out: How many images to hold out: the first ones of the permutation.

    Returns:
        `held_out` and, with the rest, `train`.

    Raises:
        ValueError: `held_out` leaves one of the two empty.
    """
    if not 0 < held_out < len(part):
        raise ValueError(
            f"From 1 to {len(part) - 1} of {len(part)} images can be held out, but {held_out} were "
            "asked for. Choose a number in that range."
        )
    order = fixed_permutation(len(part))
    return {"held_out": part.take(order[:held_out]), "train": part.take(order[held_out:])}


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            "Images are a uint8 tensor [N, C, H, W] in 0-255, but these are "
            f"{images.dtype} of shape {tuple(images.shape)}. Scale, convert and reshape them first."
        )
    if images.numel() == 0:
        raise ValueError(
            f"A set of images has at least one, but this one's shape is {tuple(images.shape)}. "
            "Check the folder or the split it was loaded from."
        )
    brightest = int(images.max())
    if brightest <= 1:
        raise ValueError(
            f"Images are in 0-255, but the brightest pixel of these is {brightest}: they look "
            "scaled to [0, 1]. Multiply by 255 before converting to uint8."
        )


def _check_labels(labels: Tensor, *, images: Tensor) -> None:
    of_images = labels.dtype == torch.int64 and labels.shape == images.shape[:1]
    of_pixels = labels.dtype == torch.uint8 and labels.shape == images[:, 0].shape
    if not (of_images or of_pixels):
        raise ValueError(
            f"Labels are an int64 tensor {list(images.shape[:1])}, one for each image, or a uint8 "
            f"tensor {list(images[:, 0].shape)}, one for each pixel, but these are {labels.dtype} "
            f"of shape {tuple(labels.shape)}. Give one class index an image or a pixel."
        )
    smallest = int(labels.min())
    if smallest < 0:
        raise ValueError(
            f"Labels are class indices from 0, but one is {smallest}. Number the classes from 0."
        )
    if of_pixels and smallest == VOID:
        raise ValueError(
            f"Some pixels have a class, but in all {len(labels)} of these images every pixel is "
            f"void ({VOID}). Check the folder of the labels and how their ids are mapped."
        )


def _is_void(labels: Tensor) -> Tensor:
    return labels == VOID if labels.dtype == torch.uint8 else torch.zeros_like(labels).bool()


def _sha256(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        add_to_digest(digest, tensor)
    return digest.hexdigest()
