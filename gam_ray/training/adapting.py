"""General matching from a step to the last, with reports in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gam_ray.adaptation import (
    ADVERSARIAL_LOSSES,
    Adam,
    Discriminators,
    GeneralMatching,
    HealthMeter,
    Players,
    TappedNetwork,
    broadcast_object,
    build_discriminator,
    choose_layers,
    in_precision,
    loss_ratios,
    rank,
    remeasure,
    train_mode,
)
from gam_ray.config import AugmentationConfig, TaskConfig, TrialConfig, derive_seed
from gam_ray.networks import MatchableNetwork
from gam_ray.selection.collapse import Unadapted, guard_figures
from gam_ray.selection.oracle import OracleReading, read_oracle
from gam_ray.selection.scores import all_scores
from gam_ray.training.batches import Batches
from gam_ray.training.captured import CapturedSteps, Inputs
from gam_ray.training.checkpoints import save_checkpoint, save_next
from gam_ray.training.data import TaskData, load_target_labels, to_float
from gam_ray.training.evaluation import (
    gather_evidence,
    matching_batches,
    predictions,
    quality,
    source_iou,
)
from gam_ray.training.precision import PRECISIONS, CompiledLayers
from gam_ray.training.pretraining import PROGRESS_EVERY
from gam_ray.training.reports import DivergedError, Report, Reporter, TrialPausedError
from gam_ray.training.source_activations import SourceActivations, pays

T = TypeVar("T")

# Pixels of target images whose moments are taken anew before a report (10,000 digits); of more
# images, the first so many, whose order is random: passes over all of them would outlast the steps
# between reports.
REMEASURED_PIXELS = 10_000 * 28 * 28
# Steps between two questions whether to pause, which all workers ask together.
PAUSE_EVERY = 10
CHECKPOINT = "checkpoint.pt"
ADAPTED = "adapted.pt"
EXHIBITS = "exhibits.npz"


@dataclass(frozen=True)
class Place:
    """Where a trial runs and keeps its files.

    Attributes:
        folder: The trial's own, seen by all its workers; its checkpoint is here.
        sources: Folder of source networks, shared by all trials.
        data_root: Folder of data sets; None for the default.
        device: Of this worker.
    """

    folder: Path
    sources: Path
    data_root: Path | None
    device: torch.device

    @property
    def checkpoint(self) -> Path:
        """The trial's newest checkpoint, from which it goes on."""
        return self.folder / CHECKPOINT

    @property
    def adapted(self) -> Path:
        """The network of the trial's best report, which it ends with."""
        return self.folder / ADAPTED

    @property
    def exhibits(self) -> Path:
        """What the trial leaves for people to look at."""
        return self.folder / EXHIBITS

    def adapted_of(self, key: str) -> Path:
        """The network of another trial of the same study, by its key."""
        return self.folder.parent / key / ADAPTED

    def checkpoint_of(self, key: str) -> Path:
        """The newest checkpoint of another trial of the same study, by its key."""
        return self.folder.parent / key / CHECKPOINT


@dataclass(frozen=True)
class Run:
    """What every kind of trial has, and how it reports.

    Attributes:
        source: The source network.
        source_file: Where it is kept, which is its name for caches.
        target: The network that learns.
        oracle_at_reports: Whether each report says what the oracle reads.
    """

    config: TrialConfig
    place: Place
    reporter: Reporter
    source: MatchableNetwork
    source_file: Path
    target: MatchableNetwork
    data: TaskData
    oracle_at_reports: bool

    def once(self, make: Callable[[Run], T]) -> T:
        """What `make` finds of the source network on the task's images; once for all trials here.

        Every worker asks for the same in the same order.
        """
        place = self.place
        kept = _kept(self.source_file, self.config.task, place.data_root, place.device)
        if make not in kept:
            kept[make] = make(self)
        found: T = kept[make]
        return found

    def report(self, *, step: int, health: dict[str, float], state: dict[str, Any]) -> bool:
        """Evaluate, write the checkpoint, report; True to go on. All workers call it."""
        data = self.data
        evidence = gather_evidence(self.target, data, self.place.device, self.config.seed)
        unadapted = self.once(_unadapted)
        oracle = oracle_reading(self.target, self) if self.oracle_at_reports else None
        metrics = {**health, **source_iou(self.target, data)}
        if rank() == 0:
            metrics |= {f"score/{name}": value for name, value in all_scores(evidence).items()}
            metrics |= guard_figures(evidence, unadapted)
            network = self._network(step)
            save_next(self.place.checkpoint, {**network, "health": health, **state})
            verdict = self.reporter.report(
                Report(
                    step=step,
                    metrics=metrics,
                    predictions=evidence.target.probabilities.float().cpu().numpy(),
                    checkpoint=self.place.checkpoint,
                    oracle=oracle,
                )
            )
            if verdict.keep or not self.place.adapted.exists():
                save_checkpoint(self.place.adapted, network)
        return bool(broadcast_object(verdict.go_on if rank() == 0 else None))

    def pause(self, *, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint between two reports, and end for now. All workers call it.

        Raises:
            TrialPausedError: Always.
        """
        if rank() == 0:
            save_next(self.place.checkpoint, {**self._network(step), **state})
        raise TrialPausedError(f"paused after step {step}")

    def is_to_pause(self) -> bool:
        """What the reporter says, on all workers."""
        return bool(broadcast_object(self.reporter.is_to_pause() if rank() == 0 else None))

    def progress(self, stage: str, done: int, total: int) -> None:
        """Tell the reporter, from the first worker alone."""
        tell_progress(self.reporter, stage, done, total)

    def _network(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "in_channels": self.data.in_channels,
            "classes": len(self.data.class_names),
            "target": self.target.state_dict(),
        }


@lru_cache(maxsize=1)
def _kept(
    source_file: Path,  # noqa: ARG001
    task: TaskConfig,  # noqa: ARG001
    data_root: Path | None,  # noqa: ARG001
    device: torch.device,  # noqa: ARG001
) -> dict[Callable[[Run], Any], Any]:
    """What `Run.once` has of one source network; that of the one before is forgotten."""
    return {}


def _unadapted(run: Run) -> Unadapted:
    """The source network on the target's held-out split; all workers ask for it together."""
    images = run.data.target_held_out.images
    return Unadapted.of(predictions(run.source, images, run.place.device))


def tell_progress(reporter: Reporter, stage: str, done: int, total: int) -> None:
    """Tell a reporter how far a stage is, from the first worker alone."""
    if rank() == 0:
        reporter.progress(stage, done, total)


def oracle_reading(network: MatchableNetwork, run: Run) -> OracleReading | None:
    """What target labels say of a network; None where there are none. All workers call it."""
    labelled = load_target_labels(run.config.task, run.place.data_root)
    if not labelled:
        return None
    names = run.data.class_names
    return read_oracle({split: quality(network, part, names) for split, part in labelled.items()})


def batch_momentum(config: TrialConfig) -> float:
    """Share of the newest batch in the kept moments; 0 keeps those measured at the start."""
    moments = config.adaptation.moments
    return moments.momentum if moments.kind == "running" else 0.0


class GeneralRun:
    """Both players' training, from the step of a checkpoint or from the first.

    Args:
        run: Its target network has its matchings already.
    """

    def __init__(self, run: Run) -> None:
        config, data = run.config, run.data
        adaptation = config.adaptation
        self._run = run
        self._players = _players(run)
        self._matching = GeneralMatching(
            self._players,
            weights={name: adaptation.weight_of(name) for name in adaptation.layers},
            adversary=adaptation.adversary,
            drift_weight=adaptation.drift,
            drift_reduction=adaptation.drift_reduction,
            precision=PRECISIONS[config.precision],
        )
        self._device = run.place.device
        self._source = _SourceSide(run)
        self._target = _batches(config, "target", data.target_train.images, self._device)
        self._compiled: CompiledLayers | None = None
        if config.compiled and self._device.type == "cuda":
            self._compiled = CompiledLayers(run.source, run.target)

    def train(self, saved: dict[str, Any] | None) -> tuple[int, bool]:
        """Go on to the last step; (steps done, whether the reporter says to go on).

        Raises:
            TrialPausedError: If the reporter says to pause, once the checkpoint is written.
        """
        with self._compiled or nullcontext():
            return self._train(saved)

    def _train(self, saved: dict[str, Any] | None) -> tuple[int, bool]:
        config = self._run.config
        first = self._restore(saved) if saved else 0
        health = HealthMeter()
        if saved and "meter" in saved:
            health.load_state(saved["meter"])
        # The checkpoint is older than its report, which may not have been taken: say it again.
        elif saved and not self._report(first, saved["health"]):
            return first, False
        self._start(first)
        take = CapturedSteps(
            partial(self._step, health), self._inputs, steps=config.steps, device=self._device
        )
        for step in range(first + 1, config.steps + 1):
            take(step - 1)
            if step % PROGRESS_EVERY == 0:
                _check_finite(health.means(), step)
                self._run.progress("adapting", step, config.steps)
            if step % config.report_every and step != config.steps:
                if step % PAUSE_EVERY == 0 and self._run.is_to_pause():
                    self._pause(step, health)
                continue
            means = health.take()
            _check_finite(means, step)
            self._remeasure()
            goes_on = self._report(step, {**means, **loss_ratios(means)})
            self._start(step)
            if not goes_on:
                return step, False
        return max(first, config.steps), True

    def _inputs(self, step: int) -> Inputs:
        """Of both sides, the source's first."""
        return *self._source.inputs(step), *self._target.inputs(step)

    def _step(self, health: HealthMeter, *inputs: Tensor) -> None:
        own = self._source.inputs_a_step
        with self._compiled.in_steps() if self._compiled else nullcontext():
            source = partial(self._source.activations, *inputs[:own])
            health.add(self._matching.step(source, self._target.take(*inputs[own:])[0]))

    def _start(self, step: int) -> None:
        """Modes and noise of the steps after `step`, the same for a trial that is resumed there."""
        # For networks that draw from torch's generator by themselves.
        torch.manual_seed(derive_seed(self._run.config.seed, "noise", rank(), step))
        train_mode(self._run.target, statistics=self._follows(), dropout=False)

    def _follows(self) -> bool:
        """Whether matched moments follow the batches."""
        config = self._run.config
        return config.adaptation.gaussian and batch_momentum(config) > 0

    def _remeasure(self) -> None:
        """Take moments anew: what is scored and kept shall not lag behind the weights."""
        if self._follows():
            network, device = self._run.target, self._run.place.device
            images = self._run.data.target_train.images
            height, width = self._run.data.image_size
            some = images[: max(1, REMEASURED_PIXELS // (height * width))]
            remeasure(
                network,
                network.layers,
                lambda: matching_batches(network, some, device),
                is_chain=network.is_chain,
            )

    def _report(self, step: int, health: dict[str, float]) -> bool:
        return self._run.report(step=step, health=health, state=self._learned())

    def _pause(self, step: int, health: HealthMeter) -> None:
        self._run.pause(step=step, state={**self._learned(), "meter": health.state()})

    def _learned(self) -> dict[str, Any]:
        return {name: getattr(self._players, name).state_dict() for name in _LEARNERS}

    def _restore(self, saved: dict[str, Any]) -> int:
        for name in _LEARNERS:
            getattr(self._players, name).load_state_dict(saved[name])
        # Of a trial that goes on from another one these may be others.
        config = self._run.config.optimizer
        for name, rate in (
            ("target_optimizer", config.target_lr),
            ("discriminator_optimizer", config.discriminator_lr),
        ):
            for group in getattr(self._players, name).param_groups:
                group["lr"], group["betas"] = rate, (config.beta1, 0.999)
        step = saved["step"]
        assert isinstance(step, int)
        return step


# What a checkpoint of general matching has beside the target network.
_LEARNERS = ("discriminators", "target_optimizer", "discriminator_optimizer")


def _batches(config: TrialConfig, side: str, images: Tensor, device: torch.device) -> Batches:
    """Those of one side, step by step."""
    seed = derive_seed(config.seed, "batches", side)
    return Batches(
        images,
        None,
        config.augmentation,
        batch_size=config.batch_size,
        order_seed=seed,
        seed=seed,
        device=device,
    )


def _source_activations(_: Run) -> SourceActivations:
    """Empty at first: trials have other layers."""
    return SourceActivations()


class _SourceSide:
    """What the source network gives out on this worker's share of the images, step by step.

    Layers that are kept are looked up; the network runs as far as the others need.
    """

    def __init__(self, run: Run) -> None:
        config, images = run.config, run.data.source_train.images
        names = config.adaptation.layers
        self._batches = _batches(config, "source", images, run.place.device)
        self._kept: dict[str, Tensor] = {}
        if self._may_be_kept(config, len(images)):
            activations = run.once(_source_activations)
            self._kept = activations.keep(run.source, names, images, run.place.device)
        others = tuple(name for name in names if name not in self._kept)
        layers = choose_layers(run.source.layers, others)
        self._others = TappedNetwork(run.source, layers) if others else None
        self._in_precision = partial(in_precision, run.place.device, PRECISIONS[config.precision])

    @staticmethod
    def _may_be_kept(config: TrialConfig, images: int) -> bool:
        is_same = config.augmentation == AugmentationConfig() and config.precision == "float32"
        return is_same and pays(config.steps, config.batch_size, images)

    @property
    def inputs_a_step(self) -> int:
        """How many tensors `inputs` gives."""
        return self._batches.inputs_a_step

    def inputs(self, step: int) -> Inputs:
        """What step 0, 1, … takes."""
        return self._batches.inputs(step)

    @torch.no_grad()
    def activations(self, indices: Tensor, *others: Tensor) -> dict[str, Tensor]:
        """Layer name → activation for what `inputs` gave, once it is on the device."""
        found = {name: rows[indices] for name, rows in self._kept.items()}
        if self._others is not None:
            with self._in_precision():
                found |= self._others(self._batches.take(indices, *others)[0])
        return found


def _players(run: Run) -> Players:
    config = run.config
    names = config.adaptation.layers
    source_layers = choose_layers(run.source.layers, names)
    discriminators = _build_discriminators(run).to(run.place.device)
    discriminators = discriminators.to(memory_format=torch.channels_last)
    betas = (config.optimizer.beta1, 0.999)
    return Players(
        source=run.source,
        target=run.target,
        source_layers=source_layers,
        target_layers=choose_layers(run.target.layers, names),
        discriminators=discriminators,
        target_optimizer=Adam(run.target.parameters(), lr=config.optimizer.target_lr, betas=betas),
        discriminator_optimizer=Adam(
            discriminators.parameters(), lr=config.optimizer.discriminator_lr, betas=betas
        ),
    )


def _build_discriminators(run: Run) -> Discriminators:
    """One for each chosen layer, each from a seed of its own: one more layer moves no other."""
    adaptation = run.config.adaptation
    layers = choose_layers(run.source.layers, adaptation.layers)
    example = to_float(run.data.source_train.images[:2], run.place.device)
    with torch.no_grad():
        activations = TappedNetwork(run.source, layers)(example)
    by_layer = {}
    for name, activation in activations.items():
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(run.config.seed, "discriminator", name))
            outputs = ADVERSARIAL_LOSSES[adaptation.adversary].outputs
            by_layer[name] = build_discriminator(activation.shape, outputs=outputs)
    return Discriminators(by_layer)


def _check_finite(means: dict[str, float], step: int) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(
            f"not finite by step {step}: {', '.join(broken)}; lower the learning rates or "
            "adaptation.weight"
        )
