"""Folders of a user's own images: their layouts, classes, splits, sizes and damages."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision import datasets

from gam_ray.domains import (
    SPLITS,
    DataMissingError,
    Domain,
    LabelsMissingError,
    fixed_permutation,
    load_domain,
    load_pair,
)

GREY = (40, 50)  # Height and width.


def write(path: Path, value: int = 100, *, mode: str = "L", size: tuple[int, int] = GREY) -> Path:
    """Write an image of one colour, of which `value` is the first channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"RGB": (value, 0, 50), "RGBA": (value, 0, 50, 10)}.get(mode, value)
    Image.new(mode, size[::-1], colour).save(path)
    return path


def write_all(folder: Path, names: Iterable[str], *, mode: str = "L") -> None:
    """Write images, the n-th of which has the value n + 2."""
    for number, name in enumerate(names):
        write(folder / name, number + 2, mode=mode)


def load(folder: Path, **options: object) -> Domain:
    return load_domain(f"image-folder:{folder}", **options)  # type: ignore[arg-type]


def values(domain: Domain, split: str) -> list[int]:
    """Return the value of each image of a split."""
    return domain.unlabelled(split).images[:, 0, 0, 0].tolist()  # type: ignore[arg-type]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes in given splits, without held_out: dogs are even."""
    for split, count in (("train", 30), ("test", 6)):
        write_all(
            tmp_path / split, [f"{('dog', 'Cat')[row % 2]}/{row:02}.png" for row in range(count)]
        )
    return tmp_path


def test_given_splits_are_kept_and_a_tenth_of_train_is_held_out(pets: Path) -> None:
    domain = load(pets)
    assert domain.name == f"image-folder:{pets}"
    assert domain.class_names == ("Cat", "dog")
    assert domain.image_shape == (1, *GREY)
    assert [len(domain.unlabelled(split)) for split in SPLITS] == [27, 3, 6]
    assert values(domain, "test") == [3, 5, 7, 2, 4, 6]
    assert domain.labelled("test").labels.tolist() == [0, 0, 0, 1, 1, 1]
    in_order = [*range(3, 32, 2), *range(2, 32, 2)]
    first = [in_order[row] for row in fixed_permutation(30)[:3]]
    assert values(domain, "held_out") == first
    assert sorted(values(domain, "train") + first) == list(range(2, 32))
    for split in SPLITS:
        labels = domain.labelled(split).labels
        assert labels.dtype == torch.int64
        assert labels.tolist() == [1 - value % 2 for value in values(domain, split)]


def test_a_held_out_folder_is_what_is_held_out(pets: Path) -> None:
    write(pets / "held_out" / "dog" / "one.png", 77)
    domain = load(pets)
    assert values(domain, "held_out") == [77]
    assert domain.labelled("held_out").labels.tolist() == [1]
    assert len(domain.unlabelled("train")) == 30


def test_classes_alone_become_three_splits(pets: Path) -> None:
    domain = load(pets / "train")
    assert [len(domain.labelled(split)) for split in SPLITS] == [24, 3, 3]
    found = [value for split in SPLITS for value in values(domain, split)]
    assert sorted(found) == list(range(2, 32))
    for split in SPLITS:
        expected = [1 - value % 2 for value in values(domain, split)]
        assert domain.labelled(split).labels.tolist() == expected


def test_the_fewest_images_leave_one_for_each_split(tmp_path: Path) -> None:
    write_all(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    domain = load(tmp_path)
    assert [len(domain.labelled(split)) for split in SPLITS] == [1, 1, 1]
    assert domain.class_names == ("a", "b")
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"train and held_out and test .* but there are 2"):
        load(tmp_path)


def test_classes_and_their_images_are_torchvisions(tmp_path: Path) -> None:
    names = ["b/x.JPG", "a10/1.png", "a2/deep/er/1.webp", "a2/2.bmp", "B/1.tiff", "a2/1.jpeg"]
    for part in ("train", "test"):
        write_all(tmp_path / part, names)
        write_all(tmp_path / part, [".hidden/1.png", "b/.2.png"])
        (tmp_path / part / "b" / "readme.txt").write_text("no image")
    (tmp_path / "train" / "b" / ".2.png").unlink()
    domain = load(tmp_path)
    for hidden in ("test/.hidden/1.png", "test/b/.2.png"):
        (tmp_path / hidden).unlink()
    (tmp_path / "test" / ".hidden").rmdir()
    theirs = datasets.ImageFolder(tmp_path / "test")
    assert domain.class_names == tuple(theirs.classes) == ("B", "a10", "a2", "b")
    assert sorted(domain.labelled("test").labels.tolist()) == sorted(theirs.targets)


def test_images_alone_are_a_target_without_labels(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{row:02}.png" for row in range(20)])
    domain = load(tmp_path)
    assert domain.class_names == ()
    assert [len(domain.unlabelled(split)) for split in SPLITS] == [16, 2, 2]
    assert values(domain, "held_out") == [2 + row for row in fixed_permutation(20)[:2].tolist()]
    with pytest.raises(LabelsMissingError, match=f"image-folder:{tmp_path}.*'train' split"):
        domain.labelled("train")


def test_images_alone_may_come_in_splits(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{part}/{row}.png" for part in ("train", "test") for row in range(4)])
    domain = load(tmp_path)
    assert [len(domain.unlabelled(split)) for split in SPLITS] == [3, 1, 4]
    assert values(domain, "test") == [6, 7, 8, 9]


def test_an_unknown_split_is_refused_with_and_without_labels(pets: Path) -> None:
    for domain in (load(pets), load(pets / "train" / "dog")):
        for ask in (domain.labelled, domain.unlabelled):
            with pytest.raises(ValueError, match="this one is 'val'"):
                ask("val")  # type: ignore[arg-type]


def test_a_relative_path_is_in_the_data_root(pets: Path) -> None:
    domain = load_domain(f"image-folder:{pets.name}", data_root=pets.parent)
    assert len(domain.labelled("test")) == 6


def test_a_split_is_decoded_once(pets: Path) -> None:
    domain = load(pets)
    first = domain.unlabelled("train")
    assert domain.unlabelled("train") is first
    assert domain.labelled("train").images is first.images


def test_two_loads_are_equal(pets: Path) -> None:
    for split in SPLITS:
        assert load(pets).labelled(split).fingerprint() == load(pets).labelled(split).fingerprint()


# Pixels.


def test_all_grey_images_have_one_channel_and_one_in_colour_makes_three(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{row}.png" for row in range(9)])
    write(tmp_path / "bits.png", 1, mode="1")
    assert load(tmp_path).image_shape == (1, *GREY)
    write(tmp_path / "colour.png", 200, mode="RGB")
    domain = load(tmp_path)
    assert domain.image_shape == (3, *GREY)
    pixels = torch.cat([domain.unlabelled(split).images for split in SPLITS])[:, :, 0, 0]
    assert sorted(pixels.tolist()) == sorted(
        [*([value] * 3 for value in range(2, 11)), [255] * 3, [200, 0, 50]]
    )


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*GREY, 3), dtype=np.uint8))
    for row in range(3):
        source.convert(mode).save(tmp_path / f"{row}.tiff")
    images = load(tmp_path).unlabelled("test").images
    expected = np.asarray(source.convert(mode).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(images[0].numpy(), expected)


def test_images_are_resized_as_pillow_does_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for row in range(3):
        pixels = rng.integers(0, 256, (60 + row, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    domain = load(tmp_path, size=(20, 30))
    assert domain.image_shape == (3, 20, 30)
    with Image.open(tmp_path / f"{fixed_permutation(3)[1]}.png") as image:
        expected = np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(domain.unlabelled("test").images[0], expected.transpose(2, 0, 1))


def test_several_sizes_need_one_to_be_given(tmp_path: Path) -> None:
    write_all(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    write(tmp_path / "b" / "2.png", size=(50, 40))
    domain = load(tmp_path)  # It may be paired with one whose size it takes.
    assert domain.class_names == ("a", "b")
    with pytest.raises(ValueError, match=r"have 2:\n  40×50: .*\n  50×40: b/2.png\n.*Give a size"):
        domain.unlabelled("train")
    assert load(tmp_path, size=(8, 9)).unlabelled("train").images.shape[1:] == (1, 8, 9)


def turn(path: Path, orientation: int, height: int, width: int) -> None:
    """Write an image whose upper half is bright before it is turned."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[: height // 2] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("size", [None, (32, 16)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_images_are_turned_as_their_camera_says(
    tmp_path: Path, suffix: str, size: tuple[int, int] | None
) -> None:
    for row in range(3):
        turn(tmp_path / f"{row}.{suffix}", 6, 16, 32)  # 90 degrees clockwise sets it upright.
    domain = load(tmp_path, size=size)
    assert domain.image_shape[1:] == (32, 16)
    image = domain.unlabelled("test").images[0, 0].float()
    assert image[:, 10:].min() > 240
    assert image[:, :6].max() < 15


def test_what_is_loaded_is_logged(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load(pets).labelled("test")
    load(pets / "test" / "dog").unlabelled("train")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("test: 6 images, 1 channels, 40×50; by class: Cat 3, dog 3")
    assert second.endswith("train: 1 images, 1 channels, 40×50; no labels")


# What is not as expected.


def test_damaged_images_are_counted_and_the_first_ten_named(pets: Path) -> None:
    for row in range(12):
        (pets / "train" / "dog" / f"{row:03}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="12 cannot be used") as error:
        load(pets).labelled("test")
    text = str(error.value)
    assert f"Of the images in {pets}, 12" in text
    assert "\n  train/dog/009.jpg: cannot identify" in text
    assert "010.jpg" not in text
    assert "\n  and 2 more\nGet those again" in text


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    for row in range(3):
        pixels = rng.integers(0, 256, (50, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row}.{suffix}")
    cut = tmp_path / f"{fixed_permutation(3)[1]}.{suffix}"
    cut.write_bytes(cut.read_bytes()[:-500])
    with pytest.raises(ValueError, match=f"1 cannot be used:\n  {cut.name}: .*\nGet those again"):
        load(tmp_path, size=(8, 8)).unlabelled("test")


def test_images_of_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path, ["1.png", "2.png"])
    Image.fromarray(np.full(GREY, 3_000, dtype=np.uint16)).save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"  3\.png: mode I;16 has more than 8 bits a channel"):
        load(tmp_path).unlabelled("test")


def test_a_folder_that_is_not_there_is_told_with_what_is(pets: Path) -> None:
    with pytest.raises(DataMissingError, match=f"no folder {pets}/tain; {pets} has: test, train"):
        load(pets / "tain")
    with pytest.raises(DataMissingError, match="--data-root"):
        load(pets / "train" / "dog" / "00.png")


LAYOUTS = {
    "nothing": ([], "has no image: .empty.", "Check the path"),
    "other files": (["a.txt"], r"has no image: a\.txt", r"ends in \.jpg"),
    "an empty class": (
        ["a/1.png", "b/1.txt", "c/"],
        "no image in its b, c",
        "remove their folders",
    ),
    "one class": (["a/1.png", "a/2.png"], "its one class is a", "Add the folder of another class"),
    "images beside classes": (
        ["a/1.png", "b/1.png", "1.png"],
        r"both images \(1\.png\) and folders \(a, b\)",
        "Move the images",
    ),
    "images beside splits": (
        ["train/a/1.png", "test/a/1.png", "1.png"],
        r"beside train and test it has 1\.png",
        "Move these",
    ),
    "a split of another name": (
        ["train/a/1.png", "test/a/1.png", "val/a/1.png"],
        "beside train and test it has val",
        "to held_out",
    ),
    "no test": (
        ["train/a/1.png", "train/b/1.png"],
        "folders train look like splits",
        "to train, test",
    ),
    "val for test": (
        ["train/a/1.png", "val/a/1.png", "notes/a.png"],
        "folders train, val look like splits",
        "Rename",
    ),
    "splits in capitals": (
        ["Train/a/1.png", "Test/a/1.png"],
        "folders Test, Train look like splits",
        "to train, test",
    ),
    "flat splits of other names": (
        ["train/1.png", "val/1.png"],
        "folders train, val look like splits",
        "Rename",
    ),
    "a split without classes": (
        ["train/a/1.png", "train/b/1.png", "test/1.png"],
        "its test has no folders of classes",
        "in all splits or in none",
    ),
    "a class that train lacks": (
        ["train/cat/1.png", "train/dog/1.png", "test/cats/1.png"],
        "its test has classes that train lacks: cats",
        "Rename them to one of cat, dog",
    ),
    "one class to train on": (
        ["train/a/1.png", "train/a/2.png", "test/a/1.png"],
        "train: its one class is a",
        "Add the folder",
    ),
    "both in a split": (
        ["train/a/1.png", "train/1.png", "test/a/1.png"],
        r"train: it has both images \(1\.png\) and folders \(a\)",
        "Move the images",
    ),
}


@pytest.mark.parametrize(("names", "found", "remedy"), LAYOUTS.values(), ids=LAYOUTS)
def test_another_layout_is_told_with_those_that_are_expected(
    tmp_path: Path, names: list[str], found: str, remedy: str
) -> None:
    for name in names:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()  # A layout is judged by names alone.
    with pytest.raises(ValueError, match=found) as error:
        load(tmp_path)
    assert f"But of {tmp_path}" in str(error.value)
    assert "  train/CLASS/*.png and test/CLASS/*.png" in str(error.value)
    with pytest.raises(ValueError, match=remedy):
        load(tmp_path)


def test_a_class_may_be_called_as_a_split(tmp_path: Path) -> None:
    """VisDA's twelve classes have bus, truck and train."""
    write_all(tmp_path, ["bus/1.png", "train/1.png", "train/2.png", "truck/1.png"])
    assert load(tmp_path).class_names == ("bus", "train", "truck")


def test_a_class_that_no_train_image_was_left_of_keeps_its_number(tmp_path: Path) -> None:
    rare = int(fixed_permutation(12)[0])
    write_all(
        tmp_path, [f"{'amz'[1 + (row > rare) - (row < rare)]}/{row}.png" for row in range(12)]
    )
    domain = load(tmp_path)
    assert domain.class_names == ("a", "m", "z")
    assert domain.labelled("held_out").labels.tolist() == [1]
    assert 1 not in domain.labelled("train").labels


# Pairs.


def test_a_pair_has_the_targets_size_and_the_sources_classes(tmp_path: Path, pets: Path) -> None:
    photos = tmp_path / "photos"
    write_all(photos, [f"{row}.png" for row in range(5)])
    write(photos / "0.png", size=(16, 16))
    source, target = load_pair(
        f"image-folder:{pets / 'train'}", f"image-folder:{photos}", size=(12, 10)
    )
    assert source.image_shape == target.image_shape == (1, 12, 10)
    assert source.class_names == target.class_names == ("Cat", "dog")
    with pytest.raises(LabelsMissingError):
        target.labelled("test")


def test_an_unlabelled_folder_takes_the_size_of_digits(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{row}.png" for row in range(5)])
    write(tmp_path / "0.png", size=(16, 16))
    source, target = load_pair("handwritten-digits", f"image-folder:{tmp_path}")
    assert target.image_shape == source.image_shape == (1, 28, 28)
    assert target.class_names == source.class_names


def test_a_folder_without_labels_is_no_source(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{row}.png" for row in range(5)])
    with pytest.raises(LabelsMissingError, match="has no labels"):
        load_pair(f"image-folder:{tmp_path}", "handwritten-digits")


def test_a_target_may_lack_classes_and_its_labels_are_numbered_as_the_sources(
    tmp_path: Path,
) -> None:
    write_all(tmp_path / "source", [f"{name}/{row}.png" for name in "abcd" for row in range(4)])
    write_all(tmp_path / "target", [f"{name}/{row}.png" for name in "bd" for row in range(6)])
    source, target = load_pair(f"image-folder:{tmp_path}/source", f"image-folder:{tmp_path}/target")
    assert source.class_names == target.class_names == ("a", "b", "c", "d")
    for split in SPLITS:
        labels = [1 if value < 8 else 3 for value in values(target, split)]
        assert target.labelled(split).labels.tolist() == labels
    with pytest.raises(ValueError, match="same classes in one order"):
        load_pair(f"image-folder:{tmp_path}/target", f"image-folder:{tmp_path}/source")


@pytest.mark.parametrize(("of_source", "of_target"), [("L", "RGB"), ("RGB", "L")])
def test_grey_and_colour_become_colour(tmp_path: Path, of_source: str, of_target: str) -> None:
    write_all(tmp_path / "source", [f"{name}/{row}.png" for name in "ab" for row in range(3)])
    write_all(tmp_path / "source", ["a/0.png"], mode=of_source)
    write_all(tmp_path / "target", [f"{row}.png" for row in range(4)], mode=of_target)
    pair = load_pair(f"image-folder:{tmp_path}/source", f"image-folder:{tmp_path}/target")
    for domain in pair:
        assert domain.unlabelled("train").images.shape[1:] == domain.image_shape == (3, *GREY)


def test_colour_becomes_grey_beside_digits(tmp_path: Path) -> None:
    write_all(tmp_path, [f"{row}.png" for row in range(5)], mode="RGB")
    _, target = load_pair("handwritten-digits", f"image-folder:{tmp_path}")
    assert target.unlabelled("train").images.shape[1:] == (1, 28, 28)


def test_folders_that_are_no_classes_can_be_an_unlabelled_target(
    tmp_path: Path, pets: Path
) -> None:
    days = tmp_path / "days"
    write_all(days, ["monday/1.png", "monday/noon/2.png", "tuesday/3.png", "4.png"])
    _, target = load_pair(f"image-folder:{pets / 'train'}", f"unlabelled-folder:{days}")
    assert sorted(value for split in SPLITS for value in values(target, split)) == [2, 3, 4, 5]
    with pytest.raises(LabelsMissingError):
        target.labelled("test")
    (days / "4.png").unlink()
    (days / "tuesday" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"but there are 2\. Add images"):
        load_domain(f"unlabelled-folder:{days}")
    with pytest.raises(DataMissingError, match="no folder"):
        load_domain(f"unlabelled-folder:{days}s")
