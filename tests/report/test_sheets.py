"""Pictures of trials, by their pixels."""

import numpy as np
import pytest
from PIL import Image

from gam_ray.report.sheets import (
    AFTER,
    MOST_CLASSES,
    Distance,
    Segmented,
    Shown,
    coloured,
    draw_counts,
    draw_distances,
    draw_masks,
    draw_samples,
)

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
ODD = "<b>é 猫 $x^2$ 'λ'</b>"


def pixels(sheet: Image.Image) -> np.ndarray:
    return np.asarray(sheet.convert("RGB")).astype(int)


def has(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels are of a colour."""
    return int((pixels(sheet) == colour).all(-1).sum())


def test_samples_show_every_image_in_its_group() -> None:
    images = [np.full((3, 8, 8), 0, np.uint8) for _ in COLOURS]
    for image, colour in zip(images, COLOURS, strict=True):
        image[:] = np.array(colour)[:, None, None]
    groups = [("surest", [Shown(images[0], f"{ODD}\n99 %")] * 9), ("least", [Shown(images[1], "")])]
    sheet = draw_samples(ODD, groups)
    assert has(sheet, COLOURS[0]) == 9 * 80 * 80  # 8 pixels, ten times as large
    assert has(sheet, COLOURS[1]) == 80 * 80
    red, green = (np.argwhere((pixels(sheet) == c).all(-1)) for c in COLOURS[:2])
    assert green[:, 0].min() > red[:, 0].max(), "groups are below each other"


def test_masks_have_the_colours_of_their_classes() -> None:
    mask = np.array([[0, 1], [2, 2]], np.uint8)
    np.testing.assert_array_equal(coloured(mask, COLOURS)[:, 1, 1], COLOURS[2])
    frame = Segmented(np.zeros((1, 2, 2), np.uint8), mask, np.full((2, 2), 255, np.uint8))
    sheet = draw_masks("a trial", [frame], ("a", "b", "c"), COLOURS)
    found = [has(sheet, colour) for colour in COLOURS]
    assert found[0] == pytest.approx(found[1], rel=0.02)
    assert found[2] == pytest.approx(2 * found[0], rel=0.02)


def test_the_darkest_cell_of_a_table_is_the_largest_share_of_its_row() -> None:
    counts = np.array([[1, 99, 0], [0, 5, 5], [4, 0, 4]])
    sheet = draw_counts("t", counts, ("a", "b", "c"), rows="label", columns="prediction")
    side = 34
    corner = np.array([sheet.height, sheet.width]) - 12 - 3 * side
    if sheet.width > sheet.height:  # the title is wider than the table
        corner[1] = 12 + 8 + 8 + 1
    blue = 255 - pixels(sheet)[:, :, 0]
    cells = [
        [blue[corner[0] + row * side + 4, corner[1] + column * side + 6] for column in range(3)]
        for row in range(3)
    ]
    assert np.unravel_index(np.argmax(cells), (3, 3)) == (0, 1)
    assert cells[1][1] == cells[1][2] == cells[2][0] == cells[2][2]
    assert cells[0][2] == cells[1][0] == 0


def test_a_table_of_many_classes_shows_those_that_are_confused() -> None:
    classes = MOST_CLASSES + 10
    counts = np.diag(np.full(classes, 1000))
    counts[-1, -2] = counts[0, 1] = 7
    small = draw_counts("t", counts, [ODD] * classes, rows="label", columns="prediction")
    all_of_them = draw_counts("t", counts[:30, :30], [ODD] * 30, rows="label", columns="prediction")
    assert small.height == all_of_them.height


def test_distances_are_on_one_scale() -> None:
    rows = [Distance("fc3", 1.0, 0.0, is_matched=True), Distance("fc4", 0.5, 1.0, is_matched=False)]
    sheet = pixels(draw_distances("t", rows))
    discs = np.argwhere((sheet == AFTER).all(-1))
    first, second = discs[discs[:, 0] < discs[:, 0].mean()], discs[discs[:, 0] > discs[:, 0].mean()]
    assert second[:, 1].mean() - first[:, 1].mean() == pytest.approx(380, abs=2)
    nothing = [Distance("fc3", 0.0, 0.0, is_matched=False)]
    assert draw_distances("t", nothing).height > 0
