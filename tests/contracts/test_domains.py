"""What every registered domain of classification must keep, whatever it reads."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

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
from gam_ray.domains.rendered_digits import draw_digits

SIZES = {
    "image-folder": {"train": 100, "held_out": 20, "test": 30},
    "handwritten-digits": {"train": 897, "held_out": 400, "test": 500},
    "mnist": {"train": 55_000, "held_out": 5_000, "test": 10_000},
    "mnist-even": {"train": 26_999, "held_out": 2_493, "test": 4_926},
    "mnist-odd": {"train": 28_001, "held_out": 2_507, "test": 5_074},
    "rendered-digits": {"train": 6_000, "held_out": 1_000, "test": 1_000},
    "svhn": {"train": 68_257, "held_out": 5_000, "test": 26_032},
    "usps": {"train": 6_291, "held_out": 1_000, "test": 2_007},
    "usps-even": {"train": 3_247, "held_out": 536, "test": 1_093},
    "usps-odd": {"train": 3_044, "held_out": 464, "test": 914},
}
# The digits that occur, where they are not all of the ten.
CLASSES = {
    f"{base}-{parity}": list(range(first, 10, 2))
    for base in ("mnist", "usps", "svhn")
    for first, parity in enumerate(("even", "odd"))
}
# Of either polarity, and with class means that are all alike. How many odd ones are held out, and
# whether two of them become the same pixels in grey, is not known.
PHOTOGRAPHS = {"svhn", "svhn-even", "svhn-odd"}
# They have a contract of their own.
SEGMENTATION = {"camvid", "cityscapes", "gta5", "segmentation-folder", "streets", "synthia"}
# It has no labels, and is otherwise what image-folder is.
UNLABELLED = {"unlabelled-folder"}
DATA_ROOT = Path(
    os.environ.get("GAM_RAY_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data"
)


def load_or_skip(name: str) -> Domain:
    """Load a domain with all its splits, downloading nothing."""
    domain = load_domain(name, data_root=DATA_ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gam_ray.domains.torchvision_digits.TorchvisionDigits._download_to", refuse)
        patch.setattr("gam_ray.domains.label_shift.load_domain", load_once)
        try:
            for split in SPLITS:
                domain.unlabelled(split)
        except DataMissingError:
            pytest.skip(f"{name} is not in {DATA_ROOT}; name its folder by GAM_RAY_DATA")
    return domain


@cache
def load_once(name: str, *, data_root: Path) -> Domain:
    """Load what two variants have in common: USPS's text takes seconds to read."""
    return load_domain(name, data_root=data_root)


def refuse(*_: object) -> None:
    raise OSError("tests download nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own images: digits in the folders of their classes."""
    folder = tmp_path_factory.mktemp("images")
    for seed, (split, count) in enumerate(SIZES["image-folder"].items()):
        digits = draw_digits(count, seed=seed)
        for row, label in enumerate(digits.labels.tolist()):
            path = folder / split / f"number {label}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[row, 0].numpy()).save(path)
    return folder


@pytest.fixture(scope="module", params=sorted({*domain_names()} - SEGMENTATION - UNLABELLED))
def domain(request: pytest.FixtureRequest, folder: Path) -> Domain:
    name = request.param
    return load_or_skip(f"{name}:{folder}" if name == "image-folder" else name)


def plain(domain: Domain) -> str:
    """Return a domain's name without its argument."""
    return domain.name.partition(":")[0]


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> Split:
    return request.param


@pytest.fixture
def drawn(domain: Domain) -> Domain:
    """The domain, if it is not one of photographs."""
    if domain.name in PHOTOGRAPHS:
        pytest.skip(f"{domain.name} is one of photographs")
    return domain


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
    if plain(domain) not in SIZES:
        pytest.skip(f"the sizes of {domain.name} are not known")
    assert {split: len(domain.labelled(split)) for split in SPLITS} == SIZES[plain(domain)]


def test_no_image_is_in_two_splits(drawn: Domain) -> None:
    pixels = {split: pixels_of(drawn.labelled(split)) for split in SPLITS}
    assert len(set().union(*pixels.values())) == sum(map(len, pixels.values()))
    assert {split: len(images) for split, images in pixels.items()} == SIZES[plain(drawn)]


def test_every_class_that_is_to_occur_does_and_has_a_name(domain: Domain, split: Split) -> None:
    classes = range(len(domain.class_names))
    labels = domain.labelled(split).labels
    assert torch.unique(labels).tolist() == CLASSES.get(plain(domain), list(classes))


def test_unlabelled_is_the_same_images_and_no_label(domain: Domain, split: Split) -> None:
    part = domain.unlabelled(split)
    assert isinstance(part, UnlabelledImages)
    assert not hasattr(part, "labels")
    assert torch.equal(part.images, domain.labelled(split).images)


def test_two_loads_are_equal(domain: Domain) -> None:
    again = load_or_skip(domain.name)
    for split in SPLITS:
        assert again.labelled(split).fingerprint() == domain.labelled(split).fingerprint()


def test_drawn_digits_are_white_on_black(drawn: Domain, split: Split) -> None:
    images = drawn.labelled(split).images
    assert 10 < images.float().mean() < 128
    assert images.min() == 0
    assert images.max() > 200


def test_labels_belong_to_their_images(drawn: Domain) -> None:
    """The nearest class mean finds most labels, which it could not if their order were lost."""
    train, test = drawn.labelled("train"), drawn.labelled("test")
    pixels, classes = train.images.flatten(1).float(), torch.unique(train.labels)
    means = torch.stack([pixels[train.labels == label].mean(0) for label in classes])
    nearest = classes[torch.cdist(test.images.flatten(1).float(), means).argmin(1)]
    assert (nearest == test.labels).float().mean() > 0.5


def test_an_unknown_split_is_refused(domain: Domain) -> None:
    with pytest.raises(ValueError, match="train, held_out, test; this one is 'val'"):
        domain.labelled("val")  # type: ignore[arg-type]
