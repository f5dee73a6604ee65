"""A user's own network, adapted in a notebook: the same as a trial, whatever the images come as."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import tiny_task
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gam_ray
from gam_ray.config import AdaptationConfig
from gam_ray.domains import (
    LabelledDomain,
    LabelledImages,
    Split,
    carve_held_out,
    register_domain,
)
from gam_ray.networks import LeNet, OwnNetwork
from gam_ray.training.data import load_task
from gam_ray.training.own_network import adapt
from gam_ray.training.pretraining import SourceCache
from gam_ray.training.trial import load_adapted, run_trial

LAYERS = ["conv1", "conv2", "fc3", "fc4"]
SOURCE = tiny_task.draw("train", brightness=200, seed=0)
TARGET = tiny_task.draw("train", brightness=60, seed=100)


class _Carved(LabelledDomain):
    """A tenth is held out of one part, as `adapt` does it."""

    class_names, image_shape = tuple("0123456789"), (1, 28, 28)
    whole: LabelledImages

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        if split == "test":
            return {split: self.whole}
        return carve_held_out(self.whole, held_out=len(self.whole) // 10)


@register_domain("tiny-carved-source")
class CarvedSource(_Carved):
    """The source of these tests."""

    whole = SOURCE


@register_domain("tiny-carved-target")
class CarvedTarget(_Carved):
    """The target of these tests."""

    whole = TARGET


TRIAL = tiny_task.trial(
    task__source="tiny-carved-source", task__target="tiny-carved-target", seed=3
)


class Plain(nn.Module):
    """LeNet, as a user writes it: nested, and with a ReLU that overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
            nn.Sequential(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(inplace=True)),
        )
        self.head = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


PLACES = ["body.0", "body.1", "body.2", "head"]


def settings(**more: Any) -> dict[str, Any]:
    config = {
        "adaptation": TRIAL.adaptation,
        "optimizer": TRIAL.optimizer,
        "steps": TRIAL.steps,
        "batch_size": TRIAL.batch_size,
        "report_every": TRIAL.report_every,
        "seed": TRIAL.seed,
    }
    return {**config, **more}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[LeNet, LeNet, list[Any]]:
    """The source network, the adapted one and the reports of the same trial."""
    place = tiny_task.place(tmp_path_factory.mktemp("trial"))
    reporter = tiny_task.Recorder()
    run_trial(TRIAL, place, reporter)
    data = load_task(TRIAL.task, place.data_root)
    source = SourceCache(place.sources).get(
        TRIAL.task, TRIAL.pretraining, data, device=place.device, progress=lambda *_: None
    )
    adapted = load_adapted(TRIAL, place.adapted, place.device)
    assert isinstance(source, LeNet)
    assert isinstance(adapted, LeNet)
    return source, adapted, reporter.reports


def copied(source: LeNet) -> Plain:
    """The same parameters in a user's own network."""
    network = Plain()
    values = dict(zip(network.state_dict(), source.state_dict().values(), strict=True))
    network.load_state_dict(OrderedDict(values))
    return network


def assert_same_parameters(one: nn.Module, other: nn.Module) -> None:
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert len(pairs) == 8
    assert all(torch.equal(a, b) for a, b in pairs)


def test_it_is_what_a_trial_does_with_the_same_settings_and_seed(
    trial: tuple[LeNet, LeNet, list[Any]],
) -> None:
    source, adapted, reports = trial
    generator = torch.random.get_rng_state()
    found = adapt(source, (SOURCE.images, SOURCE.labels), TARGET.images, **settings())
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert_same_parameters(found.network, adapted)
    assert tiny_task.differing(found.network.state_dict(), adapted.state_dict()) == []
    assert [entry.step for entry in found.history] == [report.step for report in reports]
    for entry, report in zip(found.history, reports, strict=True):
        scores = {f"score/{name}": value for name, value in entry.scores.items()}
        assert {**scores, **entry.metrics} == report.metrics
    other = adapt(source, SOURCE.images, TARGET.images, **settings(seed=4))
    learned = other.network.get_parameter("fc3.1.weight")
    assert not torch.equal(learned, adapted.get_parameter("fc3.1.weight"))


def test_a_users_own_module_of_the_same_layers_becomes_the_same(
    trial: tuple[LeNet, LeNet, list[Any]],
) -> None:
    source, adapted, _ = trial
    plain = copied(source)
    network = nn.Sequential(OrderedDict(zip(LAYERS, [*plain.body, plain.head], strict=True)))
    found = adapt(network, SOURCE.images, TARGET.images, layers=LAYERS, **settings())
    assert_same_parameters(found.network, adapted)


def test_a_users_own_module_stays_as_it_is_whatever_the_images_come_as(
    trial: tuple[LeNet, LeNet, list[Any]],
) -> None:
    network = copied(trial[0]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = gam_ray.adapt(
        network,
        TensorDataset(SOURCE.images, SOURCE.labels),
        DataLoader(TensorDataset(TARGET.images, TARGET.labels), batch_size=10),
        layers=PLACES[::-1],
        **settings(adaptation=AdaptationConfig(layers=("body_1", "body_2"))),
    )
    again = adapt(network, SOURCE.images, TARGET.images, layers=PLACES,
                  **settings(adaptation=AdaptationConfig(layers=("body_1", "body_2"))))  # fmt: skip
    assert_same_parameters(found.network, again.network)
    assert network.training
    assert network.body[0][2].inplace  # type: ignore[index, union-attr]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert isinstance(found.network, OwnNetwork)
    assert list(found.network.layers) == ["body_0", "body_1", "body_2", "head"]
    assert found.network.features == "body_2"
    learned, before_it = (
        each.get_parameter("body.2.1.weight") for each in (found.network.network, network)
    )
    assert not torch.equal(learned, before_it)


def test_gaussian_matching_of_a_users_own_module_is_that_of_the_trial(
    trial: tuple[LeNet, LeNet, list[Any]],
) -> None:
    source, _, _ = trial
    gaussian = AdaptationConfig(kind="gaussian")
    images = TARGET.images.float() / 255
    ours = adapt(source, SOURCE.images, images, adaptation=gaussian)
    theirs = adapt(copied(source), SOURCE.images, images, layers=PLACES, adaptation=gaussian)
    batch = images[:8]
    with torch.no_grad():
        assert torch.equal(theirs.network(batch), ours.network(batch))
        assert not torch.equal(theirs.network(batch), source(batch))
    assert [entry.step for entry in theirs.history] == [0]


def test_without_source_labels_the_scores_that_need_them_are_left_out(
    trial: tuple[LeNet, LeNet, list[Any]],
) -> None:
    source, adapted, reports = trial
    found = adapt(source, SOURCE.images, TARGET.images, **settings())
    assert_same_parameters(found.network, adapted)
    known = {name.removeprefix("score/") for name in reports[-1].metrics if "score/" in name}
    assert known - found.history[-1].scores.keys() == {"source_accuracy", "iwcv", "dev"}


def test_segmentation_networks_are_adapted_too() -> None:
    parts = {split: tiny_task.draw_streets("train", brightness=b, seed=b) for split, b in
             (("source", 200), ("target", 90))}  # fmt: skip
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1, stride=2)
    )
    found = adapt(
        network,
        (parts["source"].images, parts["source"].labels),
        parts["target"].images,
        layers=["1", "2"],
        **settings(adaptation=None),
    )
    assert found.network.stride == 4
    assert "source_iou" in found.history[-1].scores


NORMALISED = (SOURCE.images.float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["body.0", "haed"]}, "no layer 'haed'; did you mean 'head'"),
        ({"layers": ["head"]}, "two names at least, all distinct"),
        ({"layers": ["body.0", "body.1"]}, "name the module that gives the logits, too"),
        ({"layers": ["body", "body.2.0", "body.2.1", "nothing"]}, "no layer 'nothing'"),
        ({"source": NORMALISED}, "put a normalisation into the network"),
        ({"target": TARGET.images[:, :, :20]}, "one shape, but got"),
        ({"target": TARGET.images[:1]}, "two images or more"),
        ({"source": (SOURCE.images, SOURCE.labels + 5)}, "tells 10 classes, 0 to 9, but a label"),
        ({"source": [("a", 1)]}, "ToTensor"),
        ({"target": []}, "at least one image"),
        ({"adaptation": AdaptationConfig(layers=("bdoy_1",))}, "no layer 'bdoy_1'"),
    ],
)
def test_what_does_not_fit_is_told(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "source": (SOURCE.images, SOURCE.labels),
        "target": TARGET.images,
        "layers": PLACES,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        adapt(Plain(), given.pop("source"), given.pop("target"), **given)


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    adapt(Plain(), SOURCE.images, TARGET.images, layers=PLACES, steps=1, batch_size=4)
    assert list(tmp_path.iterdir()) == []


def test_the_guides_example_runs() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the project's own
    assert [entry.step for entry in names["found"].history] == [10, 20]
