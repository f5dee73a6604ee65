"""A folder of one's own images, with or without labels of their pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from gam_ray.domains.base import SPLITS, VOID, Split
from gam_ray.domains.label_files import read_image
from gam_ray.domains.registry import argument_path, register_domain
from gam_ray.domains.segmentation import SegmentationDomain, SplitFiles, list_images
from gam_ray.domains.street_classes import CLASS_LISTS

_NAMES = "classes.txt"
_HELD_OUT_SHARE = 10


@register_domain("segmentation-folder")
class SegmentationFolder(SegmentationDomain):
    """A folder of one's own: `segmentation-folder:PATH`.

    It has, for each split, `<split>/images/*` and `<split>/labels/*.png` of the same names, and
    `classes.txt` with a class name a line. A label is the class's line, from 0, or 255 for void.
    Without `held_out`, a tenth of `train` (at least one image) is held out by `fixed_permutation`.
    A folder without splits may have `images/*` and `labels/*.png`, or images alone: a tenth is
    held out, a tenth test, and the rest train. `masks` is another name for `labels`.

    Labels may be absent, and `classes.txt` with them: then it is a target alone, `test` may be
    absent too, and any `classes` will do.

    Its class list is called `folder`. Where the names are those of a known list, such as
    `cityscapes-19`, in its order, it is that list too, and goes together with domains that have it.

    Args:
        data_root: Where PATH starts, unless it is absolute.
        argument: PATH.
        size: Height and width of images and labels; None is that of the first training image.
        classes: `folder`, or the known list that has the same names.

    Raises:
        DataMissingError: There are no training images, or labels but no `classes.txt`.
        ValueError: `classes.txt` names no class, or one twice, or too many.
    """

    layout: ClassVar[tuple[str, ...]] = (
        "train/images/*.png (or other images)",
        "held_out/images/* (where it is absent, a tenth of train is held out)",
        "test/images/* (needed with labels alone)",
        "{train,held_out,test}/labels/*.png (of the same names; 0, 1, … and 255 for void)",
        "or images/* and labels/*.png alone, of which three splits are made",
        "or, for a target without labels, images alone",
        f"{_NAMES} (a class name a line, that of label 0 first; not needed without labels)",
    )
    remedy: ClassVar[str] = (
        "put your images there, as above; or write another PATH in segmentation-folder:PATH, "
        "absolute or from the data root."
    )

    def __init__(
        self,
        data_root: Path,
        *,
        argument: str,
        size: tuple[int, int] | None = None,
        classes: str | None = None,
    ) -> None:
        self.name = f"{self.name}:{argument}"
        self.folder = argument_path(data_root, argument)
        self.class_lists = self._read_lists()
        self.default_size = size or self._size_of_first()
        super().__init__(data_root, size=size, classes=classes, folder=self.folder)

    def _read_lists(self) -> dict[str, tuple[str, ...]]:
        if not any(_labels_of(part).is_dir() for part in (self.folder, *self._split_folders())):
            return {}
        file = self.folder / _NAMES
        if not file.is_file():
            raise self._missing(self.folder)
        names = _read_names(file)
        same = {name: known for name, known in CLASS_LISTS.items() if known == names}
        return {"folder": names, **same}

    def _split_folders(self) -> list[Path]:
        return [self.folder / split for split in SPLITS]

    @property
    def _has_splits(self) -> bool:
        return any(part.is_dir() for part in self._split_folders())

    def _size_of_first(self) -> tuple[int, int]:
        folder = self._images_of(self.folder / "train" if self._has_splits else self.folder)
        images = list_images(folder)
        if not images:
            raise self._missing(folder)
        width, height = read_image(images[0]).size
        return height, width

    def _images_of(self, part: Path) -> Path:
        """Where a part's images are; a folder without splits may hold them itself."""
        images = part / "images"
        return images if self._has_splits or images.is_dir() else part

    def _list(self, split: Split) -> SplitFiles:
        if not self._has_splits:
            whole = self._list_part(self.folder)
            tenth = max(1, len(whole.images) // _HELD_OUT_SHARE)
            return self._carve(whole, held_out=tenth, test=tenth)[split]
        held_out_apart = (self.folder / "held_out").is_dir()
        if split == "test" or held_out_apart:
            return self._list_part(self.folder / split)
        train = self._list_part(self.folder / "train")
        held_out = max(1, len(train.images) // _HELD_OUT_SHARE)
        return self._carve(train, held_out=held_out)[split]

    def _list_part(self, part: Path) -> SplitFiles:
        return self._pair(self._images_of(part), _labels_of(part))

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return {**{index: index for index in range(len(self.class_names))}, VOID: None}


def _labels_of(part: Path) -> Path:
    """Return the folder of a part's labels, which may be absent."""
    masks = part / "masks"
    return masks if masks.is_dir() and not (part / "labels").is_dir() else part / "labels"


def _read_names(file: Path) -> tuple[str, ...]:
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not 0 < len(names) <= VOID:
        raise ValueError(
            f"{file} has a class name a line, 1 to {VOID} of them and none twice, but it has "
            f"{len(names)}" + (f", and twice: {', '.join(twice)}. " if twice else ". ") + "Mend it."
        )
    return tuple(names)
