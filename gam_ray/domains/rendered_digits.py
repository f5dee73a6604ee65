"""Digits drawn from TrueType fonts: a source of any size, with nothing to download.

The fonts are those that come with matplotlib and have lining digits: ten digit shapes of one height
on one line. That leaves out the fonts with nothing or with other signs in the digits' places
(LastResort, cmex10, cmsy10, STIXNonUni*, STIXSiz*, DejaVu*Display), and cmmi10, whose digits are
old-style.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from gam_ray.domains.base import DataMissingError, LabelledImages, Split
from gam_ray.domains.digits import DigitDomain
from gam_ray.domains.registry import register_domain

_SIZES: dict[Split, int] = {"train": 6_000, "held_out": 1_000, "test": 1_000}
_SEED = 2018

_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "STIXGeneralItalic",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
_SIDE = 28
_OVERSAMPLING = 2
_FONT_SIZE = 72  # A digit is then about as high as the oversampled frame.
_GLYPH_MARGIN = 4

_HEIGHT = (0.6, 1.0)  # Of the frame, slant and rotation included.
_SLANT = 0.25  # Horizontal shift per height, at most, to either side.
_ANGLE = math.radians(10)
_SHIFT = 2.0  # Pixels from the centre, at most, where the frame leaves room.
_THICKENING = 3  # Strokes gain 0, 1 or 2 oversampled pixels on each side.
_NOISE = 12.0  # Standard deviation of the pixels' noise, at most.


@register_domain("rendered-digits")
class RenderedDigits(DigitDomain):
    """Digits drawn by `draw_digits`: 6,000 train, 1,000 held out, 1,000 test, classes balanced.

    Each split is drawn with a seed of its own from all 21 fonts, so the splits follow one
    distribution and have no image in common. The seeds are part of the data, not of a trial.
    """

    def _load(self, split: Split) -> Mapping[Split, LabelledImages]:
        seed = (_SEED, list(_SIZES).index(split))
        return {split: draw_digits(_SIZES[split], seed=seed)}


def draw_digits(count: int, *, seed: int | tuple[int, ...]) -> LabelledImages:
    """Draw digits, white on black, in random fonts, sizes, places, slants and strokes.

    A digit fills 60-100 % of the frame's height, is slanted by up to 0.25, turned by up to 10
    degrees, moved by up to 2 pixels from the centre where there is room, thickened by up to 2
    pixels in all, and noised by up to 12 grey levels.

    Args:
        count: How many; the classes' numbers differ by one at most.
        seed: Of numpy's generator. The same seed gives the same pixels (under the same versions of
            numpy, Pillow and matplotlib's fonts).

    Returns:
        Images uint8 `[count, 1, 28, 28]` and labels int64 `[count]` in random order.

    Raises:
        ValueError: `count` is below 1.
        DataMissingError: matplotlib's fonts are not installed.
    """
    if count < 1:
        raise ValueError(f"At least one digit can be drawn, but {count} were asked for.")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    styles = [_Style.random(rng) for _ in range(count)]
    drawn = [_draw(int(label), style) for label, style in zip(labels, styles, strict=True)]
    images = _add_noise(np.stack(drawn), styles, rng)
    return LabelledImages(
        torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64)
    )


@dataclass(frozen=True)
class _Style:
    """How one digit is drawn; lengths in pixels of the frame."""

    font: str
    thickening: int
    height: float
    slant: float
    angle: float
    shift: tuple[float, float]
    noise: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "_Style":
        return cls(
            font=_FONTS[rng.integers(len(_FONTS))],
            thickening=int(rng.integers(_THICKENING)),
            height=_SIDE * rng.uniform(*_HEIGHT),
            slant=rng.uniform(-_SLANT, _SLANT),
            angle=rng.uniform(-_ANGLE, _ANGLE),
            shift=(rng.uniform(-_SHIFT, _SHIFT), rng.uniform(-_SHIFT, _SHIFT)),
            noise=rng.uniform(0, _NOISE),
        )


def _draw(digit: int, style: _Style) -> np.ndarray:
    """Return one digit without noise, uint8 `[28, 28]`."""
    glyph = _glyph(style.font, digit, style.thickening)
    side = _SIDE * _OVERSAMPLING
    large = glyph.transform(
        (side, side),
        Image.Transform.AFFINE,
        _frame_to_glyph(glyph.size, style),
        resample=Image.Resampling.BILINEAR,
    )
    return np.asarray(large.reduce(_OVERSAMPLING))


def _frame_to_glyph(size: tuple[int, int], style: _Style) -> tuple[float, ...]:
    """Return the affine map from the oversampled frame to the glyph, as Pillow takes it.

    The glyph is scaled, slanted and then rotated; the map is the inverse of that. The scale makes
    the result's bounding box as high as the style says, or as wide as the frame if that is less.
    """
    cos, sin = math.cos(style.angle), math.sin(style.angle)
    a, b, c, d = cos, cos * style.slant - sin, sin, sin * style.slant + cos  # Determinant 1.
    width, height = size[0] - 2 * _GLYPH_MARGIN, size[1] - 2 * _GLYPH_MARGIN
    box = abs(a) * width + abs(b) * height, abs(c) * width + abs(d) * height
    scale = min(style.height / box[1], _SIDE / box[0])
    x, y = (_OVERSAMPLING * _centre(scale * box[i], style.shift[i]) for i in (0, 1))
    a, b, c, d = (entry / (scale * _OVERSAMPLING) for entry in (d, -b, -c, a))
    return a, b, size[0] / 2 - a * x - b * y, c, d, size[1] / 2 - c * x - d * y


def _centre(extent: float, shift: float) -> float:
    """Return where a digit's centre comes to lie, moved no further than the frame has room."""
    room = (_SIDE - extent) / 2
    return _SIDE / 2 + max(-room, min(shift, room))


@cache
def _glyph(font: str, digit: int, thickening: int) -> Image.Image:
    """Return a digit white on black, cropped to its ink and a margin."""
    image = Image.new("L", (2 * _FONT_SIZE, 2 * _FONT_SIZE))
    draw = ImageDraw.Draw(image)
    draw.text(
        (_FONT_SIZE // 2, _FONT_SIZE // 4),
        str(digit),
        fill=255,
        font=_truetype(font),
        stroke_width=thickening,
    )
    left, top, right, bottom = image.getbbox() or (0, 0, *image.size)
    m = _GLYPH_MARGIN
    return image.crop((left - m, top - m, right + m, bottom + m))


@cache
def _truetype(font: str) -> ImageFont.FreeTypeFont:
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    try:
        # The basic layout is in every build of Pillow, so that all draw alike.
        return ImageFont.truetype(path, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataMissingError(
            f"The font {path} is part of matplotlib, but it is not there. "
            "Install matplotlib from PyPI: some systems' own packages leave the fonts out."
        ) from error


def _add_noise(images: np.ndarray, styles: list[_Style], rng: np.random.Generator) -> np.ndarray:
    deviations = np.array([style.noise for style in styles], dtype=np.float32)
    noise = rng.standard_normal(images.shape, dtype=np.float32) * deviations[:, None, None]
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)
