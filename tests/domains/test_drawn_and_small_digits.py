"""The digits that need no download: rendered ones and scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from gam_ray.domains import DataMissingError, fixed_permutation, load_domain
from gam_ray.domains import rendered_digits as rendered
from gam_ray.domains.digits import resize_digits
from gam_ray.domains.rendered_digits import draw_digits


def test_a_seed_decides_every_pixel() -> None:
    drawn, again, other = draw_digits(50, seed=1), draw_digits(50, seed=1), draw_digits(50, seed=2)
    assert drawn.fingerprint() == again.fingerprint()
    assert not torch.equal(drawn.images, other.images)


@pytest.mark.parametrize(("count", "most"), [(200, 20), (23, 3)])
def test_classes_are_balanced(count: int, most: int) -> None:
    numbers = torch.bincount(draw_digits(count, seed=0).labels, minlength=10)
    assert numbers.sum() == count
    assert numbers.max() == most
    assert numbers.max() - numbers.min() <= 1


def test_no_digits_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="but 0 were asked for"):
        draw_digits(0, seed=0)


def test_every_font_has_ten_different_digits() -> None:
    for font in rendered._FONTS:
        glyphs = {rendered._glyph(font, digit, 0).tobytes() for digit in range(10)}
        assert len(glyphs) == 10


def test_a_digit_has_the_height_of_its_style_and_stays_in_the_frame() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        style = rendered._Style.random(rng)
        left, top, right, bottom = Image.fromarray(rendered._draw(number % 10, style)).getbbox()
        # Slanting the corners of its box makes more room than its ink needs, up to a few pixels.
        assert style.height - 6 < bottom - top < style.height + 3
        assert 0 <= left < right <= 28
        assert 0 <= top < bottom <= 28


def test_an_upright_digit_is_exactly_placed() -> None:
    style = rendered._Style("DejaVuSans", 0, 14.0, 0.0, 0.0, (1.0, -2.0), 0.0)
    left, top, right, bottom = Image.fromarray(rendered._draw(0, style)).getbbox()
    assert (top, bottom) == (5, 19)
    assert (left + right) / 2 == pytest.approx(15, abs=0.5)


def test_missing_fonts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    rendered._truetype.cache_clear()
    rendered._glyph.cache_clear()
    with pytest.raises(DataMissingError, match=r"fonts/ttf/.*\.ttf is part of matplotlib"):
        draw_digits(1, seed=0)


def test_handwritten_digits_are_scikit_learns_in_the_fixed_order() -> None:
    domain, stored = load_domain("handwritten-digits"), load_digits()
    order = fixed_permutation(1797)
    first = domain.labelled("train")
    assert torch.equal(first.labels, torch.from_numpy(stored.target)[order[:897]])
    assert torch.equal(
        domain.labelled("test").labels, torch.from_numpy(stored.target)[order[1297:]]
    )
    image = Image.fromarray(np.round(stored.images[order[0]] * 255 / 16).astype(np.uint8))
    expected = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(first.images[0, 0].numpy() - expected).max() <= 1


def test_resizing_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 16, 16), generator=generator).to(torch.uint8)
    theirs = transforms.resize(images, [28, 28], InterpolationMode.BILINEAR, antialias=True)
    # On CPUs without its uint8 kernel torchvision takes a way through floats.
    assert (resize_digits(images).int() - theirs.int()).abs().max() <= 1
