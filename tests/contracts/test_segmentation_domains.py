"""What every built-in domain of segmentation must keep."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from segmentation_trees import BUILDERS, FOLDER_CLASSES, SIZE, Tree, hold_out_few

from gam_ray.domains import (
    SPLITS,
    VOID,
    DataMissingError,
    LabelledImages,
    LabelsMissingError,
    Split,
    UnlabelledImages,
    load_domain,
    load_pair,
)
from gam_ray.domains.segmentation import SegmentationDomain

# Written from the data sets' own tables, not from the code.
NAMES_19 = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
]
NAMES_16 = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "sky",
    "person",
    "rider",
    "car",
    "bus",
    "motorcycle",
    "bicycle",
]
NAMES_13 = [
    "road",
    "sidewalk",
    "building",
    "traffic light",
    "traffic sign",
    "vegetation",
    "sky",
    "person",
    "rider",
    "car",
    "bus",
    "motorcycle",
    "bicycle",
]
NAMES_11 = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
# By list: the ids that make up each class, in the list's order.
_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
IDS_19 = [[id_] for id_ in _TRAIN_IDS]
IDS_16 = [[id_] for id_ in (7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33)]
IDS_13 = [[id_] for id_ in (7, 8, 11, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33)]
IDS_11 = [
    [23],
    [11, 12],
    [17],
    [7],
    [8, 22],
    [21],
    [19, 20],
    [13],
    [26, 27, 28, 31],
    [24],
    [25, 32, 33],
]
SYNTHIA_16 = [[id_] for id_ in (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)]
SYNTHIA_13 = [[id_] for id_ in (3, 4, 2, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)]
CITYSCAPES_LISTS = {
    "cityscapes-19": (NAMES_19, IDS_19),
    "synthia-16": (NAMES_16, IDS_16),
    "synthia-13": (NAMES_13, IDS_13),
    "camvid-11": (NAMES_11, IDS_11),
}
EXPECTED = {
    "camvid": {"camvid-11": (NAMES_11, [[label] for label in range(11)])},
    "cityscapes": CITYSCAPES_LISTS,
    "gta5": CITYSCAPES_LISTS,
    "segmentation-folder": {"folder": (list(FOLDER_CLASSES), [[0], [1], [2]])},
    "streets": CITYSCAPES_LISTS,
    "synthia": {"synthia-16": (NAMES_16, SYNTHIA_16), "synthia-13": (NAMES_13, SYNTHIA_13)},
}
CHOICES = [(name, choice) for name, lists in EXPECTED.items() for choice in lists]
HELD_OUT = {"segmentation-folder": 1}
REAL = {
    "camvid": {"train": 367, "held_out": 101, "test": 233},
    "streets": {"train": 320, "held_out": 40, "test": 40},
}


@pytest.fixture(autouse=True)
def _few_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out_few(monkeypatch)
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=sorted(BUILDERS))
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return BUILDERS[request.param](tmp_path)


@pytest.fixture
def domain(tree: Tree) -> SegmentationDomain:
    return tree.load()


def mapped(ids: np.ndarray, classes: list[list[int]]) -> np.ndarray:
    """The class of every id, pixel by pixel."""
    of_id = {id_: label for label, members in enumerate(classes) for id_ in members}
    return np.vectorize(lambda id_: of_id.get(int(id_), VOID))(ids)


def test_type_shape_and_range(domain: SegmentationDomain) -> None:
    assert domain.problem == "segmentation"
    for split in SPLITS:
        part = domain.labelled(split)
        assert part.images.dtype == part.labels.dtype == torch.uint8
        assert domain.image_shape == (3, *SIZE)
        assert part.images.shape == (len(part), 3, *SIZE)
        assert part.labels.shape == (len(part), *SIZE)
        labels = set(part.labels.unique().tolist())
        assert labels <= {*range(len(domain.class_names)), VOID}
        assert len(labels) > 1


def test_the_splits_are_the_files_and_share_none(tree: Tree, domain: SegmentationDomain) -> None:
    images = {
        split: [image.numpy().tobytes() for image in domain.labelled(split).images]
        for split in SPLITS
    }
    written = [pixels.transpose(2, 0, 1).tobytes() for pixels, _ in tree.pairs]
    assert sorted(image for part in images.values() for image in part) == sorted(written)
    assert len(images["held_out"]) == HELD_OUT.get(tree.plain_name, 2)
    assert len(images["test"]) == 3
    if tree.test:
        apart = [pixels.transpose(2, 0, 1).tobytes() for pixels, _ in tree.test]
        assert sorted(images["test"]) == sorted(apart)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_labels_are_the_ids_of_their_image_s_file(name: str, choice: str, tmp_path: Path) -> None:
    tree = BUILDERS[name](tmp_path)
    domain = tree.load(classes=choice)
    names, classes = EXPECTED[name][choice]
    assert list(domain.class_names) == names
    assert domain.class_list == choice
    of_image = {pixels.transpose(2, 0, 1).tobytes(): ids for pixels, ids in tree.pairs}
    for split in SPLITS:
        part = domain.labelled(split)
        for image, labels in zip(part.images.numpy(), part.labels.numpy(), strict=True):
            assert np.array_equal(labels, mapped(of_image[image.tobytes()], classes))


def test_the_lists_are_offered_in_order(tree: Tree, domain: SegmentationDomain) -> None:
    assert list(domain.class_lists) == list(EXPECTED[tree.plain_name])
    assert domain.class_list == next(iter(domain.class_lists))


def test_unlabelled_is_the_same_memory_and_no_label(domain: SegmentationDomain) -> None:
    for split in SPLITS:
        part = domain.unlabelled(split)
        assert isinstance(part, UnlabelledImages)
        assert not hasattr(part, "labels")
        assert part.images.data_ptr() == domain.labelled(split).images.data_ptr()


def test_a_fingerprint_is_that_of_the_same_images_in_memory(domain: SegmentationDomain) -> None:
    part = domain.labelled("train")
    in_memory = LabelledImages(part.images.clone(), part.labels.clone())
    assert part.fingerprint() == in_memory.fingerprint()
    assert part.without_labels().fingerprint() == in_memory.without_labels().fingerprint()
    assert part.take(torch.arange(len(part))).fingerprint() == in_memory.fingerprint()


def test_a_size_is_that_of_images_and_labels(tree: Tree) -> None:
    part = tree.load(size=(6, 10)).labelled("test")
    assert part.images.shape == (3, 3, 6, 10)
    assert part.labels.shape == (3, 6, 10)


def test_another_class_list_is_answered_with_the_nearest(tree: Tree) -> None:
    nearest = next(iter(EXPECTED[tree.plain_name]))
    with pytest.raises(ValueError, match=rf"no class list '.*'\. Did you mean '{nearest}'"):
        tree.load(classes=nearest.upper()[:-1])


def test_a_split_without_a_folder_of_labels_has_images_alone(tree: Tree) -> None:
    whole = tree.load()
    for folder in tree.label_folders():
        folder.rename(folder.with_name(f"no-{folder.name}"))
    domain = tree.load()
    for split in SPLITS:
        assert torch.equal(domain.unlabelled(split).images, whole.unlabelled(split).images)
        assert domain.unlabelled(split).fingerprint() == whole.unlabelled(split).fingerprint()
        with pytest.raises(LabelsMissingError, match=f"'{tree.name}' has no labels for its"):
            domain.labelled(split)


def test_absent_files_are_told_with_what_is_expected_and_what_to_do(
    tree: Tree, tmp_path: Path
) -> None:
    folder = tmp_path / "empty" / tree.folder.relative_to(tree.root)
    folder.mkdir(parents=True)
    (folder / "something").touch()
    with pytest.raises(DataMissingError) as error:
        load_domain(tree.name, data_root=tmp_path / "empty").unlabelled("train")
    text = str(error.value)
    assert f"The files of '{tree.name}' are not there.\nExpected in {folder}:\n  " in text
    assert f"Found:\n  {folder}: something\n" in text
    assert "To get them: " in text
    assert "data-root" in text or "data root" in text


def test_an_unknown_split_is_refused(domain: SegmentationDomain) -> None:
    for ask in (domain.labelled, domain.unlabelled):
        with pytest.raises(ValueError, match="train, held_out, test; this one is 'val'"):
            ask("val")  # type: ignore[arg-type]


def test_a_domain_goes_together_with_itself(tree: Tree) -> None:
    source, target = load_pair(tree.name, tree.name, data_root=tree.root, size=SIZE)
    assert source.class_names == target.class_names != ()
    assert source.labelled("train").fingerprint() == target.labelled("train").fingerprint()


@pytest.fixture(scope="module", params=sorted(REAL))
def real(
    request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SegmentationDomain]:
    if not (data_root / request.param).is_dir():
        pytest.skip(f"{request.param} is not in {data_root}; name its folder by GAM_RAY_DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAM_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        domain = load_domain(
            request.param, data_root=data_root, size=(90, 120), classes="camvid-11"
        )
        if request.param == "streets":
            patch.setattr(type(domain), "held_out_size", 40)
            patch.setattr(type(domain), "test_size", 40)
        for split in SPLITS:
            domain.unlabelled(split)
        assert isinstance(domain, SegmentationDomain)
        yield domain


def test_real_splits_have_the_documented_sizes(real: SegmentationDomain) -> None:
    assert {split: len(real.labelled(split)) for split in SPLITS} == REAL[real.name]


@pytest.mark.parametrize("split", SPLITS)
def test_real_classes_are_where_they_belong(real: SegmentationDomain, split: Split) -> None:
    """Sky is above road and brighter than it: neither labels nor rows are mixed up."""
    part = real.labelled(split)
    sky, road = real.class_names.index("sky"), real.class_names.index("road")
    rows = torch.arange(part.labels.shape[1]).view(1, -1, 1).expand_as(part.labels)
    assert rows[part.labels == sky].float().mean() < 30
    assert rows[part.labels == road].float().mean() > 55
    grey = part.images.float().mean(1)
    assert grey[part.labels == sky].mean() > grey[part.labels == road].mean() + 30
    shares = torch.bincount(part.labels.flatten(), minlength=256).float() / part.labels.numel()
    assert (shares[: len(real.class_names)] > 0).all()
    assert shares[VOID] < 0.06
    assert 0.2 < shares[road] < 0.5
