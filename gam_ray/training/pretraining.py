"""The source network: trained once, cached by content hash, shared by all who want the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from gam_ray.adaptation import (
    broadcast_object,
    rank,
    share_batch_norm,
    sum_over_workers,
)
from gam_ray.config import PretrainingConfig, TaskConfig, derive_seed
from gam_ray.networks import MatchableNetwork, build_network
from gam_ray.training.augmentation import Augmentation, check_augmentation
from gam_ray.training.checkpoints import load_checkpoint, save_checkpoint
from gam_ray.training.data import TaskData
from gam_ray.training.reports import DivergedError, Progress
from gam_ray.training.supervised import Supervised

# Raised whenever the same settings would give another network.
RECIPE_VERSION = 2
# Longest wait for another trial group that trains the same network.
LOCK_TIMEOUT_S = 3600.0
PROGRESS_EVERY = 50
POLY_POWER = 0.9


class SourceCache:
    """Source networks in a folder that all workers see.

    Args:
        folder: Made on demand; one file a network.
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
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{task.source}-{task.network}-{digest}.pt"

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
        file = self.file(task, pretraining, data)
        network = _fresh_network(task, pretraining, data).to(device)
        network = network.to(memory_format=torch.channels_last)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock", timeout=LOCK_TIMEOUT_S)
        if rank() == 0 and not file.exists():
            lock.acquire()
        try:
            if broadcast_object(file.exists()):
                network.load_state_dict(load_checkpoint(file, device)["network"])
            else:
                train_source(network, data, pretraining, device=device, progress=progress)
                if rank() == 0:
                    save_checkpoint(file, {"network": network.state_dict()})
        finally:
            lock.release()
        return network.eval().requires_grad_(requires_grad=False)


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
    supervised = Supervised(
        network,
        data.source_train.images,
        data.source_train.labels,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
    )
    augmentation = Augmentation(config.augmentation, config.seed)
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "noise", rank()))
        for step in range(config.steps):
            if config.schedule == "poly":
                optimizer.param_groups[0]["lr"] = config.learning_rate * poly(step, config.steps)
            loss = supervised.step(step, optimizer, augmentation)
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
