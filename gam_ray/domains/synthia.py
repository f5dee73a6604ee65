"""SYNTHIA: rendered street scenes, a synthetic source with the classes of Cityscapes."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from gam_ray.domains.label_files import read_first_channel
from gam_ray.domains.registry import register_domain
from gam_ray.domains.segmentation import OneFolderDomain
from gam_ray.domains.street_classes import SYNTHIA_13, SYNTHIA_16, SYNTHIA_IDS, classes_of_ids


@register_domain("synthia")
class Synthia(OneFolderDomain):
    """SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9,400 frames, 1280×760.

    8,400 train, 500 held out, 500 test. Labels are PNGs of 16 bits, whose first channel is the
    class (0-22) and whose second is the instance. Of the 19 classes of Cityscapes, terrain, truck
    and train do not occur, so the lists are those of 16 and of 13 classes.
    """

    default_size = (512, 1024)
    class_lists: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"synthia-16": SYNTHIA_16, "synthia-13": SYNTHIA_13}
    )
    images = "RGB"
    labels = "GT/LABELS"
    held_out_size = 500
    test_size = 500
    layout: ClassVar[tuple[str, ...]] = (
        "RGB/0000000.png, … (9,400)",
        "GT/LABELS/0000000.png, … (of 16 bits, of the same names)",
    )
    remedy: ClassVar[str] = (
        "download SYNTHIA-RAND-CITYSCAPES from https://synthia-dataset.net/downloads/ (CC BY-NC-SA "
        "3.0; read the terms there), unpack it and name the folder RAND_CITYSCAPES synthia; or "
        "name the folder that has synthia, by --data-root or by the environment variable "
        "GAM_RAY_DATA."
    )

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return classes_of_ids(SYNTHIA_IDS, self.class_list)

    def _read_ids(self, path: Path) -> np.ndarray:
        return read_first_channel(path)
