"""Flips and crops: of each image by itself, and of its labels with it."""

from pathlib import Path

import pytest
import torch
from tiny_task import STREET, Recorder, draw_streets, place, start_workers, trial
from torch import Tensor

from gam_ray.adaptation import rank, shard
from gam_ray.config import AugmentationConfig
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
