"""The images of a task, and the order in which a trial draws them."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gam_ray.config import TaskConfig, derive_seed
from gam_ray.domains import (
    Domain,
    LabelledImages,
    LabelsMissingError,
    Split,
    UnlabelledImages,
    load_pair,
)


@dataclass(frozen=True)
class TaskData:
    """What a trial may see: labelled source images, and target images without labels."""

    source_train: LabelledImages
    source_held_out: LabelledImages
    target_train: UnlabelledImages
    target_held_out: UnlabelledImages
    class_names: tuple[str, ...]

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return int(self.source_train.images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        height, width = self.source_train.images.shape[-2:]
        return height, width

    def fingerprints(self) -> dict[str, str]:
        """Of each part, how many images it has and the SHA-256 of its bytes, cut to 16 digits.

        The same for the same images, wherever they lie; of a source with its labels.
        """
        parts: dict[str, LabelledImages | UnlabelledImages] = {
            "source train": self.source_train,
            "source held_out": self.source_held_out,
            "target train": self.target_train,
            "target held_out": self.target_held_out,
        }
        return {
            name: f"{len(part)} images, sha256 {part.fingerprint()[:16]}"
            for name, part in parts.items()
        }


@lru_cache(maxsize=2)
def load_task(task: TaskConfig, data_root: Path | None) -> TaskData:
    """The images of a task; kept in memory for the next trial of the same task.

    Raises:
        ValueError: If a domain is unknown, or the two do not go together.
        DataMissingError: If files are not there and cannot be downloaded.
    """
    source, target = task_domains(task, data_root)
    return TaskData(
        source_train=source.labelled("train"),
        source_held_out=source.labelled("held_out"),
        target_train=target.unlabelled("train"),
        target_held_out=target.unlabelled("held_out"),
        class_names=source.class_names,
    )


@lru_cache(maxsize=2)
def load_target_labels(task: TaskConfig, data_root: Path | None) -> dict[Split, LabelledImages]:
    """The target's train and test splits, those of them that have labels.

    For the oracle, and for fine-tuning where a trial asks for it; for nothing that chooses.
    """
    _, target = task_domains(task, data_root)
    found: dict[Split, LabelledImages] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        with suppress(LabelsMissingError):
            found[split] = target.labelled(split)
    return found


def load_held_out_target(
    task: TaskConfig, data_root: Path | None
) -> tuple[UnlabelledImages, tuple[str, ...]]:
    """The images that trials predict, and the classes' names; without the rest of a task.

    Raises:
        ValueError: If a domain is unknown, or the two do not go together.
        DataMissingError: If files are not there and cannot be downloaded.
    """
    source, target = task_domains(task, data_root)
    return target.unlabelled("held_out"), source.class_names


def load_held_out_labels(task: TaskConfig, data_root: Path | None) -> Tensor | None:
    """The labels of `load_held_out_target`'s images, or None; for the oracle alone."""
    _, target = task_domains(task, data_root)
    with suppress(LabelsMissingError):
        return target.labelled("held_out").labels
    return None


@lru_cache(maxsize=2)
def task_domains(task: TaskConfig, data_root: Path | None) -> tuple[Domain, Domain]:
    """The source and the target of a task, before any image is read; see `load_pair`."""
    return load_pair(
        task.source, task.target, data_root=data_root, size=task.size, classes=task.classes
    )


def to_float(images: Tensor, device: torch.device | None = None) -> Tensor:
    """uint8 images in 0-255 as float32 in [0, 1], on `device`, channels last in memory.

    With weights laid out alike, convolutions and pooling take half the time on CPUs.
    """
    on_device = images.to(device)
    return on_device.to(torch.float32, memory_format=torch.channels_last).div_(255)


# Of a GPU's free memory, what one set of images may take to lie there whole.
RESIDENT_SHARE = 0.25
# Set of images → where it lies on which device. A set that nobody has any more is forgotten.
_residents: MutableMapping[Tensor, dict[torch.device, Tensor]] = WeakTensorKeyDictionary()


def resident(images: Tensor, device: torch.device) -> Tensor | None:
    """All images on a GPU, once for all trials of this process; None on a CPU or if they are many.

    Args:
        images: uint8 [N, C, H, W] on the CPU, which nobody changes.
        device: Where they are wanted.
    """
    if device.type != "cuda":
        return None
    found = _residents.setdefault(images, {})
    if device not in found:
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes > RESIDENT_SHARE * free:
            return None
        found[device] = images.to(device)
    return found[device]


class IndexStream:
    """Endless shuffled passes over `count` items, in batches, addressable by step.

    Every pass is a permutation seeded by (seed, pass), so that a resumed trial draws what the
    uninterrupted one would have. A batch may run over the end of a pass.

    Args:
        count: Number of items, at least 1.
        batch_size: Items a step.
        seed: Of all passes.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._batch_size = batch_size
        self._seed = seed
        self._passes: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Indices [batch_size] of step 0, 1, …."""
        position = step * self._batch_size
        end = position + self._batch_size
        parts = []
        while position < end:
            number, offset = divmod(position, self._count)
            part = self._pass(number)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts)

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "pass", number))
            newest = torch.randperm(self._count, generator=generator)
            self._passes = {k: v for k, v in self._passes.items() if k == number - 1}
            self._passes[number] = newest
        return self._passes[number]
