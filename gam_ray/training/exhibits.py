"""What a trial leaves for people to look at: distances of activations, and masks of a few images.

Made from the trial's kept network when it has ended, by the first worker alone. Nothing chooses by
it, no label is looked at, and a failure is logged and ends no trial.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gam_ray.adaptation import Taps, evaluating, rank
from gam_ray.adaptation.batch_norm import channels_last
from gam_ray.adaptation.moments import Moments
from gam_ray.networks import MatchableNetwork
from gam_ray.training.adapting import Run
from gam_ray.training.data import to_float
from gam_ray.training.evaluation import full_size

logger = logging.getLogger(__name__)

# Pixels of the held-out images whose moments are taken: 512 digits, or 9 frames of 240×176.
MEASURED_PIXELS = 512 * 28 * 28
# Of one pass: a lane's memory holds all layers of so much at once.
BATCH_PIXELS = 128 * 28 * 28
# Images of a segmentation that are shown, the same in all trials, so that these can be compared.
FRAMES = 6


@dataclass(frozen=True)
class Exhibits:
    """What a trial has left.

    Attributes:
        layers: Names of the network's layers.
        before: [L], how far apart their activations are where the source network sees both
            domains; see `moment_distance`.
        after: [L], the same where the adapted network sees the target.
        frames: int64 [F], rows of the held-out target; none for classification.
        masks: uint8 [F, H, W], the class that is predicted for each pixel.
        confidence: uint8 [F, H, W], its probability times 255.
    """

    layers: tuple[str, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    frames: NDArray[np.int64]
    masks: NDArray[np.uint8]
    confidence: NDArray[np.uint8]

    @classmethod
    def read(cls, file: Path) -> Exhibits | None:
        """What `leave_exhibits` wrote; None if it is not there.

        Raises:
            ValueError: If the file is damaged.
            OSError: If it cannot be read.
        """
        if not file.exists():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names = tuple(str(name) for name in arrays["layers"])
                rest = ("before", "after", "frames", "masks", "confidence")
                return cls(names, *(arrays[name] for name in rest))
        except (KeyError, EOFError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete it") from error


def leave_exhibits(network: MatchableNetwork, run: Run) -> None:
    """Write a trial's exhibits into its folder, in one go.

    All workers may call it; the first one works, and no other is waited for.

    Args:
        network: The one that the trial ends with.
        run: The trial.
    """
    if rank() != 0:
        return
    try:
        _write(run.place.exhibits, _exhibits(network, run))
    except Exception:
        logger.exception("the trial in %s leaves nothing to look at", run.place.folder)


def moment_distance(source: Moments, target: Moments) -> float:
    """How far a layer's channels are from the source's, in units of the source's deviation.

    The 2-Wasserstein distance of two Gaussians with independent channels (Dowson and Landau,
    1982), by the root of the source's summed variance: √(Σ (Δμ² + Δσ²) / Σ σ²). 0 is the same; 1
    means that the domains are as far apart as the source's activations lie around their mean.
    Summed before they are divided, so that channels that hardly vary do not decide.
    """
    apart = (source.mean - target.mean).square() + (source.std - target.std).square()
    scale = source.std.square().sum().clamp(min=torch.finfo(source.std.dtype).tiny)
    return float((apart.sum() / scale).sqrt())


def _exhibits(network: MatchableNetwork, run: Run) -> Exhibits:
    place, images = run.place, run.data.target_held_out.images
    reference = run.once(_reference)
    now = _moments(network, images, place.device)
    names = tuple(name for name in network.layers if name in reference)
    frames = _frames(len(images)) if network.stride else torch.zeros(0, dtype=torch.int64)
    masks, confidence = _masks(network, images[frames], place.device)
    return Exhibits(
        layers=names,
        before=np.array([reference[name][1] for name in names]),
        after=np.array([moment_distance(reference[name][0], now[name]) for name in names]),
        frames=frames.numpy(),
        masks=masks,
        confidence=confidence,
    )


def _reference(run: Run) -> dict[str, tuple[Moments, float]]:
    """Layer → the source's moments and the distance before; the same for all trials of a study."""
    device = run.place.device
    source = _moments(run.source, run.data.source_held_out.images, device)
    before = _moments(run.source, run.data.target_held_out.images, device)
    return {name: (source[name], moment_distance(source[name], before[name])) for name in source}


@torch.inference_mode()
def _moments(network: MatchableNetwork, images: Tensor, device: torch.device) -> dict[str, Moments]:
    """Moments of all layers, as layers that follow see them, over the first of the images."""
    height, width = images.shape[-2:]
    most, batch = (max(1, pixels // (height * width)) for pixels in (MEASURED_PIXELS, BATCH_PIXELS))
    sums: dict[str, Tensor] = {}
    with evaluating(network), Taps(network.layers) as taps:
        for part in torch.split(images[:most], batch):
            for name, activation in taps.run(network, to_float(part, device)).items():
                sums[name] = sums.get(name, 0) + _sums(activation)
    return {name: _from_sums(*found) for name, found in sums.items()}


def _sums(activation: Tensor) -> Tensor:
    """[3, K] float64: count, sum and sum of squares of each channel."""
    values = channels_last(activation)
    variance, mean = torch.var_mean(values, dim=0, correction=0)
    variance, mean = variance.double(), mean.double()
    count = len(values)
    return torch.stack([torch.full_like(mean, count), count * mean, count * (variance + mean**2)])


def _from_sums(count: Tensor, first: Tensor, second: Tensor) -> Moments:
    mean = first / count
    return Moments(mean, (second / count - mean**2).clamp(min=0).sqrt())


def _frames(count: int) -> Tensor:
    """Indices of images, evenly over all of them."""
    return torch.linspace(0, count - 1, min(FRAMES, count)).round().long()


@torch.inference_mode()
def _masks(
    network: MatchableNetwork, images: Tensor, device: torch.device
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predicted class and its probability times 255, [F, H, W] each; one image at a time."""
    size = (images.shape[-2], images.shape[-1])
    found = torch.zeros(2, len(images), *size, dtype=torch.uint8)
    with evaluating(network):
        for row, image in enumerate(torch.split(images, 1) if len(images) else ()):
            logits = full_size(network(to_float(image, device)), size)
            confidence, classes = logits.softmax(1).max(1)
            found[0, row] = classes[0].cpu()
            found[1, row] = confidence[0].mul(255).round().cpu()
    return found[0].numpy(), found[1].numpy()


def _write(file: Path, exhibits: Exhibits) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        np.savez_compressed(stream, **{**vars(exhibits), "layers": np.array(exhibits.layers)})
    draft.replace(file)
