"""The Transfer Score: of the classifier's weights, the features and the predictions at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gam_ray.selection.evidence import Evidence, features_of
from gam_ray.selection.scores.base import Score, register_score
from gam_ray.selection.scores.certainty import InformationMaximisation


@register_score
class TransferScore(Score):
    """−U + H + M / ln C: uniformity, Hopkins statistic, normalised information. In [−π², 2].

    For networks whose last layer is linear in the features. Yang, Qian, Xu et al., ICLR 2024.
    """

    name, lowest, highest = "transfer_score", -(math.pi**2), 2.0

    def __call__(self, evidence: Evidence) -> float | None:
        """From the last layer's weights, some of the target's features, and its predictions."""
        if evidence.classifier is None:
            return None
        classes = len(evidence.classifier)
        information = InformationMaximisation()(evidence) / math.log(classes)
        features = features_of(evidence.few).double()
        return (
            information
            - uniformity(evidence.classifier.double())
            + hopkins(features, seed=evidence.seed)
        )


def uniformity(classifier: Tensor) -> float:
    """Mean squared difference, in rad², of the classes' angles from those of a simplex.

    Args:
        classifier: Weights [C, D], C ≥ 2. Their angles are all arccos(−1 / (C − 1)) where they
            divide the space evenly, which needs C ≤ D + 1.
    """
    classes = len(classifier)
    rows = torch.nn.functional.normalize(classifier, dim=1)
    angles = (rows @ rows.T).clamp(-1, 1).acos()
    apart = ~torch.eye(classes, dtype=torch.bool, device=classifier.device)
    ideal = math.acos(-1 / (classes - 1))
    return float((angles[apart] - ideal).square().mean())


def hopkins(features: Tensor, *, seed: int) -> float:
    """How far points fall into clusters: Σu / (Σu + Σw), in [0, 1]; ½ for uniform points.

    u are the distances of as many uniform points, in the box of the features, to the nearest
    feature; w those of the features to the nearest other. The distances themselves and not their
    D-th power as the paper has it: in hundreds of dimensions that is 0 or 1.

    Args:
        features: [N, D]. Of fewer than two, or where all are one point, 0.
        seed: Of the uniform points.
    """
    if len(features) < 2:
        return 0.0
    generator = torch.Generator().manual_seed(seed % 2**63)
    box = torch.rand(features.shape, generator=generator, dtype=features.dtype)
    low, high = features.amin(0), features.amax(0)
    uniform = low + box.to(features.device) * (high - low)
    to_features = torch.cdist(uniform, features).amin(1).sum()
    between = torch.cdist(features, features).fill_diagonal_(math.inf).amin(1).sum()
    total = to_features + between
    return float(to_features / total) if float(total) > 0 else 0.0
