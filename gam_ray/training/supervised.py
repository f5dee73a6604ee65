"""Supervised steps: of the source network, and of fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from gam_ray.adaptation import shard, sum_over_workers, world_size
from gam_ray.config import derive_seed
from gam_ray.domains import VOID, LabelledImages
from gam_ray.training.augmentation import Augmentation
from gam_ray.training.data import IndexStream, to_float
from gam_ray.training.evaluation import full_size

# A label that no image has: 255 is void in maps, and a class like any other elsewhere.
_NOTHING = -1


class Supervised:
    """Cross-entropy on labelled images, data-parallel; N workers do what one does.

    Args:
        network: Trained in place; its mode is the caller's.
        labelled: Images and labels, or label maps.
        batch_size: Images a step, over all workers.
        seed: Of the batches.
        device: Where the network is.
    """

    def __init__(
        self,
        network: nn.Module,
        labelled: LabelledImages,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._labelled = labelled
        self._device = device
        self._stream = IndexStream(len(labelled), batch_size, derive_seed(seed, "batches"))
        self._model = network
        if world_size() > 1:
            self._model = DistributedDataParallel(network, broadcast_buffers=False)

    def step(
        self, index: int, optimizer: torch.optim.Optimizer, augmentation: Augmentation
    ) -> Tensor:
        """Step 0, 1, …; this worker's share of the loss, detached, finite if all is well."""
        indices = shard(self._stream.batch(index))
        images, labels = augmentation.pairs(
            self._labelled.images[indices], self._labelled.labels[indices], step=index
        )
        loss = mean_cross_entropy(
            self._model(to_float(images, self._device)), labels.to(self._device).long()
        )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy whose average over workers is the mean over all their labels.

    Args:
        logits: [N, C], or [N, C, h, w], which are interpolated to the labels' size.
        labels: int64 [N], or [N, H, W] with void pixels, which do not count.
    """
    ignored = _NOTHING
    if labels.dim() == 3:
        logits = full_size(logits, (labels.shape[-2], labels.shape[-1]))
        ignored = VOID
    count = sum_over_workers((labels != ignored).sum())
    total = cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return total * world_size() / count.clamp(min=1)
