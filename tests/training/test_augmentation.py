"""Random changes of training images: of each image by itself, and of its labels with it."""

from pathlib import Path

import pytest
import torch
from tiny_task import STREET, Recorder, draw_streets, place, start_workers, trial
from torch import Tensor

from gam_ray.adaptation import rank, shard
from gam_ray.config import AugmentationConfig
from gam_ray.domains import VOID
from gam_ray.training.augmentation import Augmentation
from gam_ray.training.pretraining import poly
from gam_ray.training.trial import run_trial

BOTH = AugmentationConfig(flip=True, crop=(20, 24))
PART = draw_streets("train", brightness=200, seed=0)


def windows(image: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Every crop of an image [C, H, W], and its mirror image."""
    height, width = size
    crops = image.unfold(1, height, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return [*crops, *crops.flip(-1)]


def test_labels_move_with_their_images_and_each_image_by_itself() -> None:
    images, labels = Augmentation(BOTH, seed=3).pairs(PART.images, PART.labels, step=5)
    assert (images.shape, labels.shape) == ((16, 3, 20, 24), (16, 20, 24))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.uint8)
    assert type(images) is type(labels) is Tensor
    chosen = set()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        candidates = windows(PART.images[number], (20, 24))
        (place_of,) = [n for n, window in enumerate(candidates) if torch.equal(window, image)]
        assert torch.equal(windows(PART.labels[number][None], (20, 24))[place_of][0], label)
        chosen.add(place_of)
    assert len(chosen) > 8


def test_half_of_the_images_are_mirrored_and_others_at_another_step_or_seed() -> None:
    images = torch.randint(2, 256, (200, 1, 1, 5), dtype=torch.uint8)
    drawn = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        changed = Augmentation(AugmentationConfig(flip=True), seed).images(images, step=step)
        mirrored = (changed == images.flip(-1)).all(-1).flatten()
        assert bool((mirrored | (changed == images).all(-1).flatten()).all())
        assert 70 < int(mirrored.sum()) < 130
        drawn.append(tuple(mirrored.tolist()))
    assert len(set(drawn)) == 3


def moved(image: Tensor, down: int, right: int, fill: int) -> Tensor:
    """An image [..., H, W] moved by whole pixels."""
    height, width = image.shape[-2:]
    framed = torch.nn.functional.pad(image, [width] * 2 + [height] * 2, value=fill)
    return framed.roll((down, right), (-2, -1))[..., height:-height, width:-width]


def test_shifted_images_take_their_labels_along_and_what_comes_in_is_black_and_void() -> None:
    augmentation = Augmentation(AugmentationConfig(shift=0.1), seed=3)
    images, labels = augmentation.pairs(PART.images, PART.labels, step=5)
    chosen = set()
    for before, label, image, changed in zip(PART.images, PART.labels, images, labels, strict=True):
        offsets = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
        (offset,) = [o for o in offsets if torch.equal(moved(before, *o, fill=0), image)]
        assert torch.equal(moved(label, *offset, fill=VOID), changed)
        chosen.add(offset)
    assert len(chosen) > 8


def spot(distance: int) -> Tensor:
    """A bright disc on black, so many pixels right of the centre: uint8 [1, 64, 64]."""
    across = torch.arange(64) - 31.5
    near = (across[None] - distance).square() + across[:, None].square() < 64
    return (near * 255).to(torch.uint8)[None]


def centre_and_area(image: Tensor) -> tuple[float, float, float]:
    """Of what is bright: angle in degrees and distance from the image's centre, and its area."""
    weights = image[0].double() / 255
    across = torch.arange(64) - 31.5
    right, down = (weights.sum(0) @ across.double()), (weights.sum(1) @ across.double())
    area = weights.sum()
    angle = torch.rad2deg(torch.atan2(down, right))
    return float(angle), float(torch.hypot(right, down) / area), float(area)


def test_rotations_keep_the_distance_and_zooms_scale_it_within_what_is_asked() -> None:
    images = spot(distance=16).expand(100, 1, 64, 64)
    turned = Augmentation(AugmentationConfig(rotate=30), seed=0).images(images, step=0)
    angles, distances, _ = zip(*map(centre_and_area, turned), strict=True)
    assert distances == pytest.approx([16] * 100, abs=0.5)
    assert -30.5 < min(angles) < -25
    assert 25 < max(angles) < 30.5
    zoomed = Augmentation(AugmentationConfig(zoom=0.25), seed=0).images(images, step=0)
    angles, distances, areas = zip(*map(centre_and_area, zoomed), strict=True)
    assert angles == pytest.approx([0] * 100, abs=1)
    assert 11.5 < min(distances) < 13
    assert 19 < max(distances) < 20.5
    _, distance, area = centre_and_area(images[0])
    growth = [(new / distance) ** 2 for new in distances]
    assert [new / area for new in areas] == pytest.approx(growth, abs=0.08)


def test_off_is_the_identity() -> None:
    off = Augmentation(AugmentationConfig(), seed=3)
    images, labels = off.pairs(PART.images, PART.labels, step=0)
    assert images is PART.images
    assert labels is PART.labels


def test_labels_of_whole_images_stay_and_so_does_the_callers_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    labels = torch.arange(16)
    assert Augmentation(BOTH, seed=3).pairs(PART.images, labels, step=0)[1].tolist() == [*range(16)]
    assert torch.equal(torch.rand(3), expected)


def leave_share(folder: Path) -> None:
    share = Augmentation(BOTH, seed=3).pairs(shard(PART.images), shard(PART.labels), step=5)
    torch.save(share, folder / f"{rank()}.pt")


def test_an_image_is_changed_alike_whatever_the_workers(tmp_path: Path) -> None:
    start_workers(leave_share, 2, tmp_path)
    whole = Augmentation(BOTH, seed=3).pairs(PART.images, PART.labels, step=5)
    for number in range(2):
        for found, expected in zip(torch.load(tmp_path / f"{number}.pt"), whole, strict=True):
            assert torch.equal(found, expected[number::2])


@pytest.mark.parametrize("name", ["augmentation", "pretraining.augmentation"])
@pytest.mark.parametrize("crop", [[33, 8], [8, 33]])
def test_a_crop_that_does_not_fit_is_refused_before_training(
    name: str, crop: list[int], tmp_path: Path
) -> None:
    config = trial(STREET, **{f"{name.replace('.', '__')}__crop": crop})
    with pytest.raises(ValueError, match=rf"^{name}\.crop must fit .* got {crop[0]}×{crop[1]} of"):
        run_trial(config, place(tmp_path), Recorder())
    assert not list(tmp_path.rglob("*.pt"))


def test_baselines_do_not_look_at_the_crop_of_adaptation(tmp_path: Path) -> None:
    config = trial(STREET, adaptation__kind="none", augmentation__crop=[33, 33])
    assert run_trial(config, place(tmp_path), Recorder()).step == 0


def test_poly_is_the_schedule_of_segmentation() -> None:
    assert poly(0, 10) == 1
    expected = [0.771890, 0.535887, 0.287175]
    assert [poly(step, 4) for step in (1, 2, 3)] == pytest.approx(expected, rel=1e-5)


def test_colours_change_by_what_is_asked_and_labels_do_not() -> None:
    grey = torch.full((200, 3, 4, 4), 100, dtype=torch.uint8)
    labels = torch.randint(0, 5, (200, 4, 4), dtype=torch.uint8)
    jitter = Augmentation(AugmentationConfig(colour=0.2), seed=0)
    images, same = jitter.pairs(grey, labels, step=0)
    assert torch.equal(same, labels)
    # An even grey has neither contrast nor saturation nor hue: its brightness alone is changed.
    levels = images.flatten(1).float()
    assert bool((levels.max(1).values - levels.min(1).values <= 1).all())
    assert 78 <= levels.min() < 85  # each of three steps rounds down
    assert 115 < levels.max() <= 120


def test_hue_turns_little_and_saturation_is_of_each_image() -> None:
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(100, 3, 4, 4)
    images = Augmentation(AugmentationConfig(colour=0.5), seed=0).images(red, step=0).float()
    pixels = images[:, :, 0, 0]
    assert bool((pixels[:, 0] > pixels[:, 1:].max(1).values).all())  # stays red
    spread = (pixels.max(1).values - pixels.min(1).values) / pixels.max(1).values
    assert spread.std() > 0.05
