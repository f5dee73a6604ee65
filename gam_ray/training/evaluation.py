"""Predictions of a network on whole splits, their label-free scores, and their quality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gam_ray.adaptation import Taps, gather_rows, shard, world_size
from gam_ray.config import derive_seed
from gam_ray.domains import VOID, LabelledImages
from gam_ray.networks import MatchableNetwork
from gam_ray.selection.scores import class_ami, information_maximisation
from gam_ray.training.data import TaskData, to_float
from gam_ray.training.reports import DivergedError

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# Pixels of the images of one batch over all workers: 512 digits, or 9 frames of 240×176.
BATCH_PIXELS = 512 * 28 * 28
# Images of a batch are a multiple of this, so that 1, 2, 4 and 8 workers see the same batches:
# BatchNorm's statistics are taken batch by batch.
EVEN_SHARES = 8
# Clustering thousands of points would take longer than predicting them.
CLUSTERED = 1000
# Pixels of a whole split that stand for it where every pixel is a prediction.
SAMPLED_PIXELS = 40_000
_SAMPLE_SEED = 2018


def float_batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """This worker's shares of uint8 `images` as float batches on `device`, in order.

    The batches over all workers are of nearly one size, and the same for 1, 2, 4 or 8 workers.
    """
    for part in _batches(images):
        yield to_float(shard(part), device)


def _batches(images: Tensor, rows: Tensor | None = None) -> tuple[Tensor, ...]:
    """`images` in batches; or what belongs to them row by row, in the same batches."""
    height, width = images.shape[-2:]
    most = max(1, BATCH_PIXELS // (height * width))
    even = math.ceil(len(images) / math.ceil(len(images) / most))
    # A multiple of the workers, so that their rows lie as `gather_rows` expects them.
    multiple = math.lcm(EVEN_SHARES, world_size())
    return torch.split(images if rows is None else rows, math.ceil(even / multiple) * multiple)


@torch.inference_mode()
def predict(
    network: MatchableNetwork, images: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Softmax [M, C] and features [M, D] of `images`, in evaluation mode.

    A classifier predicts every image once: M = N. Of a segmentation network's predictions a
    fixed random sample is taken, as many pixels of each image, about `SAMPLED_PIXELS` in all;
    their features are those of the nearest place of the feature map.

    Every worker predicts its share; all workers get everything, the same as one worker would.

    Args:
        network: Its training mode is restored.
        images: uint8 [N, C, H, W].
        device: Where the network is.
    """
    was_training = network.training
    network.eval()
    places = _sampled_places(images) if network.stride else torch.zeros(len(images), 0)
    rows = []
    with Taps({network.features: network.layers[network.features]}) as taps:
        for part, sample in zip(_batches(images), _batches(images, places), strict=True):
            logits = network(to_float(shard(part), device))
            features = taps.seen[network.features]
            if network.stride:
                here, size = shard(sample).to(device), _size(images)
                logits = _pick(full_size(logits, size), here, size)
                rows.append((logits.softmax(-1), _pick(features, here, size)))
            else:
                rows.append((logits.softmax(-1), features.flatten(1)))
    network.train(was_training)
    count = len(images)
    probabilities, features = (
        gather_rows(torch.cat(own), count) for own in zip(*rows, strict=True)
    )
    if network.stride:
        return probabilities.flatten(0, 1), features.flatten(0, 1)
    return probabilities, features


def full_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [N, C, h, w] interpolated to `size`, the images' (H, W)."""
    if logits.shape[-2:] == size:
        return logits
    return interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _sampled_places(images: Tensor) -> Tensor:
    """Indices [N, P] into the H·W pixels of each image, the same at every call."""
    height, width = _size(images)
    each = min(height * width, math.ceil(SAMPLED_PIXELS / len(images)))
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    return torch.randint(height * width, (len(images), each), generator=generator)


def _pick(maps: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """The channels [N, P, K] of `maps` [N, K, h, w] at `places` [N, P] of images of `size`."""
    height, width = maps.shape[-2:]
    row, column = places // size[1], places % size[1]
    index = (row * height // size[0]) * width + column * width // size[1]
    picked = maps.flatten(2).gather(2, index.unsqueeze(1).expand(-1, maps.shape[1], -1))
    return picked.transpose(1, 2)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


@torch.inference_mode()
def quality(
    network: MatchableNetwork, labelled: LabelledImages, classes: tuple[str, ...]
) -> dict[str, float]:
    """How right the network is, as fractions by name.

    Returns:
        ``""`` → the field's main figure: accuracy, or mean IoU for segmentation, which also
        has ``global_accuracy``, ``class_accuracy`` and, for each class that occurs in labels or
        predictions, ``iou/CLASS``. Void pixels do not count.
    """
    device = next(network.parameters()).device
    if not network.stride:
        probabilities, _ = predict(network, labelled.images, device)
        return {"": float((probabilities.argmax(1).cpu() == labelled.labels).double().mean())}
    metrics = _segmentation_metrics(len(classes)).to(device)
    was_training = network.training
    network.eval()
    for images, labels in zip(
        _batches(labelled.images), _batches(labelled.images, labelled.labels), strict=True
    ):
        share = shard(images)
        if not len(share):  # of a last batch with fewer images than workers
            continue
        logits = full_size(network(to_float(share, device)), _size(images))
        metrics.update(logits.argmax(1), shard(labels).to(device).long())
    network.train(was_training)
    return _figures(metrics, classes)


def _segmentation_metrics(classes: int) -> MetricCollection:
    # Imported here: it takes seconds, and classifiers have no use for it.
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassJaccardIndex,
    )

    return MetricCollection(
        {
            "global_accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=VOID),
            "recall": MulticlassAccuracy(classes, average="none", ignore_index=VOID),
            "iou": MulticlassJaccardIndex(classes, average="none", ignore_index=VOID),
            "confusion": MulticlassConfusionMatrix(classes, ignore_index=VOID),
        }
    )


def _figures(metrics: MetricCollection, classes: tuple[str, ...]) -> dict[str, float]:
    """Figures over the classes that occur; torchmetrics sums the counts of all workers."""
    found = metrics.compute()
    labelled = found["confusion"].sum(1) > 0
    seen = labelled | (found["confusion"].sum(0) > 0)
    return {
        "": float(found["iou"][seen].mean()),
        "global_accuracy": float(found["global_accuracy"]),
        "class_accuracy": float(found["recall"][labelled].mean()),
        **{
            f"iou/{name}": float(value)
            for name, value, is_seen in zip(classes, found["iou"], seen, strict=True)
            if is_seen
        },
    }


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
        ``score/…`` → value, and the softmax [M, C] on the target's held-out split, as `predict`
        gives it.

    Raises:
        DivergedError: If predictions or features are not finite.
    """
    probabilities, features = predict(network, data.target_held_out.images, device)
    if not bool(probabilities.isfinite().all() and features.isfinite().all()):
        raise DivergedError(
            "the target network's predictions are not finite; lower the learning rates or "
            "adaptation.weight"
        )
    some = torch.linspace(0, len(features) - 1, min(CLUSTERED, len(features))).long()
    source = quality(network, data.source_held_out, data.class_names)
    scores = {
        "score/source_accuracy": source.get("global_accuracy", source[""]),
        "score/information_maximisation": information_maximisation(probabilities),
        "score/class_ami": class_ami(
            probabilities[some], features[some], seed=derive_seed(seed, "class_ami")
        ),
    }
    if network.stride:
        scores["score/source_iou"] = source[""]
    return scores, probabilities
