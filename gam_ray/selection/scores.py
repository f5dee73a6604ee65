"""Label-free scores of one model: what can be told of it without target labels.

Every score here is "higher is better" and is computed on a held-out split of the target.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def information_maximisation(probabilities: Tensor) -> float:
    """H(mean p) − mean H(p), the mutual information of image and predicted class.

    High where predictions are sure and all classes occur. Shi and Sha, ICML 2012.

    Args:
        probabilities: [N, C], rows on the simplex.

    Returns:
        A value in [0, ln C], in nats.

    Raises:
        ValueError: If a row is no distribution.
    """
    check_probabilities(probabilities)
    values = probabilities.double()
    return float(_entropy(values.mean(0)) - _entropy(values).mean())


def class_ami(probabilities: Tensor, features: Tensor, *, seed: int) -> float:
    """Adjusted mutual information of predicted classes and k-means clusters of features.

    Clusters of the features say how the target falls apart by itself; a model whose classes
    follow them is likelier right. One cluster a class.

    Args:
        probabilities: [N, C] predictions, rows on the simplex.
        features: [N, D] of the same images, from the same network.
        seed: Of the k-means starts.

    Returns:
        A value in [−1, 1]; 0 is chance, 1 is equality. With fewer images than classes, or one
        class predicted everywhere, 0.

    Raises:
        ValueError: If shapes disagree, a row is no distribution, or a feature is not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_mutual_info_score

    check_probabilities(probabilities)
    if features.dim() != 2 or len(features) != len(probabilities):
        raise ValueError(
            f"features must be [N, D] with N={len(probabilities)}, but got {tuple(features.shape)}"
        )
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, but some are not; the network has diverged")
    count, classes = probabilities.shape
    predicted = probabilities.argmax(1).cpu().numpy()
    # Of one class and one cluster (a collapsed network has both) the AMI would be 1: equality.
    if count < classes or (predicted == predicted[0]).all():
        return 0.0
    with warnings.catch_warnings():  # fewer distinct points than clusters: a collapsed network
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(classes, n_init=3, random_state=seed % 2**32).fit_predict(
            features.double().cpu().numpy()
        )
    return float(adjusted_mutual_info_score(clusters, predicted))


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


def _entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats over the last dimension; 0 ln 0 is 0."""
    return -torch.xlogy(distribution, distribution).sum(-1)
