"""What may be known of one model without target labels: the evidence that scores weigh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gam_ray.selection.estimates import cluster, effective_rank, importance_weights

MOST_ROWS = 1000
"""Rows that scores look at whose cost grows faster than the number of rows, or by iterations."""


@dataclass(frozen=True)
class Predictions:
    """What a model says of images, or of pixels.

    Attributes:
        probabilities: [N, C], rows on the simplex, N ≥ 1.
        features: [N, D], finite, of the same images or pixels; None where no score needs them.

    Raises:
        ValueError: If a row is no distribution, shapes disagree, or a feature is not finite.
    """

    probabilities: Tensor
    features: Tensor | None = None

    def __post_init__(self) -> None:
        check_probabilities(self.probabilities)
        if self.features is not None:
            _check_features(self.features, len(self.probabilities))

    def __len__(self) -> int:
        return len(self.probabilities)

    @cached_property
    def classes(self) -> Tensor:
        """The predicted class [N] of each row."""
        return self.probabilities.argmax(1)

    @cached_property
    def feature_rank(self) -> float:
        """`effective_rank` of the features of `some` rows."""
        return effective_rank(features_of(self.some()))

    def take(self, rows: Tensor) -> Predictions:
        """Those rows, given by indices or by a mask [N]."""
        features = None if self.features is None else self.features[rows]
        return Predictions(self.probabilities[rows], features)

    def some(self, most: int = MOST_ROWS) -> Predictions:
        """At most so many rows, evenly spaced."""
        return self if len(self) <= most else self.take(_spread(len(self), most))


@dataclass(frozen=True)
class MixedPairs:
    """Predictions on target images, on partners, and on λ·image + (1 − λ)·partner, λ > ½.

    Attributes:
        image: [M, C] probabilities of the image that prevails in the mixture.
        partner: [M, C] of the other.
        mixture: [M, C] of the mixed image.
    """

    image: Tensor
    partner: Tensor
    mixture: Tensor

    def __post_init__(self) -> None:
        for probabilities in (self.image, self.partner, self.mixture):
            check_probabilities(probabilities)


@dataclass(frozen=True)
class Evidence:
    """Of one model, on images that nothing was trained on.

    Attributes:
        target: On the target's held-out split.
        source: On the source's held-out split.
        source_labels: int64 [M], the classes of `source`'s rows, all known.
        seed: Of scores that draw.
        mixed: On mixtures of held-out target images; None where nobody mixed any.
        classifier: [C, D], the weights of the last layer, where it is linear in the features.
    """

    target: Predictions
    source: Predictions
    source_labels: Tensor
    seed: int
    mixed: MixedPairs | None = None
    classifier: Tensor | None = None

    def __post_init__(self) -> None:
        if self.source_labels.shape != (len(self.source),):
            raise ValueError(
                f"source_labels must be [{len(self.source)}], one a source prediction, but got "
                f"{tuple(self.source_labels.shape)}"
            )

    @cached_property
    def few(self) -> Predictions:
        """At most `MOST_ROWS` of the target's predictions."""
        return self.target.some()

    @cached_property
    def clusters(self) -> NDArray[np.int64] | None:
        """The k-means cluster of each of the `few`, one cluster a class.

        None where there are fewer rows than classes, or where one class is predicted everywhere:
        of one class and one cluster, any agreement would be perfect.
        """
        few = self.few
        count, classes = few.probabilities.shape
        if count < classes or bool((few.classes == few.classes[0]).all()):
            return None
        return cluster(features_of(few), classes, seed=self.seed)

    @cached_property
    def few_source(self) -> tuple[Predictions, Tensor]:
        """At most `MOST_ROWS` of the source's predictions, and their classes."""
        rows = _spread(len(self.source), MOST_ROWS)
        labels = self.source_labels[rows].to(self.source.probabilities.device)
        return self.source.some(), labels

    @cached_property
    def importance(self) -> NDArray[np.float64]:
        """How much likelier each of `few_source` is on the target: `importance_weights`."""
        return importance_weights(features_of(self.few_source[0]), features_of(self.few))


def _spread(count: int, most: int) -> Tensor:
    """At most so many of the indices below `count`, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def features_of(predictions: Predictions) -> Tensor:
    """The features [N, D] of predictions that were made with some.

    Raises:
        ValueError: If they were not.
    """
    if predictions.features is None:
        raise ValueError("this score needs features, but the predictions have none")
    return predictions.features


def check_probabilities(probabilities: Tensor) -> None:
    """Raise ValueError unless `probabilities` is [N, C] with rows on the simplex, N ≥ 1."""
    if probabilities.dim() != 2 or not probabilities.numel():
        raise ValueError(f"probabilities must be [N, C], but got {tuple(probabilities.shape)}")
    sums = probabilities.sum(1)
    if not bool(((sums - 1).abs() < 1e-3).all()) or bool((probabilities < 0).any()):
        raise ValueError(
            "every row of probabilities must be ≥ 0 and sum to 1, but sums lie in "
            f"[{float(sums.min()):g}, {float(sums.max()):g}]; apply a softmax first"
        )


def _check_features(features: Tensor, rows: int) -> None:
    if features.dim() != 2 or len(features) != rows:
        raise ValueError(f"features must be [N, D] with N={rows}, but got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite, but some are not; the network has diverged")
