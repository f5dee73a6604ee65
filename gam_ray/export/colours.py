"""A colour for each class of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence

from gam_ray.domains.street_classes import CITYSCAPES_IDS, Colour

_OF_STREETS = {name: colour for name, colour in CITYSCAPES_IDS.values() if any(colour)}


def class_colours(class_names: Sequence[str]) -> tuple[Colour, ...]:
    """A colour a class: Cityscapes' where it has all of the classes, else those of PASCAL VOC."""
    if all(name in _OF_STREETS for name in class_names):
        return tuple(_OF_STREETS[name] for name in class_names)
    return tuple(_voc_colour(index) for index in range(1, len(class_names) + 1))


def _voc_colour(index: int) -> Colour:
    """The bits of an index, spread over three channels, the lowest first and strongest."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    )
    return red, green, blue
