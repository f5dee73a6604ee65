"""Scores of the predictions alone: how sure they are, and whether all classes occur.

Cheap, one pass over [N, C]. Each but `InformationMaximisation` and `NuclearNorm` ranks a collapsed
network first: one that is sure of one class everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gam_ray.selection.evidence import Evidence
from gam_ray.selection.scores.base import Score, register_score

SND_TEMPERATURE = 0.05


@register_score
class Entropy(Score):
    """−mean H(p), in nats: how sure the predictions are. In [−ln C, 0].

    Morerio, Cavazza and Murino, ICLR 2018.
    """

    name, lowest, highest = "entropy", -math.inf, 0.0

    def __call__(self, evidence: Evidence) -> float:
        """From the target's probabilities."""
        return -float(entropy(evidence.target.probabilities.double()).mean())


@register_score
class InformationMaximisation(Score):
    """H(mean p) − mean H(p), the mutual information of image and class. In [0, ln C], in nats.

    High where predictions are sure and all classes occur. Shi and Sha, ICML 2012.
    """

    name, lowest, highest = "information_maximisation", 0.0, math.inf

    def __call__(self, evidence: Evidence) -> float:
        """From the target's probabilities."""
        values = evidence.target.probabilities.double()
        return max(0.0, float(entropy(values.mean(0)) - entropy(values).mean()))


@register_score
class NuclearNorm(Score):
    """‖P‖₊ / N, the sum of the singular values of the predictions (BNM).

    In [1/√(N C), √(C / N)], so that values of splits of another size do not compare. High
    where predictions are sure and of many classes. Cui, Wang, Zhuo et al., CVPR 2020.
    """

    name, lowest, highest = "bnm", 0.0, math.inf

    def __call__(self, evidence: Evidence) -> float:
        """From the target's probabilities."""
        values = evidence.target.probabilities.double()
        # Of PᵀP, which is [C, C]: of P itself it would take N times as long.
        squares = torch.linalg.eigvalsh(values.T @ values).clamp(min=0)
        return float(squares.sqrt().sum()) / len(values)


@register_score
class ClassCorrelation(Score):
    """−tr(PᵀP) / ‖PᵀP‖_F (Corr-C, published as lower is better). In [−√C, −1].

    Tu, Deng, Gedeon and Zheng, 2023. Of a collapsed network it is −1, the highest there is.
    """

    name, lowest, highest = "corr_c", -math.inf, -1.0

    def __call__(self, evidence: Evidence) -> float:
        """From the target's probabilities."""
        values = evidence.target.probabilities.double()
        correlation = values.T @ values
        return min(self.highest, -float(correlation.trace() / correlation.norm()))


@register_score
class SoftNeighbourhoodDensity(Score):
    """Mean row entropy of softmax(F Fᵀ / 0.05) without its diagonal (SND). In [0, ln(M − 1)].

    F are the softmax predictions at unit length, of at most 1,000 rows: M² similarities. High
    where each prediction has many like it. Saito, Kim, Teterwak et al., ICCV 2021.
    """

    name, lowest, highest = "snd", 0.0, math.inf

    def __call__(self, evidence: Evidence) -> float:
        """From some of the target's probabilities; 0 of a single one."""
        rows = torch.nn.functional.normalize(evidence.few.probabilities.double(), dim=1)
        if len(rows) < 2:
            return 0.0
        similarity = rows @ rows.T / SND_TEMPERATURE
        similarity.fill_diagonal_(-math.inf)
        return float(entropy(similarity.softmax(1)).mean())


def entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats over the last dimension; 0 ln 0 is 0."""
    return -torch.xlogy(distribution, distribution).sum(-1)
