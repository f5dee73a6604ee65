"""A picture of some images of both folders, to see that they are what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from gam_ray.domains.image_files import upright
from gam_ray.domains.label_files import read_ids
from gam_ray.domains.survey import Sample, Survey
from gam_ray.drafting.folders import FolderPair

SIDE, MARGIN, LINE = 112, 8, 16
LONGEST_CAPTION = 16
# Okabe and Ito's colours, which colour-blind readers can tell apart.
PALETTE = np.array(
    [
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [0, 114, 178],
        [213, 94, 0],
        [204, 121, 167],
    ],
    dtype=np.uint8,
)


def sample_sheet(pair: FolderPair) -> Image.Image:
    """Samples of the source in the first row, of the target in the second.

    Labels of pixels lie over the right half of their image.
    """
    rows = [("source", pair.source), ("target", pair.target)]
    columns = max(len(survey.samples) for _, survey in rows)
    height = SIDE + 2 * LINE + MARGIN
    sheet = Image.new("RGB", (MARGIN + columns * (SIDE + MARGIN), 2 * height + MARGIN), "white")
    for number, (side, survey) in enumerate(rows):
        _draw_row(sheet, MARGIN + number * height, side, survey)
    return sheet


def _draw_row(sheet: Image.Image, top: int, side: str, survey: Survey) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, top), f"{side}: {survey.images} images", fill="black")
    for column, sample in enumerate(survey.samples):
        left = MARGIN + column * (SIDE + MARGIN)
        tile = ImageOps.pad(_tile(sample), (SIDE, SIDE), color="lightgrey")
        sheet.paste(tile, (left, top + LINE))
        caption = _plain(sample.class_name or "")
        pen.text((left, top + LINE + SIDE), caption, fill="black")


def _tile(sample: Sample) -> Image.Image:
    image = upright(sample.image).convert("RGB")
    if sample.labels is None:
        return image
    ids = read_ids(sample.labels).astype(np.int64)
    overlay = Image.fromarray(PALETTE[ids % len(PALETTE)])
    half = Image.new("L", image.size, 0)
    half.paste(160, (image.width // 2, 0, image.width, image.height))
    return Image.composite(overlay, image, half)


def _plain(text: str) -> str:
    """What Pillow's own font can draw, shortened."""
    drawn = text.encode("latin-1", "replace").decode("latin-1")
    return drawn if len(drawn) <= LONGEST_CAPTION else f"{drawn[: LONGEST_CAPTION - 3]}..."


def save_sheet(pair: FolderPair, file: Path) -> None:
    """Write `sample_sheet` as a PNG."""
    sample_sheet(pair).save(file, format="PNG")
