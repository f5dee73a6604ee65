"""Predictions of image files: what evaluation says of the same images, and what breaks nothing."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exportable import CLASSES, SIZE, Exported, write_images
from PIL import Image

from gam_ray.domains import SPLITS, load_domain
from gam_ray.domains.prepare import read_prepared
from gam_ray.export import predicting
from gam_ray.export.colours import class_colours
from gam_ray.export.predicting import (
    Classified,
    ImageFile,
    Predictor,
    Unreadable,
    find_images,
)
from gam_ray.export.tables import PredictionTable, check_masks
from gam_ray.training.evaluation import predict, quality

CPU = torch.device("cpu")


def predicted(model: Exported, *named: Path) -> list[object]:
    return list(Predictor(model.folder).predict(find_images([str(each) for each in named])))


@pytest.mark.parametrize("pixels", [None, 5 * 28 * 28])
def test_a_classifier_says_what_evaluation_says(
    classifier: Exported, monkeypatch: pytest.MonkeyPatch, pixels: int | None
) -> None:
    images = classifier.target.unlabelled("test").images
    expected, _ = predict(classifier.network, images, CPU)
    if pixels:  # of a batch: three batches in place of one
        monkeypatch.setattr(predicting, "BATCH_PIXELS", pixels)
    found = predicted(classifier, classifier.files)
    assert all(isinstance(each, Classified) for each in found)
    probabilities = torch.stack([each.probabilities for each in found])
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
    classes = [each.index for each in found]
    assert classes == expected.argmax(1).tolist()
    assert set(classes) == {0, 1}


def test_masks_are_as_right_as_evaluation_says(segmenter: Exported, tmp_path: Path) -> None:
    labelled = segmenter.target.labelled("test")
    expected = quality(segmenter.network, labelled, CLASSES)
    found = predicted(segmenter, segmenter.files)
    masks = np.stack([each.mask for each in found])
    assert (masks == labelled.labels.numpy()).mean() == pytest.approx(expected["global_accuracy"])
    assert len(np.unique(masks)) == len(CLASSES)
    assert found[0].shares(3) == [pytest.approx((masks[0] == k).mean()) for k in range(3)]
    table = PredictionTable(
        io.StringIO(), segmenter.described, as_json=True, probabilities=False, masks=tmp_path
    )
    for each in found:
        table.write(each)
    with Image.open(tmp_path / "00.png.png") as mask:
        assert np.array_equal(np.asarray(mask), masks[0])
        colours = np.asarray(mask.convert("RGB"))
    assert np.array_equal(colours, np.array(segmenter.described.colours)[masks[0]])


def test_a_mask_has_the_size_of_its_image(segmenter: Exported, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "large", [(3 * SIZE[0], 2 * SIZE[1])], ["L"])
    (large,) = predicted(segmenter, path)
    assert large.mask.shape == (3 * SIZE[0], 2 * SIZE[1])
    # Each prediction is of the image's own size, so that its blocks have one class.
    blocks = large.mask.reshape(SIZE[0], 3, SIZE[1], 2)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_digits_are_brought_to_their_size_as_their_domain_does_it(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    domain = load_domain("handwritten-digits")
    known = {each.tobytes() for split in SPLITS for each in domain.unlabelled(split).images.numpy()}
    for number, digit in enumerate(load_digits().images[:20]):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8)).save(file)
        pixels, size = read_prepared(file, domain.image_shape, domain.resize)
        assert size == (8, 8)
        assert pixels.tobytes() in known


def test_images_that_are_none_are_told_and_the_rest_goes_on(
    classifier: Exported, tmp_path: Path
) -> None:
    good = write_images(tmp_path / "in", [(1, 1), (40, 30)], ["RGB", "CMYK"])
    (tmp_path / "in" / "00-text.png").write_text("no image")
    (tmp_path / "in" / "00-empty.jpg").touch()
    (tmp_path / "in" / "99-cut.jpg").write_bytes(good[1].read_bytes()[:-200])
    deep = np.full((5, 5), 60_000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "in" / "99-deep.png")
    found = predicted(classifier, tmp_path / "in")
    reasons = {each.file.path.name: each.reason for each in found if isinstance(each, Unreadable)}
    assert reasons.keys() == {"00-text.png", "00-empty.jpg", "99-cut.jpg", "99-deep.png"}
    assert "mode I;16 has more than 8 bits" in reasons["99-deep.png"]
    assert [each.file.path for each in found if isinstance(each, Classified)] == good
    (only,) = predicted(classifier, tmp_path / "in" / "00-text.png")
    assert isinstance(only, Unreadable)


def test_files_folders_and_patterns_name_each_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = write_images(tmp_path / "a" / "b", [(2, 2)] * 2, ["L"])
    first.rename(tmp_path / "a" / "b" / "odd name[1].tiff")
    (tmp_path / "a" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    found = find_images(["a/b/01.png", "a", str(tmp_path / "a" / "*" / "*.png"), "a/notes.txt"])
    assert [(str(each.path), str(each.name)) for each in found] == [
        ("a/b/01.png", "01.png"),
        ("a/b/odd name[1].tiff", "b/odd name[1].tiff"),
        ("a/notes.txt", "notes.txt"),
    ]
    (each,) = find_images(["a/b/odd name[1].tiff"])
    assert each.path.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no pattern of them: empty, x\*, gone\.png$"):
        find_images(["a", "empty", "x*", "gone.png"])


def test_lines_are_csv_or_json_and_have_all_probabilities_where_asked(
    classifier: Exported,
) -> None:
    file = ImageFile(Path("a,b.png"), Path("a,b.png"))
    lines = [
        Classified(file, torch.tensor([0.25, 0.75])),
        Unreadable(file, "cut"),
        Classified(file, torch.tensor([0.5, 0.5])),
    ]

    def told(*, as_json: bool, probabilities: bool) -> str:
        stream = io.StringIO()
        table = PredictionTable(
            stream, classifier.described, as_json=as_json, probabilities=probabilities, masks=None
        )
        for line in lines:
            table.write(line)
        assert table.totals == {"left": 1, "right": 1}
        assert table.unreadable == [lines[1]]
        return stream.getvalue()

    rows = list(csv.DictReader(io.StringIO(told(as_json=False, probabilities=True))))
    assert rows[0] == {
        "file": "a,b.png", "class": "right", "probability": "0.75",
        "probabilities/left": "0.25", "probabilities/right": "0.75",
    }  # fmt: skip
    assert len(rows) == 2
    first, broken, _ = map(json.loads, told(as_json=True, probabilities=True).splitlines())
    assert first["probabilities"] == {"left": 0.25, "right": 0.75}
    assert broken == {"file": "a,b.png", "error": "cut"}
    assert "probabilities" not in told(as_json=True, probabilities=False)


def test_masks_neither_meet_nor_replace_an_image(tmp_path: Path) -> None:
    one, two = (ImageFile(tmp_path / each / "x.png", Path("x.png")) for each in "ab")
    check_masks(tmp_path / "masks", [one])
    with pytest.raises(ValueError, match="would both have the mask"):
        check_masks(tmp_path / "masks", [one, two])
    mask = ImageFile(tmp_path / "a" / "x.png.png", Path("y.png"))
    with pytest.raises(ValueError, match="would replace an image"):
        check_masks(tmp_path / "a", [one, mask])


def test_classes_of_streets_have_their_own_colours_and_others_differ() -> None:
    assert class_colours(("road", "sky")) == ((128, 64, 128), (70, 130, 180))
    others = class_colours([f"class {number}" for number in range(200)])
    assert len(set(others)) == 200
    assert others[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))
