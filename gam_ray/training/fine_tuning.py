"""The optional last stage: supervised training on a few labelled target images (Figure 6)."""

from __future__ import annotations

from pathlib import Path

import torch

from gam_ray.adaptation import Adam, rank, sum_over_workers, train_mode
from gam_ray.config import TrialConfig, derive_seed
from gam_ray.domains import LabelledImages
from gam_ray.networks import MatchableNetwork
from gam_ray.training.data import load_target_labels
from gam_ray.training.reports import DivergedError, Progress
from gam_ray.training.supervised import Supervised


def few_labelled(config: TrialConfig, data_root: Path | None) -> LabelledImages:
    """The target images whose labels a trial may train on.

    Raises:
        ValueError: If the target has no labels, or fewer images than asked for.
    """
    assert config.fine_tuning is not None
    wanted = config.fine_tuning.images
    train = load_target_labels(config.task, data_root).get("train")
    if train is None:
        raise ValueError(
            f"fine_tuning needs labelled target images, but {config.task.target} has no labels in "
            "its training split; leave fine_tuning out"
        )
    if wanted > len(train):
        raise ValueError(
            f"fine_tuning.images must be at most the {len(train)} training images of "
            f"{config.task.target}, but got {wanted}"
        )
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "fine-tuning images"))
    return train.take(torch.randperm(len(train), generator=generator)[:wanted])


def fine_tune(
    network: MatchableNetwork,
    labelled: LabelledImages,
    config: TrialConfig,
    *,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """Train the adapted network on a few labelled target images, data-parallel.

    Moments stay as adaptation left them: too few images come to measure any.

    Args:
        network: Changed in place.
        labelled: What it is trained on: `few_labelled`.
        config: The trial, with `fine_tuning`.
        device: Where the network is.
        progress: Told at the end.

    Returns:
        ``loss/fine_tuning`` of the last step, on the first worker's share.

    Raises:
        DivergedError: If that loss is not finite.
    """
    settings = config.fine_tuning
    assert settings is not None
    seed = derive_seed(config.seed, "fine-tuning")
    train_mode(network, statistics=False, dropout=True)
    torch.manual_seed(derive_seed(seed, "noise", rank()))
    whole = config.augmentation.model_copy(update={"crop": None})
    supervised = Supervised(
        network,
        labelled.images,
        labelled.labels,
        Adam(network.parameters(), lr=settings.learning_rate),
        batch_size=settings.batch_size,
        augmentation=whole,
        steps=settings.steps,
        seed=seed,
        device=device,
    )
    loss = torch.zeros(())
    for step in range(settings.steps):
        loss = supervised.step(step)
    if not bool(sum_over_workers(loss).isfinite()):
        raise DivergedError(
            f"the loss of fine-tuning is not finite after {settings.steps} steps; lower "
            "fine_tuning.learning_rate"
        )
    progress("fine-tuning", settings.steps, settings.steps)
    return {"loss/fine_tuning": float(loss)}
