"""Predictions as lines of CSV or JSON, and as colour masks."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from gam_ray.export.description import ModelDescription
from gam_ray.export.predicting import Classified, ImageFile, Prediction, Segmented, Unreadable

Row = dict[str, Any]


class PredictionTable:
    """Writes a line a prediction, as it comes.

    Args:
        stream: Where to.
        described: The model.
        as_json: JSON lines, in which an image that cannot be read has its ``error``; else CSV,
            which leaves it out.
        probabilities: Whether a classifier's line has those of all classes.
        masks: Folder of the masks of a segmentation network.
    """

    def __init__(
        self,
        stream: TextIO,
        described: ModelDescription,
        *,
        as_json: bool,
        probabilities: bool,
        masks: Path | None,
    ) -> None:
        self._stream = stream
        self._described = described
        self._as_json = as_json
        self._probabilities = probabilities
        self._masks = masks
        self._csv: csv.DictWriter[str] | None = None
        self.totals: defaultdict[str, float] = defaultdict(float)
        """Class → images, or the sum of its shares of them."""
        self.unreadable: list[Unreadable] = []

    def write(self, prediction: Prediction) -> None:
        """Write one line, and the mask if there is one.

        Raises:
            OSError: If a file cannot be written.
        """
        match prediction:
            case Unreadable():
                self.unreadable.append(prediction)
                if self._as_json:
                    self._line({"file": str(prediction.file.path), "error": prediction.reason})
            case Classified():
                self._line(self._classified(prediction))
            case Segmented():
                self._line(self._segmented(prediction))

    def _classified(self, prediction: Classified) -> Row:
        names = self._described.class_names
        name, values = names[prediction.index], prediction.probabilities.tolist()
        self.totals[name] += 1
        row = {
            "file": str(prediction.file.path),
            "class": name,
            "probability": values[prediction.index],
        }
        return row | self._by_class("probabilities", values) if self._probabilities else row

    def _segmented(self, prediction: Segmented) -> Row:
        assert self._masks is not None
        mask = mask_file(self._masks, prediction.file)
        save_mask(mask, prediction, self._described)
        shares = prediction.shares(len(self._described.class_names))
        for name, share in zip(self._described.class_names, shares, strict=True):
            self.totals[name] += share
        row = {"file": str(prediction.file.path), "mask": str(mask)}
        return row | self._by_class("shares", shares)

    def _by_class(self, what: str, values: list[float]) -> Row:
        by_class = dict(zip(self._described.class_names, values, strict=True))
        if self._as_json:
            return {what: by_class}
        return {f"{what}/{name}": value for name, value in by_class.items()}

    def _line(self, row: Row) -> None:
        if self._as_json:
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        if self._csv is None:
            self._csv = csv.DictWriter(self._stream, list(row), lineterminator="\n")
            self._csv.writeheader()
        self._csv.writerow(row)


def mask_file(masks: Path, file: ImageFile) -> Path:
    """Where the mask of an image goes: under its own name, suffix included, and ``.png``."""
    return masks / file.name.with_name(f"{file.name.name}.png")


def check_masks(masks: Path, files: Sequence[ImageFile]) -> None:
    """Raise ValueError if two images would have one mask, or a mask would replace an image."""
    by_mask: dict[Path, ImageFile] = {}
    paths = {file.path.absolute() for file in files}
    for file in files:
        mask = mask_file(masks, file)
        other = by_mask.setdefault(mask, file)
        if other is not file:
            raise ValueError(
                f"{other.path} and {file.path} would both have the mask {mask}; predict them one "
                "after the other, each with an --output of its own"
            )
        if mask.absolute() in paths:
            raise ValueError(f"the mask {mask} would replace an image; give another --output")


def save_mask(file: Path, prediction: Segmented, described: ModelDescription) -> None:
    """Write a mask as PNG: each value is a class, which the palette shows in its colour."""
    assert described.colours is not None
    image = Image.fromarray(prediction.mask)
    image.putpalette([value for colour in described.colours for value in colour])
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
