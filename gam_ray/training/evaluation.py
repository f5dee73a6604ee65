"""Predictions of a network on whole splits, their label-free scores, and their quality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gam_ray.adaptation import (
    Taps,
    evaluating,
    gather_rows,
    shard,
    sum_over_workers,
    world_size,
)
from gam_ray.adaptation.batch_norm import batch_norms
from gam_ray.config import derive_seed
from gam_ray.domains import VOID, LabelledImages
from gam_ray.networks import MatchableNetwork
from gam_ray.selection.evidence import MOST_ROWS, Evidence, MixedPairs, Predictions
from gam_ray.training.data import TaskData, to_float
from gam_ray.training.reports import DivergedError

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# Pixels of the images of one batch over all workers: 512 digits, or 9 frames of 240×176.
BATCH_PIXELS = 512 * 28 * 28
# This part of it on a CPU, where no result depends on it: what layers give out stays in its cache.
CPU_SHARE = 0.25
# Images of a batch are a multiple of this, so that 1, 2, 4 and 8 workers see the same batches:
# BatchNorm's statistics are taken batch by batch.
EVEN_SHARES = 8
# Whole frames that are mixed: each has a thousand pixels to score.
MIXED_FRAMES = 16
# Of the image that prevails in a mixture: so near one half that the decision is hard (MixVal's λ).
MIXED_SHARE = 0.55
# Pixels of a whole split that stand for it where every pixel is a prediction.
SAMPLED_PIXELS = 40_000
_SAMPLE_SEED = 2018


def float_batches(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """This worker's shares of uint8 `images` as float batches on `device`, in order.

    For passes in which every image is for itself. The batches over all workers are of nearly one
    size, and the same for 1, 2, 4 or 8 workers.
    """
    return _in_batches(images, device, _pixels(device))


def matching_batches(network: nn.Module, images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """`float_batches` for passes by which `network` is matched.

    BatchNorm's statistics are taken batch by batch: with it batches are the same on all devices.
    """
    return _in_batches(images, device, BATCH_PIXELS if batch_norms(network) else _pixels(device))


def _pixels(device: torch.device) -> int:
    return int(BATCH_PIXELS * CPU_SHARE) if device.type == "cpu" else BATCH_PIXELS


def _in_batches(images: Tensor, device: torch.device, pixels: int) -> Iterator[Tensor]:
    for part in torch.split(images, _batch_size(images, pixels)):
        yield to_float(shard(part), device)


def _batch_size(images: Tensor, pixels: int) -> int:
    """Images of each batch of at most so many pixels, so that all are of nearly one size."""
    height, width = images.shape[-2:]
    most = max(1, pixels // (height * width))
    even = math.ceil(len(images) / math.ceil(len(images) / most))
    # A multiple of the workers, so that their rows lie as `gather_rows` expects them.
    multiple = math.lcm(EVEN_SHARES, world_size())
    return math.ceil(even / multiple) * multiple


def _shares(images: Tensor, rows: Tensor, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's shares of images to predict and of what belongs to them, batch by batch.

    Predictions of an image are the same in whatever batch. Of a last batch a share may be empty.
    """
    size = _batch_size(images, _pixels(device))
    for part, own in zip(torch.split(images, size), torch.split(rows, size), strict=True):
        yield shard(part), shard(own)


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
        network: Its modes are restored.
        images: uint8 [N, C, H, W].
        device: Where the network is.
    """
    places = _sampled_places(images) if network.stride else torch.zeros(len(images), 0)
    rows = []
    tapped = {network.features: network.layers[network.features]}
    with evaluating(network), Taps(tapped) as taps:
        for part, sample in _shares(images, places, device):
            logits = network(to_float(part, device))
            features = taps.seen[network.features]
            if network.stride:
                here, size = sample.to(device), _size(images)
                logits = _pick(full_size(logits, size), here, size)
                rows.append((logits.softmax(-1), _pick(features, here, size)))
            else:
                rows.append((logits.softmax(-1), features.flatten(1)))
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
    with evaluating(network):
        if network.stride:
            return _segmentation_quality(network, labelled, classes)
        return {"": _accuracy(network, labelled)}


def _accuracy(network: MatchableNetwork, labelled: LabelledImages) -> float:
    device = next(network.parameters()).device
    hits = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in _shares(labelled.images, labelled.labels, device):
        logits = network(to_float(images, device))
        hits += (logits.argmax(1) == labels.to(device)).sum()
    return float(sum_over_workers(hits)) / len(labelled)


def _segmentation_quality(
    network: MatchableNetwork, labelled: LabelledImages, classes: tuple[str, ...]
) -> dict[str, float]:
    device = next(network.parameters()).device
    metrics = _segmentation_metrics(len(classes)).to(device)
    for images, labels in _shares(labelled.images, labelled.labels, device):
        if not len(images):
            continue
        logits = full_size(network(to_float(images, device)), _size(images))
        metrics.update(logits.argmax(1), labels.to(device).long())
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


def gather_evidence(
    network: MatchableNetwork, data: TaskData, device: torch.device, seed: int
) -> Evidence:
    """What scores look at, from the held-out splits; all workers call it and get the same.

    Args:
        network: The adapted network.
        data: Its task.
        device: Where the network is.
        seed: Of scores that draw.

    Raises:
        DivergedError: If predictions or features are not finite.
    """
    target = predictions(network, data.target_held_out.images, device)
    source = predictions(network, data.source_held_out.images, device)
    labels = data.source_held_out.labels.to(device).long()
    if network.stride:
        labels = _at_places(labels, _sampled_places(data.source_held_out.images).to(device))
        known = labels != VOID
        source, labels = source.take(known), labels[known]
    return Evidence(
        target=target,
        source=source,
        source_labels=labels,
        seed=derive_seed(seed, "scores"),
        mixed=_mixed_pairs(network, data.target_held_out.images, target.probabilities, device),
        classifier=classifier_weights(network),
    )


def source_iou(network: MatchableNetwork, data: TaskData) -> dict[str, float]:
    """``score/source_iou``: mean IoU on the source's held-out split; nothing for classifiers.

    All workers call it. Pixel by pixel, so that no sample of them hides a rare class.
    """
    if not network.stride:
        return {}
    return {"score/source_iou": quality(network, data.source_held_out, data.class_names)[""]}


def predictions(network: MatchableNetwork, images: Tensor, device: torch.device) -> Predictions:
    """What `predict` gives, checked; all workers call it and get the same.

    Raises:
        DivergedError: If predictions or features are not finite.
    """
    probabilities, features = predict(network, images, device)
    if not bool(probabilities.isfinite().all() and features.isfinite().all()):
        raise DivergedError(
            "the target network's predictions are not finite; lower the learning rates or "
            "adaptation.weight"
        )
    return Predictions(probabilities, features)


def labels_at_predictions(images: Tensor, labels: Tensor) -> Tensor:
    """The label of each row of `predict`, int64 [M]; for the oracle alone.

    Args:
        images: uint8 [N, C, H, W].
        labels: Of images [N], or of their pixels [N, H, W]; `VOID` is kept.
    """
    if labels.dim() == 1:
        return labels.long()
    return _at_places(labels.long(), _sampled_places(images))


def _at_places(labels: Tensor, places: Tensor) -> Tensor:
    """Labels [N, H, W] at places [N, P], as `predict` orders them: [N · P]."""
    return labels.flatten(1).gather(1, places).flatten()


def _mixed_pairs(
    network: MatchableNetwork, images: Tensor, probabilities: Tensor, device: torch.device
) -> MixedPairs:
    """Predictions on some images, on a partner of each, and on their mixture.

    Args:
        network: Of which.
        images: uint8 [N, C, H, W].
        probabilities: What `predict` gave for all of them.
        device: Where the network is.
    """
    most = MIXED_FRAMES if network.stride else MOST_ROWS
    generator = torch.Generator().manual_seed(_SAMPLE_SEED)
    chosen = torch.randperm(len(images), generator=generator)[:most]
    partners = chosen.roll(1)
    first, second = images[chosen], images[partners]
    mixed = first.float().mul(MIXED_SHARE).add(second, alpha=1 - MIXED_SHARE)
    mixture, _ = predict(network, mixed.round().to(torch.uint8), device)
    if network.stride:  # Of so few frames other pixels are sampled than of all.
        image, partner = (predict(network, part, device)[0] for part in (first, second))
    else:
        image, partner = (probabilities[rows.to(device)] for rows in (chosen, partners))
    return MixedPairs(image, partner, mixture)


def classifier_weights(network: MatchableNetwork) -> Tensor | None:
    """The weights [C, D] of the last layer, if it takes the features and is linear in them."""
    *_, (before, _), (_, last) = network.layers.items()
    weights = getattr(last, "weight", None)
    if before != network.features or not isinstance(last, nn.Linear | nn.Conv2d):
        return None
    assert isinstance(weights, Tensor)
    return weights.detach().flatten(1) if weights[0, 0].numel() == 1 else None
