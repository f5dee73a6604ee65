"""Which images each step takes, and how they come to the device."""

from __future__ import annotations

import torch
from torch import Tensor

from gam_ray.adaptation import shard
from gam_ray.config import AugmentationConfig
from gam_ray.training.augmentation import Augmentation
from gam_ray.training.batch_augmentation import BatchAugmentation
from gam_ray.training.captured import Inputs
from gam_ray.training.data import IndexStream, resident, to_float


class Batches:
    """This worker's share of the images of each step, with their labels if they have some.

    What a step needs is made in two parts: `inputs` on the CPU, for any step at any time, and
    `take` of these on the device, where it may be a part of a captured step. A GPU that has all
    images is sent indices, and changes images itself; else images are sent, and on a CPU changed
    one by one.

    Args:
        images: uint8 [N, C, H, W], which nobody changes.
        labels: Classes [N], maps [N, H, W] or distributions [N, K]; None for none.
        augmentation: What is done to them.
        batch_size: Images a step, over all workers.
        order_seed: Of which images come when.
        seed: Of how they are changed.
        device: Where they are wanted.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        augmentation: AugmentationConfig,
        *,
        batch_size: int,
        order_seed: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._device = device
        self._order = IndexStream(len(images), batch_size, order_seed)
        self._parts = (images,) if labels is None else (images, labels)
        there = [resident(part, device) for part in self._parts]
        self._resident = [part for part in there if part is not None]
        self._is_resident = len(self._resident) == len(self._parts)
        self._one_by_one: Augmentation | None = None
        self._at_once: BatchAugmentation | None = None
        if augmentation != AugmentationConfig():
            if device.type == "cpu":
                self._one_by_one = Augmentation(augmentation, seed)
            else:
                self._at_once = BatchAugmentation(augmentation, seed, batch_size)

    @property
    def inputs_a_step(self) -> int:
        """How many tensors `inputs` gives."""
        sent = 0 if self._is_resident else len(self._parts)
        return 1 + sent + (self._at_once is not None)

    def inputs(self, step: int) -> Inputs:
        """What step 0, 1, … takes, on the CPU; the indices [n] of its images come first."""
        indices = shard(self._order.batch(step))
        found = [indices]
        if not self._is_resident:
            found += self._rows(indices, step)
        if self._at_once is not None:
            found.append(self._at_once.draw(step))
        return tuple(found)

    def _rows(self, indices: Tensor, step: int) -> list[Tensor]:
        rows = [part[indices] for part in self._parts]
        if self._one_by_one is None:
            return rows
        if len(rows) == 1:
            return [self._one_by_one.images(rows[0], step=step)]
        return list(self._one_by_one.pairs(rows[0], rows[1], step=step))

    def take(self, indices: Tensor, *others: Tensor) -> tuple[Tensor, Tensor | None]:
        """Float images [n, C, H, W] and labels of what `inputs` gave, once it is on the device."""
        if self._is_resident:
            rows = [part[indices] for part in self._resident]
        else:
            rows = list(others[: len(self._parts)])
        images = to_float(rows[0], self._device)
        labels = rows[1] if len(rows) > 1 else None
        if self._at_once is not None:
            drawn = others[-1]
            images = self._at_once.images(images, drawn)
            images = images.contiguous(memory_format=torch.channels_last)
            if labels is not None and labels.dim() == 3:
                labels = self._at_once.labels(labels, drawn)
        return images, labels
