"""Predictions of a network on whole splits, and the label-free scores of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gam_ray.adaptation import Taps, gather_rows, shard
from gam_ray.config import derive_seed
from gam_ray.networks import MatchableNetwork
from gam_ray.selection.scores import class_ami, information_maximisation
from gam_ray.training.data import TaskData, to_float
from gam_ray.training.reports import DivergedError

BATCH = 512
# Clustering thousands of points would take longer than predicting them; the first of a split
# that was drawn at random are a random sample.
CLUSTERED = 1000


def float_batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """This worker's share of uint8 `images` as float batches on `device`, in order."""
    for part in torch.split(shard(images), BATCH):
        yield to_float(part, device)


@torch.inference_mode()
def predict(
    network: MatchableNetwork, images: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Softmax [N, C] and features [N, D] of all `images`, in evaluation mode.

    Every worker predicts its share; all workers get everything, the same as one worker would.

    Args:
        network: Its training mode is restored.
        images: uint8 [N, C, H, W].
        device: Where the network is.
    """
    was_training = network.training
    network.eval()
    probabilities, features = [], []
    with Taps({network.features: network.layers[network.features]}) as taps:
        for batch in float_batches(images, device):
            probabilities.append(network(batch).softmax(1))
            features.append(taps.seen[network.features].flatten(1))
    network.train(was_training)
    count = len(images)
    return gather_rows(torch.cat(probabilities), count), gather_rows(torch.cat(features), count)


def accuracy(network: MatchableNetwork, images: Tensor, labels: Tensor) -> float:
    """Share in [0, 1] of `images` whose predicted class is their label."""
    device = next(network.parameters()).device
    probabilities, _ = predict(network, images, device)
    return float((probabilities.argmax(1).cpu() == labels).double().mean())


def label_free_scores(
    network: MatchableNetwork, data: TaskData, device: torch.device, seed: int
) -> tuple[dict[str, float], Tensor]:
    """Scores on the held-out splits, and the target predictions they come from.

    Args:
        network: The adapted network.
        data: Its task.
        device: Where the network is.
        seed: Of scores that draw.

    Returns:
        ``score/…`` → value, and the softmax [N, C] on the target's held-out split.

    Raises:
        DivergedError: If predictions or features are not finite.
    """
    probabilities, features = predict(network, data.target_held_out.images, device)
    if not bool(probabilities.isfinite().all() and features.isfinite().all()):
        raise DivergedError(
            "the target network's predictions are not finite; lower the learning rates or "
            "adaptation.weight"
        )
    held_out = data.source_held_out
    scores = {
        "score/source_accuracy": accuracy(network, held_out.images, held_out.labels),
        "score/information_maximisation": information_maximisation(probabilities),
        "score/class_ami": class_ami(
            probabilities[:CLUSTERED], features[:CLUSTERED], seed=derive_seed(seed, "class_ami")
        ),
    }
    return scores, probabilities
