"""What is in a user's own folder of images, looked at before anything is trained on it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gam_ray.domains.base import SPLITS, VOID, DataMissingError, Problem, Split
from gam_ray.domains.image_files import GREY_MODES, attempt_each, mode_of, upright, upright_size
from gam_ray.domains.image_folder import ImageFolder
from gam_ray.domains.segmentation import SegmentationDomain


@dataclass(frozen=True)
class Sample:
    """One image, to be shown.

    Attributes:
        image: Its file.
        labels: The file of its pixels' labels, if it has one.
        class_name: Its class, if it is known and one for the whole image.
    """

    image: Path
    labels: Path | None
    class_name: str | None


@dataclass(frozen=True)
class Survey:
    """What a folder holds. Every file was decoded once.

    Attributes:
        domain: The folder's name as a study has it, such as ``image-folder:/data/photos``.
        folder: The folder.
        problem: What its labels say.
        class_names: The classes, in the order of their labels; empty without labels.
        images: How many images it has in all splits, with those that cannot be used.
        sizes: (height, width) → how many images have it.
        modes: Pillow's mode, such as ``RGB`` → how many images have it.
        value_range: The darkest and the brightest value of any channel, 0-255.
        by_class: Class → how many images, or for segmentation how many pixels, have it.
        faults: A line for each file that cannot be used, and why.
        samples: Some images, those of each class in turn.
    """

    domain: str
    folder: Path
    problem: Problem
    class_names: tuple[str, ...]
    images: int
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    value_range: tuple[int, int]
    by_class: Mapping[str, int]
    faults: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def is_grey(self) -> bool:
        """Whether all images have one channel."""
        return GREY_MODES.issuperset(self.modes)

    @property
    def median_size(self) -> tuple[int, int]:
        """Median height and width, each for itself; (0, 0) if no image can be read."""
        rows = [size for size, count in self.sizes.items() for _ in range(count)]
        if not rows:
            return 0, 0
        height, width = np.median(np.array(rows), axis=0).round().astype(int).tolist()
        return height, width

    def to_mapping(self) -> dict[str, Any]:
        """The survey as plain JSON-like data; sizes as ``HEIGHTxWIDTH``."""
        return {
            "domain": self.domain,
            "kind": self.problem,
            "images": self.images,
            "sizes": {f"{height}x{width}": n for (height, width), n in self.sizes.items()},
            "modes": dict(self.modes),
            "value_range": list(self.value_range),
            "classes": dict(self.by_class),
        }


def survey(domain: ImageFolder | SegmentationDomain, *, samples: int = 8) -> Survey:
    """Look at every image of a folder, and at every label.

    Args:
        domain: A folder's.
        samples: How many images to pick for showing.

    Raises:
        DataMissingError: Files are absent.
        ValueError: Files do not lie as they must.
    """
    listed = _listed(domain)
    looks, faults = attempt_each([each.image for each in listed], _look)
    told = [f"{path}: {error}" for path, error in faults.items()]
    by_class = Counter(each.class_name for each in listed if each.class_name is not None)
    if isinstance(domain, SegmentationDomain):
        counted, of_labels = _count_pixels(domain, set(faults))
        by_class.update(counted)
        told += of_labels
    return Survey(
        domain=domain.name,
        folder=domain.folder,
        problem=domain.problem,
        class_names=domain.class_names,
        images=len(listed),
        sizes=dict(Counter(look.size for look in looks).most_common()),
        modes=dict(Counter(look.mode for look in looks).most_common()),
        value_range=(
            min((look.darkest for look in looks), default=0),
            max((look.brightest for look in looks), default=0),
        ),
        by_class={name: by_class[name] for name in domain.class_names},
        faults=tuple(sorted(told)),
        samples=_some_of_each_class([s for s in listed if s.image not in faults], samples),
    )


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int]
    mode: str
    darkest: int
    brightest: int


def _look(path: Path) -> _Look:
    mode, size = mode_of(path), upright_size(path)
    pixels = np.asarray(upright(path).convert("L" if mode in GREY_MODES else "RGB"))
    return _Look(size, mode, int(pixels.min()), int(pixels.max()))


def _listed(domain: ImageFolder | SegmentationDomain) -> list[Sample]:
    return [sample for split in _splits(domain) for sample in _listed_of(domain, split)]


def _splits(domain: ImageFolder | SegmentationDomain) -> list[Split]:
    """Return the splits that a domain has: images of pixels without labels need no test split."""
    return [split for split in SPLITS if split != "test" or domain.class_names or _has_test(domain)]


def _has_test(domain: ImageFolder | SegmentationDomain) -> bool:
    try:
        domain.files("test")
    except DataMissingError:
        return False
    return True


def _listed_of(domain: ImageFolder | SegmentationDomain, split: Split) -> list[Sample]:
    if isinstance(domain, ImageFolder):
        paths = domain.files(split)
        classes = domain.classes_of_files(split) or (None,) * len(paths)
        return [Sample(path, None, name) for path, name in zip(paths, classes, strict=True)]
    files = domain.files(split)
    labels = files.labels or (None,) * len(files.images)
    return [Sample(path, label, None) for path, label in zip(files.images, labels, strict=True)]


def _count_pixels(domain: SegmentationDomain, damaged: set[Path]) -> tuple[Counter[str], list[str]]:
    """Count pixels by class, and say which labels cannot be used."""
    counts = np.zeros(VOID + 1, dtype=np.int64)
    told = []
    for split in _splits(domain) if domain.class_names else ():
        for index, path in enumerate(domain.files(split).images):
            if path in damaged:
                continue
            try:
                _, labels = domain.read(split, index)
            except ValueError as error:
                told.append(str(error))
                continue
            if labels is not None:
                counts += np.bincount(labels.ravel(), minlength=VOID + 1)
    by_name = dict(zip(domain.class_names, counts.tolist(), strict=False))
    return Counter(by_name), told


def _some_of_each_class(listed: list[Sample], count: int) -> tuple[Sample, ...]:
    """Return the first image of each class, then the second of each, and so on."""
    by_class: dict[str | None, list[Sample]] = {}
    for each in listed:
        by_class.setdefault(each.class_name, []).append(each)
    in_turn = [
        (place, number, sample)
        for number, group in enumerate(by_class.values())
        for place, sample in enumerate(group)
    ]
    return tuple(sample for _, _, sample in sorted(in_turn, key=lambda each: each[:2])[:count])
