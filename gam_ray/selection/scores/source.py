"""Scores of the labelled source: its accuracy, and its risk weighted to look like the target."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gam_ray.selection.evidence import Evidence
from gam_ray.selection.scores.base import Score, register_score

# Predictions of a class that has probability 0 cost so much, not infinity.
SMALLEST_PROBABILITY = 1e-12


@register_score
class SourceAccuracy(Score):
    """Accuracy on the source's held-out split. In [0, 1].

    Says nothing of the target, but falls when adaptation forgets the task.
    """

    name, lowest, highest = "source_accuracy", 0.0, 1.0

    def __call__(self, evidence: Evidence) -> float:
        """From the source's predictions and labels."""
        hits = evidence.source.classes == evidence.source_labels.to(evidence.source.classes.device)
        return float(hits.double().mean())


@register_score
class ImportanceWeightedRisk(Score):
    """−mean(w·ℓ) on source rows (IWCV, published as lower is better). In (−∞, 0].

    ℓ is the cross-entropy and w = p_target(f) / p_source(f), see
    `importance_weights`. Right if
    the target differs in where its features lie alone. Sugiyama, Krauledat and Müller, 2007. A
    logistic regression on at most 2,000 rows: some tenths of a second, shared with `DEVRisk`.
    """

    name, lowest, highest = "iwcv", -math.inf, 0.0

    def __call__(self, evidence: Evidence) -> float:
        """From some of both sides' features, and the source's predictions and labels."""
        return -float((evidence.importance * _losses(evidence)).mean())


@register_score
class DEVRisk(Score):
    """−(mean(wℓ) + η mean(w) − η), η = −Cov(wℓ, w) / Var(w) (DEV, published as lower is better).

    In (−∞, ∞): `ImportanceWeightedRisk` with a control variate, since mean(w) should be 1. You,
    Wang, Long and Jordan, ICML 2019.
    """

    name, lowest, highest = "dev", -math.inf, math.inf

    def __call__(self, evidence: Evidence) -> float:
        """As `ImportanceWeightedRisk`."""
        return -dev_risk(evidence.importance, _losses(evidence))


def dev_risk(weights: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """The importance-weighted mean loss with its control variate.

    Args:
        weights: [M], each at least 0. If all are the same there is nothing to correct: η is 0.
        losses: [M].
    """
    weighted = weights * losses
    variance = weights.var()
    eta = 0.0 if variance < 1e-12 else -np.cov(weighted, weights, ddof=0)[0, 1] / variance
    return float(weighted.mean() + eta * weights.mean() - eta)


def _losses(evidence: Evidence) -> NDArray[np.float64]:
    """Cross-entropy [M] of some source rows."""
    source, labels = evidence.few_source
    chosen = source.probabilities.double().gather(1, labels[:, None]).squeeze(1)
    losses: NDArray[np.float64] = -chosen.clamp(min=SMALLEST_PROBABILITY).log().cpu().numpy()
    return losses
