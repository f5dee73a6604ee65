"""Cityscapes: driving in 50 cities, the usual real target."""

from collections.abc import Mapping
from typing import ClassVar

from gam_ray.domains.base import Split
from gam_ray.domains.registry import register_domain
from gam_ray.domains.segmentation import SegmentationDomain, SplitFiles
from gam_ray.domains.street_classes import CLASS_LISTS, cityscapes_classes


@register_domain("cityscapes")
class Cityscapes(SegmentationDomain):
    """Cityscapes (Cordts et al., CVPR 2016), fine annotations, 2048×1024.

    2,675 train and 300 held out of its 2,975, by `fixed_permutation`; test is its `val` of 500,
    because the labels of its own test part are not public.
    """

    default_size = (512, 1024)
    class_lists = CLASS_LISTS
    held_out_size: ClassVar[int] = 300
    layout: ClassVar[tuple[str, ...]] = (
        "leftImg8bit/{train,val}/<city>/<city>_*_leftImg8bit.png (2,975 and 500)",
        "gtFine/{train,val}/<city>/<city>_*_gtFine_labelIds.png",
    )
    remedy: ClassVar[str] = (
        "register at https://www.cityscapes-dataset.com, accept its licence (research, no "
        "commercial use), download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip and "
        "unpack both there; or name the folder that has cityscapes, by --data-root or by the "
        "environment variable GAM_RAY_DATA."
    )

    def _list(self, split: Split) -> SplitFiles:
        if split == "test":
            return self._list_part("val")
        return self._carve(self._list_part("train"), held_out=self.held_out_size)[split]

    def _list_part(self, part: str) -> SplitFiles:
        return self._pair(
            self.folder / "leftImg8bit" / part,
            self.folder / "gtFine" / part,
            image_ending="_leftImg8bit.png",
            label_ending="_gtFine_labelIds.png",
        )

    def _classes_of_ids(self) -> Mapping[int, int | None]:
        return cityscapes_classes(self.class_list)
