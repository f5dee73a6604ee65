"""The settings of a first study of two folders, from what they hold and what it runs on."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from gam_ray.drafting.folders import FolderPair

# The longer median side of images up to which LeNet, which takes 28×28, sees enough of them.
MOST_FOR_LENET = 40


@dataclass(frozen=True)
class Machine:
    """What a study runs on.

    Attributes:
        cpus: CPU cores.
        gpus: CUDA devices; 0 trains on the CPU.
    """

    cpus: int
    gpus: int

    @classmethod
    def this(cls) -> Machine:
        """The machine that runs this process."""
        import torch

        return cls(cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count())


@dataclass(frozen=True)
class Amounts:
    """How much a study computes, on one kind of device.

    Attributes:
        largest_side: Longest side of images, in pixels.
        epochs: Passes over the source that train its network.
        pretraining: Fewest and most steps of that.
        batch_size: Images a step.
        reports: Reports of a trial.
        report_every: Steps between two of them.
        trials: Trials of the search.
        gpus: GPUs of a trial.
    """

    largest_side: int
    epochs: int
    pretraining: tuple[int, int]
    batch_size: int
    reports: int
    report_every: int
    trials: int
    gpus: float = 0.0


@dataclass(frozen=True)
class Family:
    """A network, and what is right for it.

    Attributes:
        network: Its name.
        multiple: What the sides of its images are multiples of.
        weights: Where its training starts.
        schedule: Of the source network's learning rate.
        learning_rate: Of the source network.
        layers: Those whose matching is searched.
        first: Those that the first trial matches.
        weight: λ of the first trial.
        space: What else is searched: setting → range or choice, as YAML has it.
        on_cpu: How much on a CPU core.
        on_gpu: How much on a GPU.
    """

    network: str
    multiple: int
    weights: str
    schedule: str
    learning_rate: float
    layers: tuple[str, ...]
    first: tuple[str, ...]
    weight: float
    space: Mapping[str, str]
    on_cpu: Amounts
    on_gpu: Amounts


_GAUSSIAN = "{choice: [true, false]}"
_LENET = Family(
    network="lenet",
    multiple=28,
    weights="random",
    schedule="constant",
    learning_rate=1e-3,
    layers=("conv2", "fc3", "fc4"),
    first=("fc4",),
    weight=100,
    space={
        "adaptation.weight": "{log: [10, 300]}",
        "adaptation.adversary": "{choice: [gan, lsgan]}",
        "adaptation.gaussian": _GAUSSIAN,
        "optimizer.target_lr": "{log: [2.0e-4, 1.0e-3]}",
        "optimizer.discriminator_lr": "{log: [1.0e-4, 1.0e-3]}",
    },
    on_cpu=Amounts(28, 10, (300, 2000), 64, 3, 120, 12),
    on_gpu=Amounts(28, 20, (1000, 5000), 128, 5, 200, 40, gpus=0.25),
)
_DEEP_SPACE = {
    "adaptation.weight": "{log: [1, 300]}",
    "adaptation.adversary": "{choice: [gan, lsgan]}",
    "adaptation.gaussian": _GAUSSIAN,
    "adaptation.drift": "{log: [0.01, 10]}",
    "optimizer.target_lr": "{log: [2.0e-5, 5.0e-4]}",
    "optimizer.discriminator_lr": "{log: [2.0e-5, 5.0e-4]}",
}
_RESNET = Family(
    network="resnet-18",
    multiple=32,
    weights="imagenet",
    schedule="poly",
    learning_rate=3e-4,
    layers=("layer3", "layer4", "pool"),
    first=("pool",),
    weight=10,
    space=_DEEP_SPACE,
    on_cpu=Amounts(64, 5, (200, 1000), 32, 3, 50, 8),
    on_gpu=Amounts(224, 15, (500, 5000), 64, 4, 200, 24, gpus=0.5),
)
_ERFNET = Family(
    network="erfnet-encoder",
    multiple=8,
    weights="random",
    schedule="poly",
    learning_rate=5e-4,
    layers=("layer4", "layer8", "layer12", "layer17"),
    first=("layer17",),
    weight=10,
    space=_DEEP_SPACE,
    on_cpu=Amounts(160, 10, (400, 1000), 4, 3, 50, 8),
    on_gpu=Amounts(512, 40, (2000, 10_000), 8, 4, 250, 24, gpus=1),
)


@dataclass(frozen=True)
class Plan:
    """What is written into a study file.

    Attributes:
        family: The network, and what is right for it.
        amounts: How much is computed.
        size: Height and width of the images.
        pretraining_steps: Of the source network.
        trials: Of the search.
        mirrors: Whether images may be mirrored left to right, as photographs may and signs not.
    """

    family: Family
    amounts: Amounts
    size: tuple[int, int]
    pretraining_steps: int
    trials: int
    mirrors: bool

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.amounts.reports * self.amounts.report_every


def plan_study(pair: FolderPair, machine: Machine, *, trials: int | None = None) -> Plan:
    """Choose a network, a size and how much to compute.

    Args:
        pair: The folders.
        machine: What the study runs on.
        trials: Of the search; None for what suits the machine.
    """
    sides = _common_sides(pair)
    family = _family(pair, max(sides))
    amounts = family.on_gpu if machine.gpus else family.on_cpu
    least, most = amounts.pretraining
    passes = math.ceil(amounts.epochs * pair.source.images / amounts.batch_size)
    return Plan(
        family=family,
        amounts=amounts,
        size=_fitting(sides, family.multiple, amounts.largest_side),
        pretraining_steps=min(most, max(least, _rounded(passes))),
        trials=trials or amounts.trials,
        mirrors=family is _ERFNET,
    )


def _family(pair: FolderPair, side: int) -> Family:
    if pair.source.problem == "segmentation":
        return _ERFNET
    return _LENET if side <= MOST_FOR_LENET else _RESNET


def _common_sides(pair: FolderPair) -> tuple[int, int]:
    """The smaller of both folders' median heights and widths: nothing is gained by enlarging."""
    (height, width), (other_height, other_width) = pair.source.median_size, pair.target.median_size
    return min(height, other_height), min(width, other_width)


def _fitting(sides: tuple[int, int], multiple: int, largest: int) -> tuple[int, int]:
    """Multiples near the sides, or near what is left of them if the longer is `largest`."""
    scale = min(1.0, largest / max(sides))
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in sides)
    return height, width


def _rounded(steps: int) -> int:
    return math.ceil(steps / 50) * 50
