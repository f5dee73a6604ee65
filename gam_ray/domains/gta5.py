"""GTA5: street scenes of a computer game, the usual synthetic source."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from gam_ray.domains.label_files import read_coloured_ids
from gam_ray.domains.registry import register_domain
from gam_ray.domains.segmentation import OneFolderDomain
from gam_ray.domains.street_classes import CITYSCAPES_IDS, CLASS_LISTS, cityscapes_classes


@register_domain("gta5")
class Gta5(OneFolderDomain):
    """Playing for Data (Richter, Vineet, Roth, Koltun, ECCV 2016): 24,966 frames, 1914×1052.

    23,964 train, 500 held out, 500 test; any of the ten archives may be left out. Frames 15188 and
    17705 are not used: in the published set their labels are of another size.

    Labels are PNGs of ids 0-34 (with the palette, as published, or grey), or in Cityscapes'
    colours. In colours, two ids cannot be told from others: licence plates are car then, and pole
    groups pole.
    """

    default_size = (512, 1024)
    class_lists = CLASS_LISTS
    images = "images"
    labels = "labels"
    held_out_size = 500
    test_size = 500
    faulty = frozenset({"15188", "17705"})
    layout: ClassVar[tuple[str, ...]] = (
        "images/00001.png, … (24,966 with all ten archives)",
        "labels/00001.png, … (of the same names)",
    )
    remedy: ClassVar[str] = (
        "download the archives of images and labels from "
        "https://download.visinf.tu-darmstadt.de/data/from_games/ (for research and education; "
        "read the terms there) and unpack them there; or name the folder that has gta5, by "
        "--data-root or by the environment variable GAM_RAY_DATA."
    )

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return cityscapes_classes(self.class_list)

    def _read_ids(self, path: Path) -> np.ndarray:
        return read_coloured_ids(path, _ID_OF_COLOUR)


# Where ids share a colour, the first: of licence plate and car, and of pole group and pole, that
# is the one that has a class.
_ID_OF_COLOUR = {colour: id_ for id_, (_, colour) in sorted(CITYSCAPES_IDS.items(), reverse=True)}
