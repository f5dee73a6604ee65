"""One network of a user's own, adapted in this process: for a notebook, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gam_ray.adaptation import choose_layers
from gam_ray.config import (
    AdaptationConfig,
    AugmentationConfig,
    OptimizerConfig,
    TaskConfig,
    TrialConfig,
)
from gam_ray.domains import VOID
from gam_ray.networks import MatchableNetwork, OwnNetwork
from gam_ray.training.adapting import Place, Run
from gam_ray.training.augmentation import check_augmentation
from gam_ray.training.data import TaskData, to_float
from gam_ray.training.evaluation import float_batches, full_size
from gam_ray.training.own_images import Images, carve_labelled, carve_unlabelled, gather_images
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.trial import matched_state, run_stages, start_target

# Scores that a source's true labels are needed for.
_OF_SOURCE_LABELS = ("source_accuracy", "source_iou", "iwcv", "dev")
_SCORE = "score/"
_DEFAULT_STEPS = 1000


@dataclass(frozen=True)
class Moment:
    """How a network stood after some steps.

    Attributes:
        step: Steps done.
        scores: Label-free scores on held-out images, by name; higher is better.
        metrics: Losses, health of the discriminators and the guard's figures, by name.
    """

    step: int
    scores: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Adapted:
    """What `adapt` gives.

    Attributes:
        network: The adapted network, in evaluation mode; called as the one that was given.
        history: One entry a report, the last of which is of `network`.
    """

    network: nn.Module
    history: tuple[Moment, ...]


class _History:
    """A reporter that keeps the figures of each report."""

    def __init__(self, left_out: tuple[str, ...], tell: Callable[[str], None] | None) -> None:
        self._left_out = left_out
        self._tell = tell
        self.moments: list[Moment] = []

    def report(self, report: Report) -> Verdict:
        """Keep the figures; always go on."""
        scores = {k.removeprefix(_SCORE): v for k, v in report.metrics.items() if _SCORE in k}
        kept = {name: value for name, value in scores.items() if name not in self._left_out}
        others = {name: value for name, value in report.metrics.items() if _SCORE not in name}
        self.moments.append(Moment(report.step, kept, others))
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Say how far the stage is."""
        if self._tell:
            self._tell(f"{stage}: {done}/{total}")

    def is_to_pause(self) -> bool:
        """Never."""
        return False


def adapt(
    network: nn.Module,
    source: Images,
    target: Images,
    *,
    layers: Sequence[str] = (),
    adaptation: AdaptationConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    steps: int = _DEFAULT_STEPS,
    batch_size: int = 64,
    report_every: int = 100,
    augmentation: AugmentationConfig | None = None,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Adapted:
    """Adapt one network that was trained on the source to an unlabelled target.

    What a study does in each trial, with one configuration, in this process and without Ray. The
    network that is given stays as it is. A tenth of both sides' images is held out for the scores.

    Example:
        ::

            from gam_ray import adapt

            found = adapt(net, (images, labels), target_loader, layers=["body.3", "head"])
            logits = found.network(batch)
            print(found.history[-1].scores["class_ami"])

    Args:
        network: Trained on the source. It takes float images [N, C, H, W] in [0, 1]; what
            normalises them is a part of it. It runs where its parameters are.
        source: Images of the source, with or without labels. Without, what `network` says of them
            stands for their labels in the collapse guard, and scores that need them are left out.
        target: Images of the target; labels that come along are not looked at.
        layers: Names of the layers to match, as ``named_modules`` has them, and the one that gives
            the logits; for a `MatchableNetwork` by default what `adaptation` says.
        adaptation: How the layers are matched; its own `layers` are replaced by `layers`.
        optimizer: Learning rates.
        steps: Adaptation steps.
        batch_size: Source images, and as many target images, a step.
        report_every: Steps between two entries of the history.
        augmentation: Random changes of the images; by default none.
        seed: Of everything that is drawn.
        tell: Told of progress, a line each.

    Returns:
        The adapted network and its history.

    Raises:
        ValueError: Layers, images or settings do not go together.
        DivergedError: A loss is no longer finite.
    """
    source_images, source_labels = gather_images(source, "source")
    target_images, _ = gather_images(target, "target")
    matchable = _frozen_copy(network, layers, source_images)
    device = next(matchable.parameters()).device
    data = _task_data(matchable, source_images, source_labels, target_images, device)
    config = TrialConfig(
        task=TaskConfig(source="source", target="target", network=type(network).__name__),
        adaptation=_with_layers(adaptation or AdaptationConfig(), layers),
        optimizer=optimizer or OptimizerConfig(),
        steps=steps,
        batch_size=batch_size,
        report_every=report_every,
        augmentation=augmentation or AugmentationConfig(),
        seed=seed,
    )
    if config.adaptation.kind == "general":
        choose_layers(matchable.layers, config.adaptation.layers)
        check_augmentation("augmentation", config.augmentation, data.image_size)
    history = _History(() if source_labels is not None else _OF_SOURCE_LABELS, tell)
    return Adapted(_run(matchable, data, config, device, history), tuple(history.moments))


def _with_layers(adaptation: AdaptationConfig, layers: Sequence[str]) -> AdaptationConfig:
    """Those that get a discriminator: what was said of them, or all of the network's that match."""
    if not layers or "layers" in adaptation.model_fields_set:
        return adaptation
    names = [name.replace(".", "_") for name in layers]
    return AdaptationConfig.from_mapping({**adaptation.to_mapping(), "layers": names})


def _frozen_copy(network: nn.Module, layers: Sequence[str], images: Tensor) -> MatchableNetwork:
    """The source network: a copy that does not learn."""
    copy = deepcopy(network).eval().requires_grad_(requires_grad=False)
    copy = copy.to(memory_format=torch.channels_last)
    if isinstance(copy, MatchableNetwork):
        return copy
    return OwnNetwork(copy, layers, to_float(images[:2], next(copy.parameters()).device)).eval()


def _task_data(
    network: MatchableNetwork,
    source: Tensor,
    labels: Tensor | None,
    target: Tensor,
    device: torch.device,
) -> TaskData:
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            "source and target images have one shape, but got "
            f"{tuple(source.shape[1:])} and {tuple(target.shape[1:])}; resize or convert them"
        )
    said, classes = _said(network, source, device)
    known = said if labels is None else labels
    if int(known[known != VOID].max()) >= classes:
        raise ValueError(
            f"the network tells {classes} classes, 0 to {classes - 1}, but a label of the source "
            f"is {int(known[known != VOID].max())}; map the labels, or give that network"
        )
    source_train, source_held_out = carve_labelled(source, known)
    target_train, target_held_out = carve_unlabelled(target)
    return TaskData(
        source_train=source_train,
        source_held_out=source_held_out,
        target_train=target_train,
        target_held_out=target_held_out,
        class_names=tuple(map(str, range(classes))),
    )


@torch.inference_mode()
def _said(network: MatchableNetwork, images: Tensor, device: torch.device) -> tuple[Tensor, int]:
    """The classes that a network predicts, of images or pixels, and how many it knows."""
    parts = []
    for batch in float_batches(images, device):
        logits = network(batch)
        if network.stride:
            logits = full_size(logits, (images.shape[-2], images.shape[-1]))
        parts.append(logits.argmax(1).cpu())
    return torch.cat(parts), logits.shape[1]


def _run(
    source: MatchableNetwork,
    data: TaskData,
    config: TrialConfig,
    device: torch.device,
    history: _History,
) -> nn.Module:
    """The stages of a trial behind its source network; checkpoints go where nobody looks."""
    with tempfile.TemporaryDirectory(prefix="gam-ray-") as name, _own_generators(device):
        folder = Path(name)
        place = Place(folder / "trial", folder, None, device)
        matched = partial(matched_state, source, data, device)
        target = start_target(config, source, place, None, matched)
        # Of this call alone: what is kept of a source network goes by its file's name.
        file = folder / "source.pt"
        run = Run(config, place, history, source, file, target, data, oracle_at_reports=False)
        run_stages(run, None, None)
    return target.eval()


def _own_generators(device: torch.device) -> AbstractContextManager[None]:
    """Leaves the caller's random numbers as they were."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
