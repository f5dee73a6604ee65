"""One trial: source network → Gaussian matching → adaptation steps → report after report.

What runs here knows nothing of Ray: it works in a notebook, under ``torchrun``, or in a
worker of any trainer that has set up ``torch.distributed``.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gam_ray.adaptation import (
    Discriminators,
    GeneralMatching,
    HealthMeter,
    Players,
    TappedNetwork,
    broadcast_object,
    build_discriminator,
    choose_layers,
    layer_moments,
    match_network,
    rank,
    remeasure,
    restore_matching,
    shard,
    world_size,
)
from gam_ray.config import TrialConfig, derive_seed
from gam_ray.networks import MatchableNetwork, build_network
from gam_ray.selection.oracle import OracleReading, read_oracle
from gam_ray.training.checkpoints import load_checkpoint, save_checkpoint
from gam_ray.training.data import IndexStream, TaskData, load_oracle_test, load_task, to_float
from gam_ray.training.evaluation import float_batches, label_free_scores, predict
from gam_ray.training.pretraining import PROGRESS_EVERY, SourceCache
from gam_ray.training.reports import DivergedError, Report, Reporter

# Target images whose moments are taken anew before a report; of more, the first so many (their
# order is random), since a pass a layer over all of them would outlast the steps between reports.
REMEASURED = 10_000


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended.

    Attributes:
        step: Adaptation steps done.
        stopped: Whether the reporter stopped it before its last step.
        oracle: Accuracy on the target's test split; None where the target has no labels.
    """

    step: int
    stopped: bool
    oracle: OracleReading | None


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
        """The trial's newest checkpoint."""
        return self.folder / "checkpoint.pt"


def run_trial(config: TrialConfig, place: Place, reporter: Reporter) -> TrialOutcome:
    """Run a trial to its end, from its checkpoint if it has one; all workers call it together.

    Equal settings give equal numbers on one kind of machine with equal workers and threads;
    other counts sum in another order and differ in the last digits.

    Args:
        config: The trial.
        place: Where it runs.
        reporter: Hears the reports; asked on the first worker only.

    Raises:
        ValueError: If settings do not go together, or a checkpoint is damaged.
        DataMissingError: If the task's data are not there.
        DivergedError: If a loss or a parameter is no longer finite.
    """
    check_trial(config, world_size())
    data = load_task(config.task, place.data_root)
    source = SourceCache(place.sources).get(
        config.task,
        config.pretraining,
        data,
        device=place.device,
        progress=lambda *stage: reporter.progress(*stage) if rank() == 0 else None,
    )
    target, outcome = _adapt(config, place, reporter, source, data)
    return TrialOutcome(*outcome, oracle=_read_oracle(config, place, target))


def check_trial(config: TrialConfig, workers: int) -> None:
    """Raise ValueError if the settings do not go together, as far as no data are needed."""
    network = build_network(config.task.network, in_channels=1, classes=2)
    choose_layers(network.layers, config.adaptation.layers)
    for name, size in (
        ("batch_size", config.batch_size),
        ("pretraining.batch_size", config.pretraining.batch_size),
    ):
        if size % workers:
            raise ValueError(
                f"{name} must be a multiple of the number of workers, but got {size} and {workers}"
            )


def load_adapted(config: TrialConfig, checkpoint: Path, device: torch.device) -> MatchableNetwork:
    """The target network of a trial's checkpoint, in evaluation mode.

    Args:
        config: The trial's.
        checkpoint: File that the trial wrote.
        device: Where the network shall be.
    """
    state = load_checkpoint(checkpoint, device)
    network = build_network(
        config.task.network, in_channels=state["in_channels"], classes=state["classes"]
    ).to(device)
    _load_target(network, config, state["target"])
    return network.eval()


def _load_target(network: MatchableNetwork, config: TrialConfig, state: dict[str, Tensor]) -> None:
    restore_matching(network, network.layers, state, momentum=_momentum(config))
    network.load_state_dict(state)


def _momentum(config: TrialConfig) -> float:
    moments = config.adaptation.moments
    return moments.momentum if moments.kind == "running" else 0.0


def _adapt(
    config: TrialConfig, place: Place, reporter: Reporter, source: MatchableNetwork, data: TaskData
) -> tuple[MatchableNetwork, tuple[int, bool]]:
    """The adapted network, and (steps done, whether the reporter stopped it)."""
    saved = _saved_state(place)
    target = deepcopy(source).requires_grad_(requires_grad=True)
    if saved:
        _load_target(target, config, saved["target"])
    elif config.adaptation.kind == "gaussian" or (
        config.adaptation.kind == "general" and config.adaptation.gaussian
    ):
        _match(config, source, target, data, place.device)
    run = _Run(config, place, reporter, source, target, data)
    if config.adaptation.kind != "general":
        run.report(step=0, health={}, state={})
        return target, (0, False)
    return target, _GeneralRun(run).train(saved)


def _saved_state(place: Place) -> dict[str, Any] | None:
    """The trial's checkpoint, if the first worker sees one."""
    if not broadcast_object(place.checkpoint.exists()):
        return None
    return load_checkpoint(place.checkpoint, place.device)


def _match(
    config: TrialConfig,
    source: MatchableNetwork,
    target: MatchableNetwork,
    data: TaskData,
    device: torch.device,
) -> None:
    """Insert Gaussian matching into the target network, from whole passes over both domains."""
    source_images = float_batches(data.source_train.images, device)
    match_network(
        target,
        target.layers,
        layer_moments(source, source.layers, source_images),
        lambda: float_batches(data.target_train.images, device),
        momentum=_momentum(config),
    )


@dataclass(frozen=True)
class _Run:
    """What every kind of trial has, and how it reports."""

    config: TrialConfig
    place: Place
    reporter: Reporter
    source: MatchableNetwork
    target: MatchableNetwork
    data: TaskData

    def report(self, *, step: int, health: dict[str, float], state: dict[str, Any]) -> bool:
        """Evaluate, write the checkpoint, report; True to go on. All workers call it."""
        seed = self.config.seed
        scores, predictions = label_free_scores(self.target, self.data, self.place.device, seed)
        if rank() == 0:
            save_checkpoint(
                self.place.checkpoint,
                {
                    "step": step,
                    "health": health,
                    "in_channels": self.data.in_channels,
                    "classes": len(self.data.class_names),
                    "target": self.target.state_dict(),
                    **state,
                },
            )
            goes_on = self.reporter.report(
                Report(
                    step=step,
                    metrics={**health, **scores},
                    predictions=predictions.float().cpu().numpy(),
                    checkpoint=self.place.checkpoint,
                )
            )
        return bool(broadcast_object(goes_on if rank() == 0 else None))


class _GeneralRun:
    """General matching from a step to the last, with reports in between."""

    def __init__(self, run: _Run) -> None:
        config, data = run.config, run.data
        self._run = run
        self._players = _players(run)
        self._matching = GeneralMatching(
            self._players,
            weight=config.adaptation.weight,
            adversary=config.adaptation.adversary,
            drift_weight=config.adaptation.drift,
        )
        self._source_images = data.source_train.images
        self._target_images = data.target_train.images
        size = config.batch_size
        seeds = {side: derive_seed(config.seed, "batches", side) for side in ("source", "target")}
        self._source_order = IndexStream(len(self._source_images), size, seeds["source"])
        self._target_order = IndexStream(len(self._target_images), size, seeds["target"])

    def train(self, saved: dict[str, Any] | None) -> tuple[int, bool]:
        """Go on to the last step; (steps done, whether the reporter stopped it)."""
        config = self._run.config
        first = self._restore(saved) if saved else 0
        # The checkpoint is older than its report, which may not have been taken: say it again.
        if saved and not self._report(first, saved["health"]):
            return first, first < config.steps
        health = HealthMeter()
        self._seed_noise(first)
        self._run.target.train()
        for step in range(first + 1, config.steps + 1):
            health.add(self._step(step - 1))
            if step % PROGRESS_EVERY == 0 and rank() == 0:
                self._run.reporter.progress("adapting", step, config.steps)
            if step % config.report_every and step != config.steps:
                continue
            means = health.take()
            _check_finite(means, step)
            self._remeasure()
            goes_on = self._report(step, means)
            self._seed_noise(step)
            if not goes_on:
                return step, step < config.steps
        return max(first, config.steps), False

    def _remeasure(self) -> None:
        """Take running moments anew: what is scored and kept shall not lag behind the weights."""
        if _momentum(self._run.config) > 0:
            device, images = self._run.place.device, self._target_images[:REMEASURED]
            network = self._run.target
            remeasure(network, network.layers, lambda: float_batches(images, device))

    def _report(self, step: int, health: dict[str, float]) -> bool:
        return self._run.report(step=step, health=health, state=self._state())

    def _step(self, index: int) -> dict[str, Tensor]:
        device = self._run.place.device
        source = self._source_images[shard(self._source_order.batch(index))]
        target = self._target_images[shard(self._target_order.batch(index))]
        return self._matching.step(to_float(source, device), to_float(target, device))

    def _seed_noise(self, step: int) -> None:
        """Seed torch's generator (dropout), so that a resumed trial draws the same noise."""
        torch.manual_seed(derive_seed(self._run.config.seed, "noise", rank(), step))

    def _state(self) -> dict[str, Any]:
        players = self._players
        return {
            "discriminators": players.discriminators.state_dict(),
            "target_optimizer": players.target_optimizer.state_dict(),
            "discriminator_optimizer": players.discriminator_optimizer.state_dict(),
        }

    def _restore(self, saved: dict[str, Any]) -> int:
        players = self._players
        for name in ("discriminators", "target_optimizer", "discriminator_optimizer"):
            getattr(players, name).load_state_dict(saved[name])
        step = saved["step"]
        assert isinstance(step, int)
        return step


def _players(run: _Run) -> Players:
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
        target_optimizer=torch.optim.Adam(
            run.target.parameters(), lr=config.optimizer.target_lr, betas=betas, fused=True
        ),
        discriminator_optimizer=torch.optim.Adam(
            discriminators.parameters(),
            lr=config.optimizer.discriminator_lr,
            betas=betas,
            fused=True,
        ),
    )


def _build_discriminators(run: _Run) -> Discriminators:
    """One for each chosen layer, each from a seed of its own: one more layer moves no other."""
    layers = choose_layers(run.source.layers, run.config.adaptation.layers)
    example = to_float(run.data.source_train.images[:2], run.place.device)
    with torch.no_grad():
        activations = TappedNetwork(run.source, layers)(example)
    by_layer = {}
    for name, activation in activations.items():
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(run.config.seed, "discriminator", name))
            by_layer[name] = build_discriminator(activation.shape)
    return Discriminators(by_layer)


def _check_finite(means: dict[str, float], step: int) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(
            f"not finite by step {step}: {', '.join(broken)}; lower the learning rates or "
            "adaptation.weight"
        )


def _read_oracle(
    config: TrialConfig, place: Place, target: MatchableNetwork
) -> OracleReading | None:
    """Accuracy on the target's test split, after everything that chooses has been said."""
    test = load_oracle_test(config.task, place.data_root)
    if test is None:
        return None
    probabilities, _ = predict(target, test.images, place.device)
    return read_oracle({"test": (probabilities.cpu(), test.labels)})
