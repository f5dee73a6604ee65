"""EnsV: how far one model agrees with the consensus of a crowd of models.

A study has what a single run lacks, many models of one target. The consensus is the argmax of
the models' mean softmax; a model's score is the share of images where its own argmax is the
same (ensemble-based validation, "EnsV"; here the candidates of the ensemble are the trials).

Written in numpy, so that a process without torch can keep a crowd.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]


class Crowd:
    """The predictions of a study's models on the held-out target, one vote a model.

    A model that collapsed or diverged votes as well: the mean softmax outvotes it as long as
    most models do better.
    """

    def __init__(self) -> None:
        self._members: dict[str, Probabilities] = {}
        self._total: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def vote(self, name: str, probabilities: Probabilities) -> None:
        """Count in the predictions [N, C] of model `name`, in place of its earlier ones.

        Raises:
            ValueError: If the shape differs from the other members', or a value is not finite.
        """
        if not np.isfinite(probabilities).all():
            raise ValueError(f"predictions of {name!r} must be finite, but some are not")
        if self._total is None:
            self._total = np.zeros(probabilities.shape)
        if probabilities.shape != self._total.shape:
            raise ValueError(
                f"predictions of {name!r} must have the shape {self._total.shape} of the "
                f"others, but got {probabilities.shape}; the held-out split must not change"
            )
        if name in self._members:
            self._total -= self._members[name]
        self._members[name] = probabilities
        self._total += probabilities

    def agreement(self, name: str) -> float:
        """Share in [0, 1] of images where member `name` predicts what the consensus does.

        Raises:
            KeyError: If `name` has not voted.
        """
        own = self._members[name].argmax(1)
        assert self._total is not None
        return float((own == self._total.argmax(1)).mean())


def agreements(predictions: Mapping[str, Probabilities]) -> dict[str, float]:
    """Every model's agreement with the consensus of all of them.

    Args:
        predictions: Model name → probabilities [N, C], all of one shape.
    """
    crowd = Crowd()
    for name, probabilities in predictions.items():
        crowd.vote(name, probabilities)
    return {name: crowd.agreement(name) for name in predictions}
