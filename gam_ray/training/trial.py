"""One trial: source network → Gaussian matching → adaptation steps → report after report.

A consensus student takes the place of both in a trial that has teachers.

What runs here knows nothing of Ray: it works in a notebook, under ``torchrun``, or in a
worker of any trainer that has set up ``torch.distributed``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gam_ray.adaptation import (
    broadcast_object,
    choose_layers,
    layer_moments,
    layers_to_match,
    match_network,
    restore_matching,
    world_size,
)
from gam_ray.config import StudentConfig, TrialConfig, derive_seed
from gam_ray.domains import LabelledImages
from gam_ray.networks import MatchableNetwork, build_network
from gam_ray.selection.oracle import OracleReading
from gam_ray.training.adapting import (
    GeneralRun,
    Place,
    Run,
    batch_momentum,
    oracle_reading,
    tell_progress,
)
from gam_ray.training.augmentation import check_augmentation
from gam_ray.training.checkpoints import load_checkpoint, load_newest
from gam_ray.training.data import TaskData, load_task
from gam_ray.training.evaluation import float_batches, matching_batches
from gam_ray.training.exhibits import leave_exhibits
from gam_ray.training.fine_tuning import few_labelled, fine_tune
from gam_ray.training.precision import tensor_cores
from gam_ray.training.pretraining import SourceCache
from gam_ray.training.reports import Reporter
from gam_ray.training.student import consensus_labels, train_student

__all__ = [
    "Place",
    "TrialOutcome",
    "check_trial",
    "load_adapted",
    "matched_state",
    "run_stages",
    "run_trial",
    "start_target",
]


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended.

    Attributes:
        step: Steps done, of adaptation and then of fine-tuning.
        stopped: Whether the reporter stopped it before its last step.
        oracle: How right its kept network is on the target; None where the target has no labels.
    """

    step: int
    stopped: bool
    oracle: OracleReading | None


def run_trial(
    config: TrialConfig, place: Place, reporter: Reporter, *, oracle_at_reports: bool = False
) -> TrialOutcome:
    """Run a trial to its end, from its checkpoint if it has one; all workers call it together.

    Equal settings give equal numbers on one kind of machine with equal workers and threads;
    other counts sum in another order and differ in the last digits.

    Args:
        config: The trial.
        place: Where it runs.
        reporter: Hears the reports; asked on the first worker only.
        oracle_at_reports: Whether target labels are read at each report and not only after the
            last one, for a study that chooses by them because it was asked to.

    Raises:
        ValueError: If settings do not go together, or a checkpoint is damaged.
        DataMissingError: If the task's data are not there.
        FileNotFoundError: If a student's teacher, or the trial to go on from, has left no
            checkpoint.
        DivergedError: If a loss or a parameter is no longer finite.
        TrialPausedError: If the reporter says to pause; run again, it goes on from there.
    """
    with tensor_cores(place.device):
        return _run_trial(config, place, reporter, oracle_at_reports=oracle_at_reports)


def _run_trial(
    config: TrialConfig, place: Place, reporter: Reporter, *, oracle_at_reports: bool
) -> TrialOutcome:
    check_trial(config, world_size())
    data = load_task(config.task, place.data_root)
    if config.adaptation.kind == "general":
        check_augmentation("augmentation", config.augmentation, data.image_size)
    few = few_labelled(config, place.data_root) if config.fine_tuning else None
    sources = SourceCache(place.sources)
    progress = partial(tell_progress, reporter)
    source = sources.get(
        config.task,
        config.pretraining,
        data,
        device=place.device,
        progress=progress,
    )
    saved = _saved_state(place) or _inherited_state(config, place)
    match = partial(matched_state, source, data, place.device)
    settings = config.task, config.pretraining, data
    matched = partial(
        sources.matched, *settings, device=place.device, match=match, progress=progress
    )
    target = start_target(config, source, place, saved, matched)
    file = sources.file(*settings)
    run = Run(config, place, reporter, source, file, target, data, oracle_at_reports)
    step, stopped = run_stages(run, saved, few)
    adapted = load_adapted(config, place.adapted, place.device)
    leave_exhibits(adapted, run)
    return TrialOutcome(step, stopped, oracle=oracle_reading(adapted, run))


def check_trial(config: TrialConfig, workers: int) -> None:
    """Raise ValueError if the settings do not go together, as far as no data are needed."""
    layers = _layers_of(config.task.network)
    if config.adaptation.kind == "general":
        choose_layers(layers, config.adaptation.layers)
    choose_layers(layers, tuple(config.adaptation.layer_weights))
    sizes = {
        "batch_size": config.batch_size,
        "pretraining.batch_size": config.pretraining.batch_size,
    }
    if config.fine_tuning:
        sizes["fine_tuning.batch_size"] = config.fine_tuning.batch_size
    if config.student and config.student.batch_size:
        sizes["student.batch_size"] = config.student.batch_size
    for name, size in sizes.items():
        if size % workers:
            raise ValueError(
                f"{name} must be a multiple of the number of workers, but got {size} and {workers}"
            )


@lru_cache
def _layers_of(name: str) -> dict[str, nn.Module]:
    """The layers of a network by that name, asked once: a large one takes seconds to build."""
    network = build_network(name, in_channels=3, classes=2)
    return {layer: nn.Identity() for layer in network.layers}


def load_adapted(config: TrialConfig, checkpoint: Path, device: torch.device) -> MatchableNetwork:
    """The target network of a trial, in evaluation mode.

    Args:
        config: The trial's.
        checkpoint: File that the trial wrote: its newest checkpoint, or the one it ends with.
        device: Where the network shall be.
    """
    state = load_checkpoint(checkpoint, device)
    network = build_network(
        config.task.network, in_channels=state["in_channels"], classes=state["classes"]
    ).to(device)
    _load_target(network, config, state["target"])
    return network.eval()


def _load_target(network: MatchableNetwork, config: TrialConfig, state: dict[str, Tensor]) -> None:
    restore_matching(network, network.layers, state, momentum=batch_momentum(config))
    network.load_state_dict(state)


def start_target(
    config: TrialConfig,
    source: MatchableNetwork,
    place: Place,
    saved: dict[str, Any] | None,
    matched: Callable[[], dict[str, Tensor]],
) -> MatchableNetwork:
    """The target network before its first step here: a copy of the source's, matched, or saved.

    A student is a copy of its first teacher.

    Args:
        config: The trial's.
        source: The source network.
        place: Where the trial runs.
        saved: Its checkpoint, if it has one.
        matched: Gives the state of the matched source network; called where it is needed.
    """
    if config.student and not saved:
        return load_adapted(config, place.adapted_of(config.student.teachers[0]), place.device)
    target = deepcopy(source).requires_grad_(requires_grad=True)
    adaptation = config.adaptation
    if saved:
        _load_target(target, config, saved["target"])
    elif adaptation.kind == "gaussian" or (adaptation.kind == "general" and adaptation.gaussian):
        _load_target(target, config, matched())
    return target


def run_stages(
    run: Run, saved: dict[str, Any] | None, labelled: LabelledImages | None
) -> tuple[int, bool]:
    """Adapt and fine-tune, as far as it is not saved; (steps done, whether it was stopped).

    Args:
        run: The trial.
        saved: Its checkpoint.
        labelled: Target images to fine-tune on; None for no fine-tuning.
    """
    config = run.config
    step = config.adaptation_steps
    if saved and saved["step"] > step:
        run.report(step=saved["step"], health=saved["health"], state={})
        return saved["step"], False
    if config.student:
        run.report(step=config.last_step, health=_teach(run, config.student), state={})
        return config.last_step, False
    if config.adaptation.kind == "general":
        step, goes_on = GeneralRun(run).train(saved)
    else:
        goes_on = run.report(step=0, health={}, state={})
    if labelled is None or not goes_on:
        return step, step < config.last_step
    health = fine_tune(run.target, labelled, config, device=run.place.device, progress=run.progress)
    run.report(step=config.last_step, health=health, state={})
    return config.last_step, False


def _teach(run: Run, settings: StudentConfig) -> dict[str, float]:
    """Train the student on what its teachers say; the health of its last step."""
    place, images = run.place, run.data.target_train.images
    teachers = [
        load_adapted(run.config, place.adapted_of(key), place.device) for key in settings.teachers
    ]
    labels = consensus_labels(teachers, images, place.device)
    return train_student(
        run.target,
        images,
        labels,
        settings,
        batch_size=settings.batch_size or run.config.batch_size,
        seed=derive_seed(run.config.seed, "student"),
        device=place.device,
        progress=run.progress,
    )


def _saved_state(place: Place) -> dict[str, Any] | None:
    """The trial's newest checkpoint that is whole, if there is one; the same for all workers."""
    state = load_newest(place.checkpoint, place.device)
    step = state["step"] if state else None
    if (first := broadcast_object(step)) != step:
        raise RuntimeError(
            f"workers see different checkpoints of a trial, of steps {first} and {step}: its "
            "storage does not show all nodes the same; the trial is tried again"
        )
    return state


def _inherited_state(config: TrialConfig, place: Place) -> dict[str, Any] | None:
    """What the trial that this one goes on from ended with, as if this one had paused there.

    Raises:
        FileNotFoundError: If that trial has left nothing.
    """
    if config.continues is None:
        return None
    file = place.checkpoint_of(config.continues)
    state = load_newest(file, place.device)
    if state is None:
        raise FileNotFoundError(f"the trial to go on from has left no checkpoint in {file}")
    return {**state, "meter": {"steps": 0, "sums": {}}}


def matched_state(
    source: MatchableNetwork, data: TaskData, device: torch.device
) -> dict[str, Tensor]:
    """State of a copy of the source network, matched by whole passes over both domains."""
    target = deepcopy(source)
    unnormalised = layers_to_match(source.layers)
    source_images = float_batches(data.source_train.images, device)
    match_network(
        target,
        target.layers,
        layer_moments(source, unnormalised, source_images) if unnormalised else {},
        lambda: matching_batches(target, data.target_train.images, device),
        is_chain=target.is_chain,
    )
    state: dict[str, Tensor] = target.state_dict()
    return state
