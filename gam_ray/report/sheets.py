"""Small pictures of single trials, for MLflow: sheets of images, tables of counts, distances.

Drawn with Pillow alone, in milliseconds and by any thread: Matplotlib would take a study's process
seconds for forty trials. What colour says, figures say as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

MARGIN, GAP = 12, 8
TEXT, SMALL = 13, 11
LINE, SMALL_LINE = 18, 15
# Pixels of the longer side of what is shown.
TILE, FRAME = 84, 320
COLUMNS = 8
MOST_CLASSES = 30
"""Classes that one table shows: of more, those that the largest counts off its diagonal have."""

INK, MUTED, RULE, PAPER = (27, 31, 36), (87, 96, 106), (208, 215, 222), (255, 255, 255)
# Okabe and Ito's, as in the report.
BEFORE, AFTER = (0, 114, 178), (213, 94, 0)


@dataclass(frozen=True)
class Shown:
    """An image and what is said of it.

    Attributes:
        image: uint8 [C, H, W] in 0-255; of other than three channels the first is shown.
        caption: A few words.
    """

    image: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Segmented:
    """A frame and what a network says of it.

    Attributes:
        image: uint8 [C, H, W] in 0-255.
        mask: uint8 [H, W], class of each pixel.
        confidence: uint8 [H, W], probability of that class times 255.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8]


@dataclass(frozen=True)
class Distance:
    """How far apart a layer's activations on both domains are, before and after adaptation."""

    layer: str
    before: float
    after: float
    is_matched: bool


def draw_samples(title: str, groups: Sequence[tuple[str, Sequence[Shown]]]) -> Image.Image:
    """Images with captions, in groups below each other.

    Args:
        title: The first line.
        groups: Heading and images of each.
    """
    cell = (TILE + GAP, TILE + 2 * SMALL_LINE + GAP)
    rows = [-(-len(shown) // COLUMNS) for _, shown in groups]
    height = LINE + sum(LINE + row * cell[1] for row in rows)
    sheet, pen = _paper(COLUMNS * cell[0] - GAP, height)
    pen.text((MARGIN, MARGIN), title, fill=INK, font=_font(TEXT))
    top = MARGIN + LINE
    for (heading, shown), row in zip(groups, rows, strict=True):
        pen.text((MARGIN, top), heading, fill=MUTED, font=_font(TEXT))
        for number, each in enumerate(shown):
            left = MARGIN + number % COLUMNS * cell[0]
            place = (left, top + LINE + number // COLUMNS * cell[1])
            sheet.paste(_tile(each.image, TILE), place)
            _caption(pen, (left, place[1] + TILE), each.caption)
        top += LINE + row * cell[1]
    return sheet


def draw_masks(
    title: str, frames: Sequence[Segmented], names: Sequence[str], colours: Sequence[Colour]
) -> Image.Image:
    """Frames in rows: image, prediction in colours, and how sure it is; a key to the colours.

    Args:
        title: The first line.
        frames: At least one, all of one size.
        names: Of the classes.
        colours: Of the classes.
    """
    tiles = [
        [
            _tile(frame.image, FRAME),
            _tile(coloured(frame.mask, colours), FRAME, smooth=False),
            _tile(frame.confidence[None], FRAME),
        ]
        for frame in frames
    ]
    width, height = tiles[0][0].size
    key = _rows_of_key(names, 3 * width + 2 * GAP)
    total = 2 * LINE + len(tiles) * (height + GAP) + len(key) * LINE
    sheet, pen = _paper(3 * width + 2 * GAP, total)
    pen.text((MARGIN, MARGIN), title, fill=INK, font=_font(TEXT))
    for column, name in enumerate(("image", "prediction", "confidence: white is sure")):
        place = (MARGIN + column * (width + GAP), MARGIN + LINE)
        pen.text(place, name, fill=MUTED, font=_font(SMALL))
    for row, parts in enumerate(tiles):
        for column, part in enumerate(parts):
            place = (MARGIN + column * (width + GAP), MARGIN + 2 * LINE + row * (height + GAP))
            sheet.paste(part, place)
    top = MARGIN + 2 * LINE + len(tiles) * (height + GAP)
    for number, line in enumerate(key):
        _draw_key(pen, top + number * LINE, line, names, colours)
    return sheet


def draw_counts(
    title: str, counts: NDArray[np.int64], names: Sequence[str], *, rows: str, columns: str
) -> Image.Image:
    """A table of counts, each cell as dark as its share of its row.

    Args:
        title: The first line.
        counts: [C, C], at least 0.
        names: Of the classes.
        rows: What a row is.
        columns: What a column is.
    """
    shown = _telling(counts)
    labels = [_short(names[index]) for index in shown]
    if len(shown) < len(counts):
        title = f"{title}; {len(shown)} of {len(counts)} classes, those with most of it"
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(34, max(_width(str(value), SMALL) for value in counts.ravel()) + 8)
    left = MARGIN + max(_width(label, SMALL) for label in labels) + GAP
    top = MARGIN + 2 * LINE + max(_width(label, SMALL) for label in labels) + 2 * GAP
    sheet, pen = _paper(
        max(left - MARGIN + side * len(shown), _width(title, TEXT), _width(rows, SMALL) + 200),
        top - MARGIN + side * len(shown),
    )
    pen.text((MARGIN, MARGIN), title, fill=INK, font=_font(TEXT))
    said = f"rows: {rows}; columns: {columns}"
    pen.text((MARGIN, MARGIN + LINE), said, fill=MUTED, font=_font(SMALL))
    for place, label in enumerate(labels):
        middle = place * side + side // 2
        where = (left - GAP, top + middle)
        pen.text(where, label, fill=INK, font=_font(SMALL), anchor="rm")
        _upright(sheet, (left + middle, top - GAP), label)
    for row, first in enumerate(shown):
        for column, second in enumerate(shown):
            corner = (left + column * side, top + row * side)
            _cell(pen, corner, side, int(counts[first, second]), float(shares[first, second]))
    return sheet


def draw_distances(title: str, distances: Sequence[Distance]) -> Image.Image:
    """A row a layer: from the distance before adaptation to that after it, on one scale."""
    names = [f"{each.layer} *" if each.is_matched else each.layer for each in distances]
    left = MARGIN + max(_width(name, SMALL) for name in names) + GAP
    scale, wide = max(max(e.before, e.after) for e in distances) or 1.0, 380
    sheet, pen = _paper(left - MARGIN + wide + 130, 2 * LINE + LINE * len(distances))
    pen.text((MARGIN, MARGIN), title, fill=INK, font=_font(TEXT))
    said = "square: source network on the target; disc: adapted network; * matched adversarially"
    pen.text((MARGIN, MARGIN + LINE), said, fill=MUTED, font=_font(SMALL))
    for row, (name, each) in enumerate(zip(names, distances, strict=True)):
        middle = MARGIN + int(2.5 * LINE) + row * LINE
        pen.text((left - GAP, middle), name, fill=INK, font=_font(SMALL), anchor="rm")
        before, after = (left + round(wide * v / scale) for v in (each.before, each.after))
        pen.line((left, middle, left + wide, middle), fill=RULE)
        pen.line((before, middle, after, middle), fill=MUTED, width=2)
        pen.rectangle((before - 4, middle - 4, before + 4, middle + 4), outline=BEFORE, width=2)
        pen.ellipse((after - 4, middle - 4, after + 4, middle + 4), fill=AFTER)
        figures = f"{each.before:.2f} → {each.after:.2f}"
        pen.text((left + wide + 14, middle), figures, fill=INK, font=_font(SMALL), anchor="lm")
    return sheet


def coloured(mask: NDArray[np.uint8], colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """A mask [H, W] of classes as an image [3, H, W]."""
    painted: NDArray[np.uint8] = np.array(colours, np.uint8)[mask].transpose(2, 0, 1)
    return painted


def picture_of(image: NDArray[np.uint8]) -> Image.Image:
    """An image [C, H, W] as Pillow's; of other than three channels the first."""
    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _paper(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def _tile(image: NDArray[np.uint8], side: int, *, smooth: bool = True) -> Image.Image:
    """An image brought to a side: a smaller one in whole steps, so that its pixels are seen."""
    picture = picture_of(image)
    ratio = side / max(picture.size)
    ratio = float(int(ratio)) if ratio > 2 else ratio
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    pick = Image.Resampling.NEAREST if ratio > 1 or not smooth else Image.Resampling.BOX
    return picture.resize(size, pick).convert("RGB")


def _caption(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Two lines of small text, no wider than a tile."""
    for number, line in enumerate(text.split("\n")[:2]):
        where = (place[0], place[1] + 2 + number * SMALL_LINE)
        pen.text(where, _fitting(line, TILE), fill=INK, font=_font(SMALL))


def _fitting(text: str, width: int) -> str:
    while _width(text, SMALL) > width and len(text) > 1:
        text = f"{text.rstrip('…')[:-1]}…"
    return text


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _telling(counts: NDArray[np.int64]) -> list[int]:
    """Indices of the classes to show, in order."""
    off = counts - np.diag(np.diag(counts))
    most = np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES]
    return sorted(int(index) for index in most)


def _cell(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], side: int, count: int, share: float
) -> None:
    colour = tuple(round(255 + (dark - 255) * share) for dark in BEFORE)
    box = (*corner, corner[0] + side - 1, corner[1] + side - 1)
    pen.rectangle(box, fill=colour, outline=RULE)
    if count:
        middle = (corner[0] + side // 2, corner[1] + side // 2)
        ink = PAPER if share > 0.55 else INK
        pen.text(middle, str(count), fill=ink, font=_font(SMALL), anchor="mm")


def _upright(sheet: Image.Image, foot: tuple[int, int], text: str) -> None:
    """Text that is read from below, with its begin at `foot`."""
    strip = Image.new("RGB", (max(1, _width(text, SMALL)), SMALL_LINE), PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, fill=INK, font=_font(SMALL))
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (foot[0] - SMALL_LINE // 2, foot[1] - turned.height))


def _rows_of_key(names: Sequence[str], width: int) -> list[list[int]]:
    """Classes of each line of the key."""
    lines: list[list[int]] = [[]]
    used = 0
    for index, name in enumerate(names):
        needed = LINE + _width(_short(name), SMALL) + GAP
        if used + needed > width and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append(index)
        used += needed
    return lines


def _draw_key(
    pen: ImageDraw.ImageDraw,
    top: int,
    line: Sequence[int],
    names: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    left = MARGIN
    for index in line:
        pen.rectangle((left, top + 2, left + 12, top + 14), fill=colours[index], outline=INK)
        name = _short(names[index])
        pen.text((left + LINE, top), name, fill=INK, font=_font(SMALL))
        left += LINE + _width(name, SMALL) + GAP


def _width(text: str, size: int) -> int:
    return int(_font(size).getlength(text)) + 1


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along: Pillow's own lacks most letters."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)
