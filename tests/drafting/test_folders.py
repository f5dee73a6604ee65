"""What is seen in two folders, and what is said of folders that do not go together."""

from pathlib import Path

import numpy as np
import pytest
from photo_folders import write_frames, write_image, write_images
from PIL import Image

from gam_ray.drafting import look_at_folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A source: cats in colour, dogs in grey, of two sizes."""
    folder = tmp_path / "photos"
    write_images(folder, [f"cat/{row}.jpg" for row in range(12)], mode="RGB", size=(30, 40))
    write_images(folder, [f"dog/{row}.png" for row in range(4)])
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A target: images alone."""
    write_images(tmp_path / "scans", [f"{row}.png" for row in range(5)])
    return tmp_path / "scans"


def test_counts_sizes_modes_ranges_and_classes_are_those_of_the_files(
    photos: Path, scans: Path
) -> None:
    Image.fromarray(np.full((28, 28), 7, np.uint8)).save(scans / "0.png")
    for row in range(1, 5):
        Image.fromarray(np.full((28, 28), 90 + row, np.uint8)).save(scans / f"{row}.png")
    pair = look_at_folders(photos, scans)
    source, target = pair.source, pair.target
    assert (source.images, target.images) == (16, 5)
    assert source.sizes == {(30, 40): 12, (28, 28): 4}
    assert source.median_size == (30, 40)
    assert source.modes == {"RGB": 12, "L": 4}
    assert (source.is_grey, target.is_grey) == (False, True)
    assert source.by_class == {"cat": 12, "dog": 4}
    assert target.by_class == {}
    assert target.value_range == (7, 94)
    assert source.domain == f"image-folder:{photos}"
    told = "\n".join(pair.notes)
    for note in ("taken as colour", "few images: dog (4)", "16 images only", "no oracle"):
        assert note in told


def test_a_target_may_lack_a_class_and_its_labels_are_seen(photos: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "scans", [f"dog/{row}.png" for row in range(3)])
    write_images(tmp_path / "both", [f"{name}/1.png" for name in ("cat", "dog")] * 2)
    write_images(tmp_path / "both", ["cat/2.png"])
    alone = look_at_folders(photos, tmp_path / "scans")
    assert alone.target.domain == f"unlabelled-folder:{tmp_path}/scans"
    assert alone.target.class_names == ()
    both = look_at_folders(photos, tmp_path / "both").target
    assert (both.domain, both.by_class) == (
        f"image-folder:{tmp_path}/both",
        {"cat": 2, "dog": 1},
    )
    write_images(photos, ["owl/1.png"])
    notes = look_at_folders(photos, tmp_path / "both").notes
    assert "The target has none of owl" in "\n".join(notes)


def test_folders_of_a_target_that_are_no_classes_count_as_unlabelled(
    photos: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "days", ["monday/1.png", "monday/2.png", "tuesday/1.png"])
    pair = look_at_folders(photos, tmp_path / "days")
    assert pair.target.domain == f"unlabelled-folder:{tmp_path}/days"
    assert "not taken as classes" in pair.notes[0]


def test_a_misspelt_class_of_the_target_names_its_neighbour(photos: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "scans", ["cat/1.png", "dgo/1.png", "dgo/2.png"])
    with pytest.raises(ValueError, match=r"has 'dgo' \(did you mean 'dog'\?\)\. Rename"):
        look_at_folders(photos, tmp_path / "scans")


def test_all_that_is_wrong_in_both_folders_is_said_at_once(photos: Path, scans: Path) -> None:
    (photos / "cat" / "3.jpg").write_bytes(b"no image")
    cut = photos / "dog" / "1.png"
    cut.write_bytes(cut.read_bytes()[:300])
    Image.fromarray(np.full((28, 28), 3_000, dtype=np.uint16)).save(scans / "2.png")
    with pytest.raises(ValueError, match="cannot be used") as error:
        look_at_folders(photos, scans)
    text = str(error.value)
    assert f"Of the files in {photos}, 2 cannot be used" in text
    for file in (photos / "cat" / "3.jpg", cut, scans / "2.png"):
        assert f"  {file}: " in text
    assert "more than 8 bits" in text


def test_a_source_without_labels_and_a_target_that_is_not_there_are_told_together(
    scans: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="folders that are named after their classes") as error:
        look_at_folders(scans, tmp_path / "nothing")
    assert f"there is no folder {tmp_path}/nothing" in str(error.value)


def test_images_scaled_to_one_are_refused(photos: Path, scans: Path) -> None:
    for file in scans.iterdir():
        Image.fromarray(np.ones((28, 28), np.uint8)).save(file)
    with pytest.raises(ValueError, match="look scaled to"):
        look_at_folders(photos, scans)


def test_one_folder_for_both_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match="two folders, but both are"):
        look_at_folders(photos, photos)


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_images_and_labels_are_a_segmentation(tmp_path: Path, labels: str) -> None:
    write_frames(tmp_path / "day", 10, labels=labels)
    write_frames(tmp_path / "night", 6, labels=None)
    pair = look_at_folders(tmp_path / "day", tmp_path / "night")
    assert pair.source.domain == f"segmentation-folder:{tmp_path}/day"
    assert (pair.source.images, pair.target.images) == (10, 6)
    row = 64 * 10
    assert pair.source.by_class == {"sky": 23 * row + 24 * row // 2, "ground": 24 * row // 2}
    assert pair.target.class_names == ()


def test_each_label_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "day", 10, ids=3)
    write_frames(tmp_path / "night", 6, labels=None)
    Image.new("L", (10, 10)).save(tmp_path / "day" / "labels" / "0.png")
    with pytest.raises(ValueError, match="4 cannot be used") as error:
        look_at_folders(tmp_path / "day", tmp_path / "night")
    assert "labels/5.png has label ids 2" in str(error.value)
    assert "labels/0.png is 10×10" in str(error.value)


def test_a_kind_that_cannot_be_told_is_asked_for(tmp_path: Path, scans: Path) -> None:
    for name in ("images", "annotations"):
        for row in range(4):
            write_image(tmp_path / "set" / name / f"{row}.png")
    with pytest.raises(ValueError, match="Say which: --kind classification"):
        look_at_folders(tmp_path / "set", scans)
    pair = look_at_folders(tmp_path / "set", scans, "classification")
    assert pair.source.class_names == ("annotations", "images")
    with pytest.raises(ValueError, match="Did you mean 'segmentation'"):
        look_at_folders(tmp_path / "set", scans, "segmentatoin")
