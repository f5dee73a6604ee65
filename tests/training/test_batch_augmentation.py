"""Changes of whole batches, against torchvision's of single images."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from gam_ray.config import AugmentationConfig
from gam_ray.domains import VOID
from gam_ray.training import batch_augmentation
from gam_ray.training.batch_augmentation import NUMBERS, BatchAugmentation

HEIGHT, WIDTH, COUNT = 20, 26, 7


def images(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(COUNT, channels, HEIGHT, WIDTH, generator=generator)


def labels() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 4, (COUNT, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


def augmentation(**config: Any) -> tuple[BatchAugmentation, list[dict[str, float]], Tensor]:
    """Of a batch: what was drawn of each image, by name, and as a tensor."""
    found = BatchAugmentation(AugmentationConfig(**config), 5, COUNT)
    drawn = found.draw(3)
    return found, [dict(zip(NUMBERS, row, strict=True)) for row in drawn.tolist()], drawn


def between(value: float, low: float, high: float) -> float:
    return low + (high - low) * value


@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_shift_and_zoom_are_torchvisions(channels: int) -> None:
    found, chances, drawn = augmentation(rotate=30.0, shift=0.2, zoom=0.3)
    batch, maps = images(channels), labels()
    moved, moved_labels = found.images(batch, drawn), found.labels(maps, drawn)
    for number, chance in enumerate(chances):
        how: dict[str, Any] = {
            "angle": between(chance["angle"], -30, 30),
            "translate": [
                round(between(chance["right"], -0.2 * WIDTH, 0.2 * WIDTH)),
                round(between(chance["down"], -0.2 * HEIGHT, 0.2 * HEIGHT)),
            ],
            "scale": between(chance["zoom"], 0.7, 1.3),
            "shear": [0.0, 0.0],
        }
        bilinear = InterpolationMode.BILINEAR
        expected = functional.affine(batch[number], **how, interpolation=bilinear)
        torch.testing.assert_close(moved[number], expected, rtol=0, atol=1e-4)
        mask = functional.affine(maps[number][None], **how, fill=VOID)[0]
        # Where a place lies between two pixels, rounding decides which is nearest.
        assert (moved_labels[number] == mask).float().mean() > 0.98
    assert (moved_labels == VOID).any()
    assert moved_labels.dtype == torch.uint8


def test_crops_and_flips_take_images_and_labels_from_one_place() -> None:
    found, chances, drawn = augmentation(crop=(8, 11), flip=True)
    batch, maps = images(), labels()
    cut, cut_labels = found.images(batch, drawn), found.labels(maps, drawn)
    assert cut.shape == (COUNT, 3, 8, 11)
    for number, chance in enumerate(chances):
        top, left = int(chance["top"] * (HEIGHT - 7)), int(chance["left"] * (WIDTH - 10))
        expected = functional.crop(batch[number], top, left, 8, 11)
        mask = functional.crop(maps[number], top, left, 8, 11)
        if chance["flip"] < 0.5:
            expected, mask = functional.hflip(expected), functional.hflip(mask)
        assert torch.equal(cut[number], expected)
        assert torch.equal(cut_labels[number], mask)
    assert 0 < sum(chance["flip"] < 0.5 for chance in chances) < COUNT


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvisions(channels: int) -> None:
    found, chances, drawn = augmentation(colour=0.4)
    batch = images(channels)
    batch[0, :, :4] = 0.5  # grey, which has no hue
    changed = found.images(batch, drawn)
    for number, chance in enumerate(chances):
        expected = functional.adjust_brightness(
            batch[number], between(chance["brightness"], 0.6, 1.4)
        )
        expected = functional.adjust_contrast(expected, between(chance["contrast"], 0.6, 1.4))
        expected = functional.adjust_saturation(expected, between(chance["saturation"], 0.6, 1.4))
        expected = functional.adjust_hue(expected, between(chance["hue"], -0.04, 0.04))
        torch.testing.assert_close(changed[number], expected, rtol=0, atol=1e-5)


def test_what_is_not_asked_for_changes_nothing() -> None:
    found, _, drawn = augmentation()
    batch, maps = images(), labels()
    assert torch.equal(found.images(batch, drawn), batch)
    assert torch.equal(found.labels(maps, drawn), maps)


def test_an_image_has_the_same_chance_whatever_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, _, whole = augmentation()
    assert torch.equal(found.draw(3), whole)
    assert not torch.equal(found.draw(4), whole)
    for rank in range(2):
        share = mock.Mock(side_effect=lambda rows, rank=rank: rows[rank::2])
        monkeypatch.setattr(batch_augmentation, "shard", share)
        assert torch.equal(found.draw(3), whole[rank::2])


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_is_waited_for_and_nothing_lies_elsewhere(channels: int) -> None:
    """On a device without numbers, which refuses to be asked for one or to be mixed with others."""
    found, _, drawn = augmentation(
        rotate=30.0, shift=0.2, zoom=0.3, crop=(8, 11), flip=True, colour=0.4
    )
    there = drawn.to("meta")
    changed = found.images(images(channels).to("meta"), there)
    moved = found.labels(labels().to("meta"), there)
    assert (changed.device.type, changed.shape) == ("meta", (COUNT, channels, 8, 11))
    assert (moved.device.type, moved.shape, moved.dtype) == ("meta", (COUNT, 8, 11), torch.uint8)
