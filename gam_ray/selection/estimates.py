"""What scores and guard estimate from features: clusters, odds of the target, directions used."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of the log of an importance weight.
PRIOR_VARIANCE = 10.0
# The log of a weight is bounded by this, some six of its standard deviations: beyond, a single row
# would be all that counts, and its exponential infinite.
MOST_LOG_ODDS = 20.0


def cluster(features: Tensor, classes: int, *, seed: int) -> NDArray[np.int64]:
    """The k-means cluster [N] of each of the features [N, D]; the best of three starts."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # fewer distinct points than clusters: a collapsed network
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(classes, n_init=3, random_state=seed % 2**32)
        found: NDArray[np.int64] = means.fit_predict(features.double().cpu().numpy())
    return found


def importance_weights(source: Tensor, target: Tensor) -> NDArray[np.float64]:
    """p_target(f) / p_source(f) at every source row, by a logistic regression of the domain.

    Cross-fitted in two halves, every second row: no row is weighted by a classifier that was
    trained on it, which would know each source row for one, and give it no weight. Its L2 penalty
    grows with D, since there may be as many features as rows: a priori the log of the weight has
    a standard deviation of about 3.

    Args:
        source: [M, D] features.
        target: [N, D] features.

    Returns:
        [M], each at least 0. All 1 where a half would have no row.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(source), len(target)) < 2:
        return np.ones(len(source))
    rows = [side.double().cpu().numpy() for side in (source, target)]
    weights = np.ones(len(source))
    for half in (0, 1):
        fitted = [side[1 - half :: 2] for side in rows]
        regression = LogisticRegression(C=PRIOR_VARIANCE / source.shape[1], max_iter=200)
        model = make_pipeline(StandardScaler(), regression)
        is_target = np.repeat([0, 1], [len(side) for side in fitted])
        model.fit(np.concatenate(fitted), is_target)
        log_odds = model.decision_function(rows[0][half::2])
        odds = np.exp(np.clip(log_odds, -MOST_LOG_ODDS, MOST_LOG_ODDS))
        weights[half::2] = odds * len(fitted[0]) / len(fitted[1])
    return weights


def effective_rank(features: Tensor) -> float:
    """How many directions features [N, D] use, in [1, min(N, D)]; 1 where all are one point.

    exp H of the normalised singular values of the centred features. Roy and Vetterli, 2007.
    """
    centred = features.double() - features.double().mean(0)
    values: Tensor = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    total = values.sum()
    if float(total) == 0:
        return 1.0
    shares = values / total
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))
