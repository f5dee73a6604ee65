"""Supervised steps: of the source network, of fine-tuning, and of a student."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from gam_ray.adaptation import sum_over_workers, world_size
from gam_ray.config import AugmentationConfig, derive_seed
from gam_ray.domains import VOID
from gam_ray.training.batches import Batches
from gam_ray.training.captured import CapturedSteps
from gam_ray.training.evaluation import full_size

# A label that no image has: 255 is void in maps, and a class like any other elsewhere.
_NOTHING = -1


class Supervised:
    """Cross-entropy on labelled images, data-parallel; N workers do what one does.

    Args:
        network: Trained in place; its mode is the caller's, the same at every step.
        images: uint8 [N, C, H, W].
        labels: Classes [N], label maps [N, H, W], or distributions over classes [N, K], float.
        optimizer: Of the network's parameters.
        batch_size: Images a step, over all workers.
        augmentation: Of the images.
        steps: How many steps there will be.
        seed: Of the batches, and of how they are changed.
        device: Where the network is.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        augmentation: AugmentationConfig,
        steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._optimizer = optimizer
        self._batches = Batches(
            images,
            labels,
            augmentation,
            batch_size=batch_size,
            order_seed=derive_seed(seed, "batches"),
            seed=seed,
            device=device,
        )
        self._model = network
        if world_size() > 1:
            self._model = DistributedDataParallel(network, broadcast_buffers=False)
        self._loss = torch.zeros((), device=device)
        self._take = CapturedSteps(self._step, self._batches.inputs, steps=steps, device=device)

    def step(self, index: int) -> Tensor:
        """Step 0, 1, …; this worker's share of the loss until the next step, detached."""
        self._take(index)
        return self._loss

    def _step(self, *inputs: Tensor) -> None:
        images, labels = self._batches.take(*inputs)
        assert labels is not None
        loss = mean_cross_entropy(self._model(images), labels)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._loss.copy_(loss.detach())


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy whose average over workers is the mean over all their labels.

    Args:
        logits: [N, C], or [N, C, h, w], which are interpolated to the labels' size.
        labels: Classes [N], maps [N, H, W] with void pixels, which do not count, or
            distributions [N, C], float.
    """
    if labels.is_floating_point():
        count = sum_over_workers(torch.full((), len(labels), device=labels.device))
        return cross_entropy(logits, labels, reduction="sum") * world_size() / count
    ignored = _NOTHING
    if labels.dim() == 3:
        logits = full_size(logits, (labels.shape[-2], labels.shape[-1]))
        ignored = VOID
    count = sum_over_workers((labels != ignored).sum())
    total = cross_entropy(logits, labels.long(), ignore_index=ignored, reduction="sum")
    return total * world_size() / count.clamp(min=1)
