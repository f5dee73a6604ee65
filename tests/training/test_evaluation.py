"""Predictions and quality of whole splits, image by image and pixel by pixel."""

from pathlib import Path

import pytest
import torch
from tiny_task import (
    BASE,
    STREET,
    TinyFCN,
    draw,
    draw_streets,
    figures_by_counting,
    start_workers,
)
from torch import Tensor, nn

from gam_ray.adaptation import adapt_batch_norm, rank, share_batch_norm
from gam_ray.domains import VOID, LabelledImages
from gam_ray.networks import ChainNetwork, LeNet, build_network
from gam_ray.networks.lenet import LeNetBN
from gam_ray.selection.scores import all_scores
from gam_ray.training import evaluation
from gam_ray.training.data import load_task
from gam_ray.training.evaluation import (
    float_batches,
    gather_evidence,
    matching_batches,
    predict,
    quality,
    source_iou,
)
from gam_ray.training.reports import DivergedError

CPU = torch.device("cpu")
CLASSES = ("wall", "road", "car", "moon")
STREET_PIXELS = 32 * 32


class Pixelwise(ChainNetwork):
    """Features are the pixel itself, and logits depend on nothing else."""

    name, features, stride, multiple = "pixelwise", "layer1", 1, 1

    def __init__(self) -> None:
        super().__init__({"layer1": nn.Identity(), "layer2": nn.Conv2d(3, 4, 1)})


def street_network() -> TinyFCN:
    """A network that is often wrong, and says all classes but moon."""
    torch.manual_seed(0)
    network = TinyFCN(classes=4)
    nn.init.zeros_(network.layer3.bias)
    with torch.no_grad():
        logits = network(draw_streets("test", brightness=90, seed=0).images.float() / 255)
        network.layer3.bias.sub_(logits.movedim(1, -1).flatten(0, 2).median(0).values)
        network.layer3.bias[3] = -100.0
    return network


def nine_streets(**changed: int) -> LabelledImages:
    """With 8 images a batch, the last one has a single image."""
    part = draw_streets("test", brightness=90, seed=0)
    labels = part.labels[:9].clone()
    for name, label in changed.items():
        labels[labels == CLASSES.index(name)] = label
    return LabelledImages(part.images[:9], labels)


@pytest.fixture
def _eight_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH_PIXELS", 8 * STREET_PIXELS)


# Batches


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 41, 100])
@pytest.mark.parametrize("most", [1, 9, 16])
def test_batches_are_the_same_whatever_the_number_of_workers(
    count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = (torch.arange(count, dtype=torch.uint8) + 2).view(count, 1, 1, 1).expand(-1, 1, 4, 4)
    monkeypatch.setattr(evaluation, "BATCH_PIXELS", most * 16)
    monkeypatch.setattr(evaluation, "shard", lambda part: part)
    partitions = []
    for workers in (1, 2, 4, 8):
        monkeypatch.setattr(evaluation, "world_size", lambda workers=workers: workers)
        batches = list(matching_batches(normalised(), images, CPU))
        torch.testing.assert_close(torch.cat(batches) * 255, images.float())
        partitions.append([len(batch) for batch in batches])
    assert partitions == [partitions[0]] * 4
    assert max(partitions[0]) <= max(most + 7, 8)
    monkeypatch.setattr(evaluation, "world_size", lambda: 6)
    assert all(
        len(batch) % 6 == 0 for batch in list(matching_batches(normalised(), images, CPU))[:-1]
    )


def test_batches_of_which_statistics_are_taken_are_larger_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_PIXELS", 32 * 16)
    images = torch.zeros(96, 1, 4, 4, dtype=torch.uint8)
    sizes = [
        [len(batch) for batch in matching_batches(network, images, CPU)]
        for network in (normalised(), plain())
    ]
    assert sizes == [3 * [32], 12 * [8]]
    assert [len(batch) for batch in float_batches(images, CPU)] == sizes[1]


# Quality


@pytest.mark.parametrize("changed", [{}, {"car": VOID}, {"car": VOID, "road": VOID}, {"wall": 1}])
@pytest.mark.usefixtures("_eight_a_batch")
def test_quality_of_pixels_is_what_counting_them_says(changed: dict[str, int]) -> None:
    network, part = street_network().train(), nine_streets(**changed)
    found = quality(network, part, CLASSES)
    assert network.training
    expected = figures_by_counting(network, part, CLASSES)
    assert found == pytest.approx(expected, abs=1e-6)
    # Road and car are predicted even where no label says so, and the moon never occurs.
    assert found.keys() == {"", "global_accuracy", "class_accuracy"} | {
        f"iou/{name}" for name in CLASSES[:3]
    }
    assert 0 < found[""] < found["global_accuracy"] < 1


def test_quality_of_images_is_their_accuracy_and_class_255_counts() -> None:
    network, part = LeNet(1, 300), draw("test", brightness=60, seed=0)
    nn.init.constant_(network.fc4.bias[255:256], 100.0)
    labels = torch.where(part.labels < 4, 255, part.labels)
    found = quality(network, LabelledImages(part.images, labels), tuple(map(str, range(300))))
    assert found == {"": (part.labels < 4).double().mean().item()}


# Predictions


def test_of_pixels_probabilities_and_features_are_those_of_one_pixel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "SAMPLED_PIXELS", 500)
    row, column = torch.meshgrid(torch.arange(24), torch.arange(40), indexing="ij")
    # A pixel's colour says which one it is.
    images = torch.stack(
        [torch.stack([torch.full_like(row, n), row, column]) for n in range(10)]
    ).to(torch.uint8)
    torch.manual_seed(0)
    network = Pixelwise()
    nn.init.normal_(network.layer2.weight, std=20)
    probabilities, features = predict(network, images, CPU)
    assert (probabilities.shape, features.shape) == ((500, 4), (500, 3))
    with torch.no_grad():
        expected = features @ network.layer2.weight.flatten(1).T + network.layer2.bias
    torch.testing.assert_close(probabilities, expected.softmax(-1))
    pixels = (features * 255).round().long()
    assert pixels[:, 0].tolist() == [n for n in range(10) for _ in range(50)]
    assert len({tuple(pixel) for pixel in pixels.tolist()}) > 450
    assert pixels.amax(0).tolist() == pytest.approx([9, 23, 39], abs=1)
    assert pixels[:, 1:].amin(0).tolist() == pytest.approx([0, 0], abs=1)


@pytest.mark.usefixtures("_eight_a_batch")
def test_of_strided_maps_pixels_take_the_interpolated_logits_and_the_nearest_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "SAMPLED_PIXELS", 90)
    network, images = street_network(), nine_streets().images
    probabilities, features = predict(network, images, CPU)
    with torch.no_grad():
        maps = network.layer2(network.layer1(images.float() / 255))
        full = nn.functional.interpolate(network.layer3(maps), scale_factor=4, mode="bilinear")
    places = evaluation._sampled_places(images)
    assert places.shape == (9, 10)
    for row, pixel in enumerate(places.flatten().tolist()):
        number, (y, x) = row // 10, divmod(pixel, 32)
        torch.testing.assert_close(probabilities[row], full[number, :, y, x].softmax(0))
        torch.testing.assert_close(features[row], maps[number, :, y // 4, x // 4])


def test_predictions_are_of_the_same_pixels_at_every_call_and_restore_the_mode() -> None:
    network, images = street_network().train(), nine_streets().images
    torch.manual_seed(1)
    one = predict(network, images, CPU)
    torch.manual_seed(2)
    other = predict(network, images, CPU)
    assert network.training
    for found, expected in zip(one, other, strict=True):
        assert torch.equal(found, expected)


# Workers


def plain() -> LeNet:
    torch.manual_seed(4)
    return LeNet()


def normalised() -> LeNetBN:
    torch.manual_seed(3)
    return LeNetBN()


def leave_findings(folder: Path) -> None:
    """Of streets and of digits in batches of 8, the last of which leaves a worker without any."""
    evaluation.BATCH_PIXELS = 8 * STREET_PIXELS
    network, part = street_network(), nine_streets()
    pixels = predict(network, part.images, CPU)
    figures = quality(network, part, CLASSES)
    evaluation.BATCH_PIXELS = 5 * 28 * 28
    digits = draw("test", brightness=60, seed=0).images[:9]
    whole = predict(plain(), digits, CPU)
    batch_norm = normalised()
    share_batch_norm(batch_norm)
    many = draw("train", brightness=60, seed=0).images[:50]
    adapt_batch_norm(batch_norm, matching_batches(batch_norm, many, CPU))
    scores = all_scores(gather_evidence(network, load_task(STREET.task, None), CPU, seed=0))
    torch.save((pixels, figures, whole, batch_norm.state_dict(), scores), folder / f"{rank()}.pt")


def test_two_workers_find_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH_PIXELS", evaluation.BATCH_PIXELS)  # restored after
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    leave_findings(folders[0])
    start_workers(leave_findings, 2, folders[1])
    pixels, figures, whole, statistics, scores = torch.load(folders[0] / "0.pt")
    for number in range(2):
        found = torch.load(folders[1] / f"{number}.pt")
        torch.testing.assert_close(found[0], pixels)
        assert found[1] == pytest.approx(figures, abs=1e-6)
        torch.testing.assert_close(found[2], whole)
        torch.testing.assert_close(found[3], statistics)
        assert found[4] == pytest.approx(scores, rel=1e-5)


# Scores


def test_evidence_is_of_the_held_out_splits_and_of_pixels_it_leaves_out_the_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "SAMPLED_PIXELS", 160)
    data, network = load_task(STREET.task, None), TinyFCN().eval()
    evidence = gather_evidence(network, data, CPU, seed=0)
    target = predict(network, data.target_held_out.images, CPU)
    assert torch.equal(evidence.target.probabilities, target[0])
    assert evidence.target.features is not None
    assert torch.equal(evidence.target.features, target[1])
    source = data.source_held_out
    places = sampled_places(source.images)
    labels, maps = [], predicted_maps(network, source.images)
    for image, row in enumerate(places.tolist()):
        labels += [
            (int(source.labels[image].flatten()[place]), int(maps[image].flatten()[place]))
            for place in row
        ]
    known = [(label, predicted) for label, predicted in labels if label != VOID]
    assert len(known) < len(labels)
    assert evidence.source_labels.tolist() == [label for label, _ in known]
    assert evidence.source.classes.tolist() == [predicted for _, predicted in known]


def sampled_places(images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2018)
    each = -(-160 // len(images))
    return torch.randint(STREET_PIXELS, (len(images), each), generator=generator)


@torch.no_grad()
def predicted_maps(network: nn.Module, images: Tensor) -> Tensor:
    logits = network(images.float() / 255)
    size = images.shape[-2:]
    full = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return full.argmax(1)


@torch.no_grad()
def test_mixed_pairs_are_of_different_images_and_55_to_45() -> None:
    data, network = load_task(BASE.task, None), plain().eval()
    images = data.target_held_out.images
    mixed = gather_evidence(network, data, CPU, seed=0).mixed
    assert mixed is not None
    own = network(images.float() / 255).softmax(1)
    rows = [int((own - each).abs().sum(1).argmin()) for each in mixed.image]
    partners = [int((own - each).abs().sum(1).argmin()) for each in mixed.partner]
    assert sorted(rows) == sorted(partners) == list(range(len(images)))
    assert all(row != partner for row, partner in zip(rows, partners, strict=True))
    mixture = (0.55 * images[rows].double() + 0.45 * images[partners].double()).round()
    torch.testing.assert_close(
        mixed.mixture, network(mixture.float() / 255).softmax(1), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", ["lenet", "erfnet", "erfnet-encoder", "drn-26"])
def test_the_classifier_is_the_last_layer_where_it_is_linear_in_the_features(name: str) -> None:
    network = build_network(name, in_channels=3, classes=4)
    found = evaluation.classifier_weights(network)
    if name == "erfnet":  # Its last layer enlarges the map.
        assert found is None
        return
    assert found is not None
    wide = list(network.parameters())[-2]
    assert torch.equal(found, wide.flatten(1))
    assert len(found) == 4


def test_scores_of_pixels_have_an_iou_and_those_of_images_none() -> None:
    data, network = load_task(STREET.task, None), TinyFCN()
    counted = figures_by_counting(network, data.source_held_out, data.class_names)
    assert source_iou(network, data) == {"score/source_iou": pytest.approx(counted[""], abs=1e-6)}
    assert source_iou(plain(), load_task(BASE.task, None)) == {}


def test_predictions_that_are_not_finite_end_the_trial() -> None:
    data, network = load_task(BASE.task, None), plain()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(DivergedError, match="not finite; lower the learning rates"):
        gather_evidence(network, data, CPU, seed=0)
