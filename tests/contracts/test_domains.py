"""What every registered domain must keep, whatever it reads."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gam_ray.domains import (
    SPLITS,
    DataMissingError,
    Domain,
    LabelledImages,
    Split,
    UnlabelledImages,
    domain_names,
    load_domain,
)

SIZES = {
    "handwritten-digits": {"train": 897, "held_out": 400, "test": 500},
    "mnist": {"train": 55_000, "held_out": 5_000, "test": 10_000},
    "rendered-digits": {"train": 6_000, "held_out": 1_000, "test": 1_000},
    "usps": {"train": 6_291, "held_out": 1_000, "test": 2_007},
}
DATA_ROOT = Path(
    os.environ.get("GAM_RAY_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data"
)


def load_or_skip(name: str) -> Domain:
    """Load a domain with all its splits, downloading nothing."""
    domain = load_domain(name, data_root=DATA_ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gam_ray.domains.torchvision_digits.TorchvisionDigits._download_to", refuse)
        try:
            for split in SPLITS:
                domain.unlabelled(split)
        except DataMissingError:
            pytest.skip(f"{name} is not in {DATA_ROOT}; name its folder by GAM_RAY_DATA")
    return domain


def refuse(*_: object) -> None:
    raise OSError("tests download nothing")


@pytest.fixture(scope="module", params=domain_names())
def domain(request: pytest.FixtureRequest) -> Iterator[Domain]:
    return load_or_skip(request.param)


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> Split:
    return request.param


def pixels_of(part: LabelledImages) -> set[bytes]:
    return {image.tobytes() for image in part.images.numpy()}


def test_type_shape_and_range(domain: Domain, split: Split) -> None:
    part = domain.labelled(split)
    assert isinstance(part, LabelledImages)
    assert part.images.dtype == torch.uint8
    assert part.images.shape == (len(part), *domain.image_shape)
    assert part.labels.dtype == torch.int64
    assert part.labels.shape == (len(part),)


def test_splits_have_the_documented_sizes(domain: Domain) -> None:
    assert {split: len(domain.labelled(split)) for split in SPLITS} == SIZES[domain.name]


def test_no_image_is_in_two_splits(domain: Domain) -> None:
    pixels = {split: pixels_of(domain.labelled(split)) for split in SPLITS}
    assert len(set().union(*pixels.values())) == sum(map(len, pixels.values()))
    assert {split: len(images) for split, images in pixels.items()} == SIZES[domain.name]


def test_every_class_occurs_and_has_a_name(domain: Domain, split: Split) -> None:
    labels = domain.labelled(split).labels
    assert torch.unique(labels).tolist() == list(range(len(domain.class_names)))


def test_unlabelled_is_the_same_images_and_no_label(domain: Domain, split: Split) -> None:
    part = domain.unlabelled(split)
    assert isinstance(part, UnlabelledImages)
    assert not hasattr(part, "labels")
    assert torch.equal(part.images, domain.labelled(split).images)


def test_two_loads_are_equal(domain: Domain) -> None:
    again = load_or_skip(domain.name)
    for split in SPLITS:
        assert again.labelled(split).fingerprint() == domain.labelled(split).fingerprint()


def test_digits_are_white_on_black(domain: Domain, split: Split) -> None:
    images = domain.labelled(split).images
    assert 10 < images.float().mean() < 128
    assert images.min() == 0
    assert images.max() > 200


def test_labels_belong_to_their_images(domain: Domain) -> None:
    """The nearest class mean finds most labels, which it could not if their order were lost."""
    train, test = domain.labelled("train"), domain.labelled("test")
    pixels, classes = train.images.flatten(1).float(), range(len(domain.class_names))
    means = torch.stack([pixels[train.labels == label].mean(0) for label in classes])
    nearest = torch.cdist(test.images.flatten(1).float(), means).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.5


def test_an_unknown_split_is_refused(domain: Domain) -> None:
    with pytest.raises(ValueError, match="train, held_out, test; this one is 'val'"):
        domain.labelled("val")  # type: ignore[arg-type]
