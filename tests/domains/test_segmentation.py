"""Label files, sizes, and what is wrong with a data set's files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from segmentation_trees import (
    BUILDERS,
    SIZE,
    Tree,
    gta5,
    hold_out_few,
    some_pairs,
    write_colours,
    write_folders,
    write_ids,
    write_image,
    write_palette,
    write_sixteen_bits,
)
from torch.nn import functional

from gam_ray.domains import (
    SPLITS,
    VOID,
    DataMissingError,
    LabelsMissingError,
    load_domain,
    load_pair,
)
from gam_ray.domains.label_files import LabelTable, read_first_channel, resize_image, resize_labels
from gam_ray.domains.street_classes import CAMVID_11, CITYSCAPES_IDS, cityscapes_classes

NOWHERE = Path("a/label.png")


@pytest.fixture(autouse=True)
def _few_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out_few(monkeypatch)
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path / "cache"))


def load_all(tree: Tree, **options: object) -> None:
    domain = tree.load(**options)
    for split in SPLITS:
        domain.labelled(split)


tables = st.dictionaries(st.integers(0, 400), st.none() | st.integers(0, VOID - 1), min_size=1)


@given(tables.flatmap(lambda t: st.tuples(st.just(t), st.lists(st.sampled_from(sorted(t))))))
def test_a_table_maps_every_id_that_it_knows(case: tuple[dict[int, int | None], list[int]]) -> None:
    classes, ids = case
    labels = LabelTable(classes)(np.array([ids], dtype=np.uint16), origin=NOWHERE)
    assert labels.dtype == np.uint8
    assert labels[0].tolist() == [VOID if classes[id_] is None else classes[id_] for id_ in ids]


@given(tables, st.integers(-2, 70_000))
@example({0: 3}, -1)
@example({0: 3, 2: 1}, 1)
@example({0: 3}, 1)
def test_a_table_names_every_id_that_it_does_not_know(
    classes: dict[int, int | None], id_: int
) -> None:
    ids = np.array([[next(iter(classes)), id_]], dtype=np.int32)
    if id_ in classes:
        LabelTable(classes)(ids, origin=NOWHERE)
    else:
        with pytest.raises(ValueError, match=rf"^a/label.png has label ids {id_}, but"):
            LabelTable(classes)(ids, origin=NOWHERE)


@pytest.mark.parametrize("write", [write_ids, write_palette])
def test_gta5_labels_may_have_a_palette_or_be_grey(write: object, tmp_path: Path) -> None:
    tree = gta5(tmp_path, write)
    assert tree.load().labelled("train").labels.unique().tolist() == [*range(19), VOID]


def test_gta5_labels_may_be_colours(tmp_path: Path) -> None:
    """Only licence plates and pole groups are not told apart, from cars and from poles."""
    by_colour, by_id = gta5(tmp_path / "c", write_colours), gta5(tmp_path / "i", write_ids)
    classes = cityscapes_classes("cityscapes-19") | {34: 13, 18: 5}
    colours, ids = by_colour.load().labelled("train"), by_id.load().labelled("train")
    assert torch.equal(colours.images, ids.images)
    of_image = {pixels.transpose(2, 0, 1).tobytes(): written for pixels, written in by_id.pairs}
    for image, labels in zip(colours.images.numpy(), colours.labels.numpy(), strict=True):
        expected = [classes[id_] for id_ in of_image[image.tobytes()].ravel().tolist()]
        assert labels.ravel().tolist() == [VOID if each is None else each for each in expected]


def test_a_colour_that_stands_for_nothing_is_named(tmp_path: Path) -> None:
    tree = gta5(tmp_path, write_colours)
    file = tree.folder / "labels" / "00004.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[3, 4], pixels[5, 6] = (1, 2, 3), (255, 255, 255)
    write_image(file, pixels)
    with pytest.raises(ValueError, match=rf"{file} has colours .* no class: #010203, #ffffff\."):
        load_all(tree)


def test_cityscapes_colours_are_no_ids(tmp_path: Path) -> None:
    tree = BUILDERS["streets"](tmp_path)
    file = tree.folder / "labels" / "00004.png"
    write_colours(file, tree.pairs[4][1])
    with pytest.raises(ValueError, match=f"one channel of ids, but {file} is of mode RGB"):
        load_all(tree)


def test_the_frames_of_gta5_that_are_faulty_are_left_out(tmp_path: Path) -> None:
    tree = gta5(tmp_path)
    write_image(tree.folder / "images" / "15188.png", np.full((9, 9, 3), 200, np.uint8))
    write_ids(tree.folder / "labels" / "15188.png", np.zeros((7, 7)))
    write_image(tree.folder / "images" / "17705.png", np.full((9, 9, 3), 200, np.uint8))
    domain = tree.load()
    assert sum(len(domain.labelled(split)) for split in SPLITS) == len(tree.pairs)


def test_sixteen_bits_are_read_to_the_lowest(tmp_path: Path) -> None:
    """The upper byte of every class is 0, and the second channel, the instance, is not read."""
    ids = np.arange(192).reshape(SIZE)
    write_sixteen_bits(tmp_path / "label.png", ids)
    assert np.array_equal(read_first_channel(tmp_path / "label.png"), ids)
    write_ids(tmp_path / "grey.png", ids)
    assert np.array_equal(read_first_channel(tmp_path / "grey.png"), ids)


def test_synthia_s_pictures_of_labels_are_no_labels(tmp_path: Path) -> None:
    tree = BUILDERS["synthia"](tmp_path)
    for file in (tree.folder / "GT" / "LABELS").iterdir():
        write_colours(file, np.zeros(SIZE, dtype=int))
    with pytest.raises(ValueError, match=r"LABELS/.*first of three channels of 16 bits"):
        load_all(tree)


def test_images_are_resized_as_torch_does_it() -> None:
    """Bilinear and antialiased, up to rounding."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    resized = resize_image(Image.fromarray(pixels), (13, 30))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(images, size=(13, 30), mode="bilinear", antialias=True)
    assert np.abs(resized - expected[0].numpy()).max() <= 1.5


@pytest.mark.parametrize("size", [(6, 8), (3, 16), (12, 2), (24, 32)])
def test_a_resized_label_is_that_of_the_nearest_pixel(size: tuple[int, int]) -> None:
    labels = np.arange(192, dtype=np.uint8).reshape(SIZE)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, SIZE, strict=True)
    )
    assert np.array_equal(resize_labels(labels, size), labels[rows][:, columns])


def test_labels_stay_on_their_images_when_both_are_resized(tmp_path: Path) -> None:
    """An image that is painted from its labels still is, away from the edges."""
    ids = np.zeros((48, 64), dtype=np.uint8)
    ids[24:, 16:] = 1
    pairs = [((ids * 200)[..., None].repeat(3, axis=2), ids)] * 3
    write_folders(pairs, tmp_path / "f/train/images", tmp_path / "f/train/labels")
    (tmp_path / "f" / "classes.txt").write_text("dark\nbright\n")
    domain = load_domain("segmentation-folder:f", data_root=tmp_path, size=(12, 16))
    part = domain.labelled("train")
    assert torch.equal(part.images[:, 0] > 100, part.labels == 1)


def test_a_grey_image_and_one_with_a_palette_are_read_as_colours(tmp_path: Path) -> None:
    pairs = some_pairs(4, (0, 1))
    write_folders(pairs, tmp_path / "f/train/images", tmp_path / "f/train/labels")
    (tmp_path / "f" / "classes.txt").write_text("a\nb\n")
    grey = pairs[0][0][..., 0]
    for number in range(4):
        write_image(tmp_path / "f/train/images" / f"{number:05}.png", grey)
    part = load_domain("segmentation-folder:f", data_root=tmp_path).labelled("train")
    assert torch.equal(part.images[0], torch.from_numpy(grey).expand(3, -1, -1))


def test_a_photograph_is_turned_as_it_says(tmp_path: Path) -> None:
    sideways = Image.fromarray(np.repeat([[[0] * 3], [[250] * 3]], 8, axis=0).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 8  # It was taken with the camera turned: rows are columns.
    for number in range(2):
        file = tmp_path / "f" / "train" / "images" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        sideways.save(file, exif=exif)
    domain = load_domain("segmentation-folder:f", data_root=tmp_path)
    assert domain.image_shape == (3, 1, 16)
    assert domain.unlabelled("train").images[0, 0, 0].tolist() == [0] * 8 + [250] * 8


# What is wrong with the files.


def test_an_unknown_id_is_named_with_its_file(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    file = tree.folder / "trainannot" / "0001TP_000002.png"
    ids = tree.pairs[2][1].copy()
    ids[0, :4] = (12, 13, 14, 200)
    write_ids(file, ids)
    with pytest.raises(ValueError, match=rf"{file} has label ids 12-14, 200, but .* are 0-11\."):
        load_all(tree)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_what_is_absent_is_listed_all_at_once(name: str, tmp_path: Path) -> None:
    tree = BUILDERS[name](tmp_path)
    folder = tree.label_folders()[0]
    labels = sorted(path for path in folder.rglob("*.png") if "color" not in path.name)
    labels[0].unlink()
    labels[1].rename(labels[1].with_name(labels[1].name.replace("0", "7", 1)))
    with pytest.raises(DataMissingError, match=r"has a label in .*, and every label an ") as error:
        load_all(tree)
    text = str(error.value)
    assert f"'{tree.name}'" in text
    assert "Labels that are absent (2): " in text
    assert labels[0].name in text
    assert labels[1].name in text
    assert "Labels whose image is absent (1): " in text


def test_many_absent_files_are_ten_and_a_number(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    for number in range(12):
        write_image(tree.folder / "test" / f"x{number:02}.png", tree.pairs[0][0])
    with pytest.raises(DataMissingError, match=r"absent \(12\): x00.png, .*9.png, and 2 more\n"):
        load_all(tree)


@pytest.mark.parametrize("kind", ["cut off", "of text", "empty"])
@pytest.mark.parametrize("folder", ["test", "testannot"])
def test_a_damaged_file_is_named(kind: str, folder: str, tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    file = tree.folder / folder / "0001TP_000001.png"
    content = {"cut off": file.read_bytes()[:-30], "of text": b"<html>", "empty": b""}
    file.write_bytes(content[kind])
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image: .* get it again"):
        load_all(tree)
    assert not list((tmp_path / "cache").glob("*.building"))


def test_a_label_of_another_size_than_its_image_is_named(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    file = tree.folder / "testannot" / "0001TP_000001.png"
    write_ids(file, np.zeros((7, 9)))
    with pytest.raises(ValueError, match=rf"{file} is 9×7 and .*/test/{file.name} is 16×12"):
        load_all(tree)


def test_two_files_for_one_image_are_named(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    write_image(tree.folder / "test" / "0001TP_000001.jpg", tree.pairs[0][0])
    with pytest.raises(ValueError, match=r"0001TP_000001.jpg and .*0001TP_000001.png differ in"):
        load_all(tree)


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    for name in ("._0001TP_000001.png", "Thumbs.db", "readme.txt"):
        (tree.folder / "test" / name).write_bytes(b"nothing")
    assert len(tree.load().labelled("test")) == 3


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    for folder in ("test", "testannot"):
        for file in (tree.folder / folder).iterdir():
            file.rename(file.with_suffix(".PNG"))
    assert len(tree.load().labelled("test")) == 3


def test_labels_that_are_void_throughout_are_refused(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    for number, file in enumerate(sorted((tree.folder / "testannot").iterdir())):
        write_ids(file, np.full(SIZE, 11))
        if number == 1:
            assert len(tree.load().labelled("test")) == 3  # One image still has a class.
    with pytest.raises(ValueError, match=r"camvid test cannot be used.*all 3 of these .* is void"):
        load_all(tree)


def test_images_scaled_to_one_are_refused(tmp_path: Path) -> None:
    tree = BUILDERS["camvid"](tmp_path)
    for file in (tree.folder / "test").iterdir():
        write_image(file, (np.asarray(Image.open(file)) > 100).astype(np.uint8))
    with pytest.raises(ValueError, match=r"camvid test cannot be used.*brightest pixel .* is 1"):
        load_all(tree)


@pytest.mark.parametrize("name", ["gta5", "streets", "synthia"])
def test_too_few_images_for_three_splits_are_refused(name: str, tmp_path: Path) -> None:
    tree = BUILDERS[name](tmp_path)
    for folder in (*tree.label_folders(), tree.folder / ("RGB" if name == "synthia" else "images")):
        for file in sorted(folder.iterdir())[5:]:
            file.unlink()
    with pytest.raises(DataMissingError, match=r"2 are held out and 3 test, so more than 5 .* 5\."):
        load_all(tree)


def test_what_a_split_holds_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gam_ray")
    pairs = some_pairs(4, (0, 0, 0, 1, 255))
    write_folders(pairs, tmp_path / "f/train/images", tmp_path / "f/train/labels")
    (tmp_path / "f" / "classes.txt").write_text("a\nb\n")
    domain = load_domain("segmentation-folder:f", data_root=tmp_path)
    domain.unlabelled("train")
    domain.labelled("train")
    told = [each for each in caplog.messages if "decod" not in each]
    assert told == [
        "segmentation-folder:f train: 3 images, 12×16",
        "segmentation-folder:f train: % of pixels: a 60.4, b 19.8, void 19.8",
    ]


# Folders of one's own.


def test_a_folder_holds_out_what_is_apart(tmp_path: Path) -> None:
    tree = BUILDERS["segmentation-folder"](tmp_path)
    apart = some_pairs(2, (0, 1), 7)
    write_folders(apart, tree.folder / "held_out" / "images", tree.folder / "held_out" / "labels")
    domain = tree.load()
    assert [len(domain.labelled(split)) for split in SPLITS] == [7, 2, 3]
    expected = apart[0][0].transpose(2, 0, 1)
    assert np.array_equal(domain.labelled("held_out").images[0].numpy(), expected)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (19, 1), (25, 2)])
def test_a_folder_without_any_apart_holds_out_a_tenth(
    count: int, held_out: int, tmp_path: Path
) -> None:
    pairs = some_pairs(count, (0, 1))
    write_folders(pairs, tmp_path / "f/train/images", tmp_path / "f/train/labels")
    (tmp_path / "f" / "classes.txt").write_text("a\nb\n")
    domain = load_domain("segmentation-folder:f", data_root=tmp_path)
    assert [len(domain.labelled(s)) for s in SPLITS[:2]] == [count - held_out, held_out]
    assert domain.image_shape == (3, *SIZE)


def test_a_folder_without_labels_is_a_target_of_any_classes(tmp_path: Path) -> None:
    streets = BUILDERS["streets"](tmp_path)
    for pixels, number in ((pixels, n) for n, (pixels, _) in enumerate(streets.pairs)):
        write_image(tmp_path / "mine" / "train" / "images" / f"{number}.jpg", pixels)
    for classes, expected in ((None, "cityscapes-19"), ("synthia-13", "synthia-13")):
        source, target = load_pair(
            "streets",
            f"segmentation-folder:{tmp_path / 'mine'}",
            data_root=tmp_path,
            classes=classes,
        )
        assert source.class_list == expected
        assert target.class_names == source.class_names
        assert target.image_shape == source.image_shape == (3, *SIZE)
        assert len(target.unlabelled("train")) == 8
        assert len(target.unlabelled("held_out")) == 1
        with pytest.raises(LabelsMissingError, match="no labels for its 'test'"):
            target.labelled("test")
    with pytest.raises(LabelsMissingError, match="source has labelled images"):
        load_pair(f"segmentation-folder:{tmp_path / 'mine'}", "streets", data_root=tmp_path)


def test_a_folder_of_a_known_list_goes_together_with_it(tmp_path: Path) -> None:
    BUILDERS["streets"](tmp_path)
    names = list(CAMVID_11)
    write_folders(
        some_pairs(4, range(11)), tmp_path / "f/train/images", tmp_path / "f/train/labels"
    )
    (tmp_path / "f" / "classes.txt").write_text("\n".join(names))
    source, target = load_pair("streets", "segmentation-folder:f", data_root=tmp_path)
    assert source.class_names == target.class_names == tuple(names)
    assert load_pair("segmentation-folder:f", "streets", data_root=tmp_path)[1].class_list == (
        "camvid-11"
    )
    (tmp_path / "f" / "classes.txt").write_text("\n".join(names[::-1]))
    with pytest.raises(ValueError, match=r"camvid-11 \(sky, .* has folder \(bicyclist, .*sky\)"):
        load_pair("streets", "segmentation-folder:f", data_root=tmp_path)


def test_labels_without_names_are_refused(tmp_path: Path) -> None:
    tree = BUILDERS["segmentation-folder"](tmp_path)
    (tree.folder / "classes.txt").unlink()
    with pytest.raises(DataMissingError, match=r"classes.txt .a class name a line"):
        tree.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "but it has 0. Mend it"),
        ("a\nb\na\n", "but it has 3, and twice: a. Mend it"),
        ("\n".join(map(str, range(256))), "1 to 255 of them .* but it has 256"),
    ],
)
def test_names_are_one_a_line(text: str, message: str, tmp_path: Path) -> None:
    tree = BUILDERS["segmentation-folder"](tmp_path)
    (tree.folder / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        tree.load()


def test_names_may_come_from_windows(tmp_path: Path) -> None:
    tree = BUILDERS["segmentation-folder"](tmp_path)
    (tree.folder / "classes.txt").write_bytes(b"\xef\xbb\xbfthe sky\r\nground\r\n\r\nthing \r\n")
    assert tree.load().class_names == ("the sky", "ground", "thing")


def test_a_folder_with_labels_needs_a_test_split_when_asked_for(tmp_path: Path) -> None:
    tree = BUILDERS["segmentation-folder"](tmp_path)
    (tree.folder / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(DataMissingError, match=r"test/images/\* .needed with labels"):
        tree.load().labelled("test")


# Pairs.


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("gta5", "cityscapes", "cityscapes-19"),
        ("synthia", "cityscapes", "synthia-16"),
        ("cityscapes", "synthia", "synthia-16"),
        ("streets", "camvid", "camvid-11"),
        ("gta5", "camvid", "camvid-11"),
        ("streets", "cityscapes", "cityscapes-19"),
    ],
)
def test_a_pair_takes_the_target_s_first_common_list_and_its_size(
    source: str, target: str, expected: str
) -> None:
    loaded = load_pair(source, target)
    assert [domain.class_list for domain in loaded] == [expected] * 2
    assert loaded[0].image_shape == loaded[1].image_shape
    own = (360, 480) if target == "camvid" else (512, 1024)
    assert loaded[0].image_shape == (3, *own)


def test_a_pair_takes_the_classes_and_the_size_that_are_asked_for() -> None:
    loaded = load_pair("synthia", "cityscapes", classes="synthia-13", size=(64, 128))
    assert [len(domain.class_names) for domain in loaded] == [13, 13]
    assert [domain.image_shape for domain in loaded] == [(3, 64, 128)] * 2


def test_a_pair_without_common_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'synthia' has synthia-16 .* 'camvid' has camvid-11"):
        load_pair("synthia", "camvid")
    with pytest.raises(
        ValueError, match=r"'rendered-digits' is one of classification and 'camvid' one of"
    ):
        load_pair("rendered-digits", "camvid")


def test_the_colours_are_those_of_the_classes() -> None:
    """Every class of the 19 has a colour of its own, shared only with what is void."""
    colours = [colour for name, colour in CITYSCAPES_IDS.values()]
    classes = cityscapes_classes("cityscapes-19")
    assert len({colours[id_] for id_, label in classes.items() if label is not None}) == 19


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_a_folder_without_splits_becomes_three(tmp_path: Path, labels: str) -> None:
    write_folders(some_pairs(21, (0, 1)), tmp_path / "f" / "images", tmp_path / "f" / labels)
    (tmp_path / "f" / "classes.txt").write_text("a\nb\n")
    domain = load_domain("segmentation-folder:f", data_root=tmp_path)
    assert [len(domain.labelled(split)) for split in SPLITS] == [17, 2, 2]
    files = [path for split in SPLITS for path in domain.files(split).images]  # type: ignore[attr-defined]
    assert len(set(files)) == 21


def test_images_alone_are_an_unlabelled_target(tmp_path: Path) -> None:
    for number, (pixels, _) in enumerate(some_pairs(4, (0,))):
        write_image(tmp_path / "f" / f"{number}.jpg", pixels)
    domain = load_domain("segmentation-folder:f", data_root=tmp_path)
    assert [len(domain.unlabelled(split)) for split in SPLITS] == [2, 1, 1]
    with pytest.raises(LabelsMissingError):
        domain.labelled("test")
