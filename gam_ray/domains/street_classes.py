"""The classes of street scenes: lists by name, and the ids that data sets write for them.

Lists:

- `cityscapes-19`: the 19 classes that Cityscapes evaluates (its train ids, in their order).
- `synthia-16` and `synthia-13`: those of the 19 that SYNTHIA → Cityscapes is scored on; 16 leaves
  out terrain, truck and train, 13 wall, fence and pole as well.
- `camvid-11`: the 11 classes of CamVid as SegNet groups them.

A pixel of a class that a list does not have is void.
"""

from collections.abc import Mapping
from types import MappingProxyType

Colour = tuple[int, int, int]

CITYSCAPES_19 = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
SYNTHIA_16 = tuple(name for name in CITYSCAPES_19 if name not in {"terrain", "truck", "train"})
SYNTHIA_13 = tuple(name for name in SYNTHIA_16 if name not in {"wall", "fence", "pole"})
CAMVID_11 = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

CLASS_LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cityscapes-19": CITYSCAPES_19,
        "synthia-16": SYNTHIA_16,
        "synthia-13": SYNTHIA_13,
        "camvid-11": CAMVID_11,
    }
)

CITYSCAPES_IDS: Mapping[int, tuple[str, Colour]] = MappingProxyType(
    {
        0: ("unlabeled", (0, 0, 0)),
        1: ("ego vehicle", (0, 0, 0)),
        2: ("rectification border", (0, 0, 0)),
        3: ("out of roi", (0, 0, 0)),
        4: ("static", (0, 0, 0)),
        5: ("dynamic", (111, 74, 0)),
        6: ("ground", (81, 0, 81)),
        7: ("road", (128, 64, 128)),
        8: ("sidewalk", (244, 35, 232)),
        9: ("parking", (250, 170, 160)),
        10: ("rail track", (230, 150, 140)),
        11: ("building", (70, 70, 70)),
        12: ("wall", (102, 102, 156)),
        13: ("fence", (190, 153, 153)),
        14: ("guard rail", (180, 165, 180)),
        15: ("bridge", (150, 100, 100)),
        16: ("tunnel", (150, 120, 90)),
        17: ("pole", (153, 153, 153)),
        18: ("polegroup", (153, 153, 153)),
        19: ("traffic light", (250, 170, 30)),
        20: ("traffic sign", (220, 220, 0)),
        21: ("vegetation", (107, 142, 35)),
        22: ("terrain", (152, 251, 152)),
        23: ("sky", (70, 130, 180)),
        24: ("person", (220, 20, 60)),
        25: ("rider", (255, 0, 0)),
        26: ("car", (0, 0, 142)),
        27: ("truck", (0, 0, 70)),
        28: ("bus", (0, 60, 100)),
        29: ("caravan", (0, 0, 90)),
        30: ("trailer", (0, 0, 110)),
        31: ("train", (0, 80, 100)),
        32: ("motorcycle", (0, 0, 230)),
        33: ("bicycle", (119, 11, 32)),
        34: ("license plate", (0, 0, 142)),
    }
)
"""Cityscapes' label ids, with its colours. Cityscapes itself writes no id for licence plates; the
GTA5 data set gives them 34."""

SYNTHIA_IDS: Mapping[int, str] = MappingProxyType(
    {
        0: "void",
        1: "sky",
        2: "building",
        3: "road",
        4: "sidewalk",
        5: "fence",
        6: "vegetation",
        7: "pole",
        8: "car",
        9: "traffic sign",
        10: "person",
        11: "bicycle",
        12: "motorcycle",
        13: "parking slot",
        14: "road work",
        15: "traffic light",
        16: "terrain",
        17: "rider",
        18: "truck",
        19: "bus",
        20: "train",
        21: "wall",
        22: "lane marking",
    }
)
"""SYNTHIA-RAND-CITYSCAPES's ids, by the names that Cityscapes has for them. Lane markings are void,
as in the literature."""

_IN_CAMVID = {
    "road": "road",
    "sidewalk": "pavement",
    "building": "building",
    "wall": "building",
    "fence": "fence",
    "pole": "pole",
    "traffic light": "sign",
    "traffic sign": "sign",
    "vegetation": "tree",
    "terrain": "pavement",
    "sky": "sky",
    "person": "pedestrian",
    "rider": "bicyclist",
    "car": "car",
    "truck": "car",
    "bus": "car",
    "train": "car",
    "motorcycle": "bicyclist",
    "bicycle": "bicyclist",
}


def classes_of_ids(names: Mapping[int, str], class_list: str) -> dict[int, int | None]:
    """Return the class of each id in one of `CLASS_LISTS`; None is void.

    Args:
        names: Cityscapes' name of each id, or CamVid's for `camvid-11`.
        class_list: The list's name.
    """
    classes = CLASS_LISTS[class_list]
    wanted = {
        id_: _IN_CAMVID.get(name, name) if class_list == "camvid-11" else name
        for id_, name in names.items()
    }
    return {id_: classes.index(name) if name in classes else None for id_, name in wanted.items()}


def cityscapes_classes(class_list: str) -> dict[int, int | None]:
    """Return the class of each of Cityscapes' label ids in one of `CLASS_LISTS`; None is void.

    For `camvid-11`, wall is building, terrain is pavement, traffic lights and signs are sign,
    every vehicle with four wheels or more is car, and every rider and cycle is bicyclist.
    """
    return classes_of_ids({id_: name for id_, (name, _) in CITYSCAPES_IDS.items()}, class_list)
