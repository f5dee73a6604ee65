"""What the collapse guard measures, of one model against the source network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gam_ray.selection.evidence import Evidence, Predictions
from gam_ray.selection.guard import AGREEMENT, CLASS_SHIFT, FEATURE_RANK


@dataclass(frozen=True)
class Unadapted:
    """What the guard compares with: of the source network on the target.

    Attributes:
        classes: Predicted for each image or pixel, int64 [N].
        feature_rank: `effective_rank` of some of their features.
    """

    classes: Tensor
    feature_rank: float

    @classmethod
    def of(cls, predictions: Predictions) -> Unadapted:
        """Of predictions with features, which need not be kept for it."""
        return cls(predictions.classes, predictions.feature_rank)


def guard_figures(evidence: Evidence, unadapted: Unadapted) -> dict[str, float]:
    """The guard's three figures.

    Args:
        evidence: Of the adapted model.
        unadapted: Of the source network on the same target images or pixels.

    Returns:
        ``guard/class_shift`` in [0, 1], ``guard/agreement`` in [−1, 1] and ``guard/feature_rank``,
        which is 1 for the source network itself.
    """
    return {
        CLASS_SHIFT: class_shift(evidence),
        AGREEMENT: cohen_kappa(evidence.target.classes, unadapted.classes),
        FEATURE_RANK: evidence.target.feature_rank / unadapted.feature_rank,
    }


def class_shift(evidence: Evidence) -> float:
    """Total variation distance of predicted classes on the target from labels on the source."""
    classes = evidence.target.probabilities.shape[1]
    predicted = _shares(evidence.target.classes, classes)
    labels = _shares(evidence.source_labels, classes)
    return float((predicted - labels).abs().sum() / 2)


def cohen_kappa(first: Tensor, second: Tensor) -> float:
    """Agreement beyond chance of two lists of classes [N] (Cohen, 1960). In [−1, 1].

    Of two models that say one and the same class everywhere it is 0: there is nothing to
    agree on.
    """
    classes = int(torch.stack([first, second]).max()) + 1
    observed = float((first == second).double().mean())
    chance = float((_shares(first, classes) * _shares(second, classes)).sum())
    return 0.0 if chance > 1 - 1e-12 else (observed - chance) / (1 - chance)


def _shares(classes: Tensor, count: int) -> Tensor:
    return torch.bincount(classes, minlength=count).double() / len(classes)
