"""Domains of 64 digits or 16 streets, trials of a few steps, and reporters that stop or fail."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from gam_ray.config import (
    AdaptationConfig,
    PretrainingConfig,
    TaskConfig,
    TrialConfig,
    apply_settings,
)
from gam_ray.domains import (
    VOID,
    Domain,
    LabelledDomain,
    LabelledImages,
    Split,
    UnlabelledImages,
    register_domain,
)
from gam_ray.networks import ChainNetwork, register_network
from gam_ray.networks.chain import numbered
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.trial import Place

COUNT = 64


def draw(split: Split, *, brightness: int, seed: int) -> LabelledImages:
    """A bright bar for each class, at a row of its own, on noise."""
    generator = torch.Generator().manual_seed(seed + len(split))
    labels = torch.arange(COUNT) % 10
    images = torch.randint(0, 40, (COUNT, 1, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 + 2 * label : 5 + 2 * label, 4:24] += brightness
    return LabelledImages(images, labels)


class _Bars(LabelledDomain):
    class_names, image_shape = tuple("0123456789"), (1, 28, 28)


@register_domain("tiny-source")
class Source(_Bars):
    """Bright bars."""

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        return {split: draw(split, brightness=200, seed=0)}


@register_domain("tiny-target")
class Target(_Bars):
    """Dim bars."""

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        return {split: draw(split, brightness=60, seed=100)}


@register_domain("tiny-mislabelled")
class Mislabelled(_Bars):
    """The target's images, with labels that are all wrong."""

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        part = draw(split, brightness=60, seed=100)
        return {split: LabelledImages(part.images, (part.labels + 1) % 10)}


@register_domain("tiny-unlabelled")
class Unlabelled(Domain):
    """The target's images, without labels."""

    class_names, image_shape = tuple("0123456789"), (1, 28, 28)

    def unlabelled(self, split: Split) -> UnlabelledImages:
        """Return the images of a split."""
        return draw(split, brightness=60, seed=100).without_labels()


@register_domain("tiny-tested")
class Tested(Unlabelled):
    """The target's images, with labels for the test split alone."""

    def labelled(self, split: Split) -> LabelledImages:
        """Return the images and labels of the test split."""
        return draw(split, brightness=60, seed=100) if split == "test" else super().labelled(split)


SIDE, STREETS = 32, 16


def draw_streets(split: Split, *, brightness: int, seed: int) -> LabelledImages:
    """Roads below walls of any height, a car on some, and void on the right and between them."""
    generator = torch.Generator().manual_seed(seed + len(split))
    colours = torch.tensor([[1.0, 0.3, 0.3], [0.2, 0.9, 0.3], [0.3, 0.3, 1.0]])
    images = torch.randint(0, 40, (STREETS, 3, SIDE, SIDE), generator=generator)
    labels = torch.zeros(STREETS, SIDE, SIDE, dtype=torch.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        horizon, left = torch.randint(6, 20, (2,), generator=generator).tolist()
        label[horizon:] = 1
        if number % 3:
            label[24:30, left : left + 10] = 2
        image.add_((brightness * colours[label.long()]).permute(2, 0, 1).long())
        label[horizon] = VOID
        # Images have unequally many void pixels.
        label[:, SIDE - 1 - number :] = VOID
    return LabelledImages(images.to(torch.uint8), labels)


class _Streets(LabelledDomain):
    problem = "segmentation"
    class_names, image_shape = ("wall", "road", "car"), (3, SIDE, SIDE)


@register_domain("tiny-day")
class Day(_Streets):
    """Bright streets."""

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        return {split: draw_streets(split, brightness=200, seed=0)}


@register_domain("tiny-night")
class Night(_Streets):
    """Dim streets."""

    def _load(self, split: Split) -> dict[Split, LabelledImages]:
        return {split: draw_streets(split, brightness=90, seed=100)}


@register_network("tiny-fcn")
class TinyFCN(ChainNetwork):
    """Two strided convolutions and a head; logits at stride 4."""

    name, features, stride, multiple = "tiny-fcn", "layer2", 4, 4

    def __init__(self, in_channels: int = 3, classes: int = 3) -> None:
        down = [
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())
            for before, after in ((in_channels, 8), (8, 12))
        ]
        super().__init__(numbered([*down, nn.Conv2d(12, classes, 1)]))


STREET = TrialConfig(
    task=TaskConfig(source="tiny-day", target="tiny-night", network="tiny-fcn"),
    pretraining=PretrainingConfig(steps=30, batch_size=8, learning_rate=1e-2),
    adaptation=AdaptationConfig(layers=("layer2",)),
    steps=4,
    batch_size=4,
    report_every=2,
)
BASE = TrialConfig(
    task=TaskConfig(source="tiny-source", target="tiny-target"),
    pretraining=PretrainingConfig(steps=20, batch_size=16),
    adaptation=AdaptationConfig(layers=("conv2", "fc3")),
    steps=7,
    batch_size=16,
    report_every=3,
)


def trial(base: TrialConfig = BASE, /, **settings: Any) -> TrialConfig:
    """A tiny trial with settings replaced; ``__`` stands for a dot."""
    return apply_settings(base, {name.replace("__", "."): v for name, v in settings.items()})


def place(folder: Path, name: str = "trial") -> Place:
    """A trial's place in `folder`; source networks are shared."""
    return Place(folder / name, folder / "sources", folder, torch.device("cpu"))


class Recorder:
    """Keeps reports; stops the trial at `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.reports: list[Report] = []
        self._stop_at = stop_at

    def report(self, report: Report) -> Verdict:
        self.reports.append(report)
        return Verdict(go_on=report.step != self._stop_at)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing to keep."""

    def is_to_pause(self) -> bool:
        return False

    @property
    def steps(self) -> list[int]:
        return [report.step for report in self.reports]


def assert_same(one: Report, other: Report) -> None:
    """Bit for bit."""
    assert (one.step, one.metrics) == (other.step, other.metrics)
    np.testing.assert_array_equal(one.predictions, other.predictions)


def figures_by_counting(
    network: nn.Module, part: LabelledImages, classes: tuple[str, ...]
) -> dict[str, float]:
    """What `quality` says of pixels, from counts of label and prediction in numpy."""
    with torch.no_grad():
        logits = network.eval()(part.images.float() / 255)
    logits = nn.functional.interpolate(logits, size=part.labels.shape[1:], mode="bilinear")
    kept = (part.labels != VOID).numpy()
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (part.labels.numpy()[kept], logits.argmax(1).numpy()[kept]), 1)
    right, labelled, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    iou = {
        f"iou/{name}": right[k] / (labelled[k] + predicted[k] - right[k])
        for k, name in enumerate(classes)
        if labelled[k] + predicted[k]
    }
    return {
        "": float(np.mean(list(iou.values()))),
        "global_accuracy": right.sum() / counts.sum(),
        "class_accuracy": float(np.mean((right / np.maximum(labelled, 1))[labelled > 0])),
        **iou,
    }


class Pausing(Recorder):
    """Asks the trial to pause, from its `question`th question on."""

    def __init__(self, question: int) -> None:
        super().__init__()
        self._left = question

    def is_to_pause(self) -> bool:
        self._left -= 1
        return self._left <= 0


class PowerCutError(Exception):
    """The end of a trial's process, as far as a trial can tell."""


class Failing(Recorder):
    """Ends the trial at a step: while its report is being taken, right after, or in progress."""

    def __init__(self, when: str, step: int) -> None:
        super().__init__()
        self._when, self._step = when, step

    def report(self, report: Report) -> Verdict:
        if self._when == "before the report" and report.step == self._step:
            raise PowerCutError
        super().report(report)
        if self._when == "after the report" and report.step == self._step:
            raise PowerCutError
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002
        if (self._when, stage, done) == ("between reports", "adapting", self._step):
            raise PowerCutError


# The server imports what workers need once, and they are forks of it.
mp.get_context("forkserver").set_forkserver_preload(
    ["gam_ray.training.trial", "sklearn.cluster", "torch._dynamo", "torchmetrics.classification"]
)


def start_processes(work: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call ``work(number, *arguments)`` in `count` processes, and wait for them."""
    mp.start_processes(_alone, (work, arguments), count, start_method="forkserver")


def start_workers(work: Callable[..., None], count: int, folder: Path, *arguments: Any) -> None:
    """Call ``work(folder, *arguments)`` in `count` processes of one process group."""
    start_processes(_in_group, count, count, work, (folder, *arguments))


def _alone(number: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work(number, *arguments)


def _in_group(
    number: int, count: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{arguments[0] / 'meeting'}",
        rank=number,
        world_size=count,
        timeout=timedelta(seconds=120),
    )
    work(*arguments)
    dist.destroy_process_group()


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → leaf of a nested checkpoint."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {prefix: state}
    return {k: v for key, value in items for k, v in flat(value, f"{prefix}.{key}").items()}


def differing(one: Any, other: Any) -> list[str]:
    """Names of the leaves in which two checkpoints are not bit for bit the same."""
    one, other = flat(one), flat(other)
    return sorted(one.keys() ^ other.keys()) + [
        name for name in one.keys() & other.keys() if not _same(one[name], other[name])
    ]


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
