"""The source network: trained once, cached by content hash, shared by all who want the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from gam_ray.adaptation import (
    Adam,
    broadcast_object,
    rank,
    share_batch_norm,
    sum_over_workers,
)
from gam_ray.config import PretrainingConfig, TaskConfig, derive_seed
from gam_ray.networks import MatchableNetwork, build_network
from gam_ray.training.augmentation import check_augmentation
from gam_ray.training.checkpoints import load_checkpoint, save_checkpoint
from gam_ray.training.data import TaskData
from gam_ray.training.reports import DivergedError, Progress
from gam_ray.training.supervised import Supervised

# Raised whenever the same settings would give another network.
RECIPE_VERSION = 2
# The same of Gaussian matching.
MATCHING_VERSION = 1
# Longest wait for another trial group that trains the same network.
LOCK_TIMEOUT_S = 24 * 3600.0
LOCK_POLL_S = 5.0
PROGRESS_EVERY = 50
POLY_POWER = 0.9


class SourceCache:
    """Source networks, and what all their trials begin with, in a folder that all workers see.

    Args:
        folder: Made on demand; one file a network, one a network and target.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, task: TaskConfig, pretraining: PretrainingConfig, data: TaskData) -> Path:
        """Where the source network of these settings on this data is, or will be."""
        content = {
            "recipe": RECIPE_VERSION,
            "network": task.network,
            "pretraining": pretraining.to_mapping(),
            "source": data.source_train.fingerprint(),
        }
        return self._folder / f"{task.source}-{task.network}-{_digest(content)}.pt"

    def get(
        self,
        task: TaskConfig,
        pretraining: PretrainingConfig,
        data: TaskData,
        *,
        device: torch.device,
        progress: Progress,
    ) -> MatchableNetwork:
        """The source network, in evaluation mode; trained by whoever asks first.

        All workers of a trial call this together. Of several trials that start together, one
        trains, data-parallel over its workers, and the others wait for its file.

        Raises:
            filelock.Timeout: If another trial held the lock for `LOCK_TIMEOUT_S`.
            DivergedError: If training left the finite numbers.
        """
        network = _fresh_network(task, pretraining, data).to(device)
        network = network.to(memory_format=torch.channels_last)

        def train() -> dict[str, Tensor]:
            train_source(network, data, pretraining, device=device, progress=progress)
            return network.state_dict()

        state = _made_once(self.file(task, pretraining, data), "network", train, device, progress)
        network.load_state_dict(state)
        return network.eval().requires_grad_(requires_grad=False)

    def matched(
        self,
        task: TaskConfig,
        pretraining: PretrainingConfig,
        data: TaskData,
        *,
        device: torch.device,
        match: Callable[[], dict[str, Tensor]],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """What Gaussian matching makes of the source network, which is the same for all trials.

        All workers of a trial call this together, as `get`.

        Args:
            task: As in `get`.
            pretraining: As in `get`.
            data: As in `get`.
            device: Of this worker.
            match: Matches a copy of the source network; its state.
            progress: Told while another trial matches it.

        Returns:
            The matched network's state.
        """
        content = {"recipe": MATCHING_VERSION, "target": data.target_train.fingerprint()}
        source = self.file(task, pretraining, data)
        file = source.with_name(f"{source.stem}-matched-{_digest(content)}.pt")
        return _made_once(file, "matched", match, device, progress)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _made_once(
    file: Path,
    name: str,
    make: Callable[[], dict[str, Tensor]],
    device: torch.device,
    progress: Progress,
) -> dict[str, Tensor]:
    """The tensors in `file`, made by whoever asks first; all workers of a trial ask together.

    Who waits for another trial says so again and again.

    Raises:
        filelock.Timeout: If another trial held the lock for `LOCK_TIMEOUT_S`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock")
    if rank() == 0 and not file.exists():
        _acquire(lock, progress)
    try:
        if broadcast_object(file.exists()):
            found: dict[str, Tensor] = load_checkpoint(file, device)[name]
            return found
        state = make()
        if rank() == 0:
            save_checkpoint(file, {name: state})
    finally:
        lock.release()
    return state


def _acquire(lock: FileLock, progress: Progress) -> None:
    """Take a lock within `LOCK_TIMEOUT_S`, with signs of life while another trial has it."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL_S)
        except Timeout:
            if time.monotonic() > deadline:
                raise
            progress("waiting for the source network of another trial", 0, 1)
        else:
            return


def _fresh_network(
    task: TaskConfig, pretraining: PretrainingConfig, data: TaskData
) -> MatchableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(pretraining.seed, "weights"))
        network = build_network(
            task.network,
            in_channels=data.in_channels,
            classes=len(data.class_names),
            weights=pretraining.weights,
        )
    share_batch_norm(network)
    return network


def train_source(
    network: MatchableNetwork,
    data: TaskData,
    config: PretrainingConfig,
    *,
    device: torch.device,
    progress: Progress,
) -> None:
    """Train on labelled source images with cross-entropy and Adam, data-parallel.

    Args:
        network: Trained in place; equal on all workers before and after.
        data: Of the task.
        config: Steps, batch size, learning rate, L2, schedule, augmentation.
        device: Where the network is.
        progress: Told every few steps.

    Raises:
        DivergedError: If the loss is no longer finite, checked every few steps.
    """
    check_augmentation("pretraining.augmentation", config.augmentation, data.image_size)
    network.train()
    optimizer = Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    supervised = Supervised(
        network,
        data.source_train.images,
        data.source_train.labels,
        optimizer,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        steps=config.steps,
        seed=config.seed,
        device=device,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "noise", rank()))
        for step in range(config.steps):
            if config.schedule == "poly":
                optimizer.set_learning_rate(config.learning_rate * poly(step, config.steps))
            loss = supervised.step(step)
            if (step + 1) % PROGRESS_EVERY == 0 or step + 1 == config.steps:
                _check_loss(loss, step + 1)
                progress("training the source network", step + 1, config.steps)


def poly(step: int, steps: int) -> float:
    """(1 − step/steps)^0.9, the share of the learning rate that segmentation networks take."""
    share: float = (1 - step / steps) ** POLY_POWER
    return share


def _check_loss(loss: Tensor, step: int) -> None:
    if not bool(sum_over_workers(loss.detach()).isfinite()):
        raise DivergedError(
            f"the source network's loss is not finite at step {step}; "
            "lower pretraining.learning_rate"
        )
