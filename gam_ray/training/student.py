"""The consensus student: one network trained on what a crowd of adapted ones says of the target.

No label is looked at. A study's best networks err in different places, and their mean softmax is
right more often than each; a network that learns it from many target images, seen a little
displaced, carries the crowd's knowledge in one (distillation of an ensemble: Hinton, Vinyals and
Dean, "Distilling the knowledge in a neural network", 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gam_ray.adaptation import Adam, gather_rows, rank, sum_over_workers, train_mode
from gam_ray.config import StudentConfig, derive_seed
from gam_ray.networks import MatchableNetwork
from gam_ray.training.evaluation import float_batches, full_size
from gam_ray.training.reports import DivergedError, Progress
from gam_ray.training.supervised import Supervised

PROGRESS_EVERY = 50


@torch.no_grad()
def consensus_labels(
    teachers: Sequence[MatchableNetwork], images: Tensor, device: torch.device
) -> Tensor:
    """What the teachers say of images together; all workers call it and get the same.

    Args:
        teachers: Networks of one task, in evaluation mode.
        images: uint8 [N, C, H, W].
        device: Where the teachers are.

    Returns:
        Their mean softmax [N, K]; of segmentation networks the class of its largest entry at
        every pixel, uint8 [N, H, W]. On the CPU.
    """
    rows = []
    for batch in float_batches(images, device):
        mean = torch.stack([_softmax(teacher, batch) for teacher in teachers]).mean(0)
        rows.append(mean.argmax(1).to(torch.uint8) if mean.dim() == 4 else mean)
    return gather_rows(torch.cat(rows), len(images)).cpu()


def _softmax(network: MatchableNetwork, images: Tensor) -> Tensor:
    """[N, K], or of a segmentation network [N, K, H, W], of the images' own size."""
    logits = network(images)
    if network.stride:
        logits = full_size(logits, (images.shape[-2], images.shape[-1]))
    softmax: Tensor = logits.softmax(1)
    return softmax


def train_student(
    student: MatchableNetwork,
    images: Tensor,
    labels: Tensor,
    settings: StudentConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> dict[str, float]:
    """Train the student on the consensus, data-parallel. Its moments stay as they are.

    Args:
        student: Changed in place.
        images: Target images, uint8 [N, C, H, W].
        labels: What `consensus_labels` says of them.
        settings: How long and how fast.
        batch_size: Images a step, over all workers.
        seed: Of batches and displacements.
        device: Where the student is.
        progress: Told now and then.

    Returns:
        ``loss/student`` of the last step, on the first worker's share.

    Raises:
        DivergedError: If that loss is not finite.
    """
    train_mode(student, statistics=False, dropout=True)
    torch.manual_seed(derive_seed(seed, "noise", rank()))
    supervised = Supervised(
        student,
        images,
        labels,
        Adam(student.parameters(), lr=settings.learning_rate),
        batch_size=batch_size,
        augmentation=settings.augmentation,
        steps=settings.steps,
        seed=seed,
        device=device,
    )
    loss = torch.zeros(())
    for step in range(settings.steps):
        loss = supervised.step(step)
        if (step + 1) % PROGRESS_EVERY == 0:
            progress("student", step + 1, settings.steps)
    if not bool(sum_over_workers(loss).isfinite()):
        raise DivergedError(
            f"the student's loss is not finite after {settings.steps} steps; lower "
            "student.learning_rate"
        )
    return {"loss/student": float(loss)}
