"""Rendered street scenes: a small source for street scenes, in GTA5's layout."""

from collections.abc import Mapping
from typing import ClassVar

from gam_ray.domains.registry import register_domain
from gam_ray.domains.segmentation import OneFolderDomain
from gam_ray.domains.street_classes import CLASS_LISTS, cityscapes_classes


@register_domain("streets")
class Streets(OneFolderDomain):
    """400 rendered street scenes, 480×360: 320 train, 40 held out, 40 test.

    Labels are PNGs of Cityscapes' label ids. On CamVid's classes terrain is pavement, as sidewalk
    is; some tables leave it out. CamVid itself labels grass as tree.
    """

    default_size = (360, 480)
    class_lists = CLASS_LISTS
    images = "images"
    labels = "labels"
    held_out_size = 40
    test_size = 40
    layout: ClassVar[tuple[str, ...]] = (
        "images/*.jpg (or other images)",
        "labels/*.png (Cityscapes' label ids, of the same names)",
    )
    remedy: ClassVar[str] = (
        "put a folder of rendered scenes there; or name the folder that has it, by --data-root or "
        "by the environment variable GAM_RAY_DATA."
    )

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return cityscapes_classes(self.class_list)
