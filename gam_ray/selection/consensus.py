"""EnsV: how far one model agrees with the consensus of a crowd of models.

A study has what a single run lacks, many models of one target. The consensus is the argmax of
the models' mean softmax; a model's score is the share of images where its own argmax is the
same (ensemble-based validation, "EnsV"; here the candidates of the ensemble are the trials).

Written in numpy, so that a process without torch can keep a crowd.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating]


class Crowd:
    """The predictions of a study's models on the held-out target, one vote a model.

    A model that is not trusted (the collapse guard says so) is a member without a vote: it is held
    against the consensus of the others. A bad model that nobody noticed votes as well: the mean
    softmax outvotes it as long as most models do better.
    """

    def __init__(self) -> None:
        self._members: dict[str, Probabilities] = {}
        self._voters: set[str] = set()
        self._total: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def vote(self, name: str, probabilities: Probabilities, *, trusted: bool = True) -> None:
        """Count in the predictions [N, C] of model `name`, in place of its earlier ones.

        Args:
            name: The model.
            probabilities: [N, C].
            trusted: Whether they have a vote; if not, they are kept to be held against it.

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
        if name in self._voters:
            self._total -= self._members[name]
        self._members[name] = probabilities
        self._voters.discard(name)
        if trusted:
            self._voters.add(name)
            self._total += probabilities

    def agreement(self, name: str) -> float:
        """Share in [0, 1] of images where member `name` predicts what the consensus does.

        While nobody has a vote, the consensus is that of all members.

        Raises:
            KeyError: If `name` is no member.
        """
        own = self._members[name]
        assert self._total is not None
        total = self._total if self._voters else sum(self._members.values())
        return _share_alike(own, np.asarray(total))

    def agreement_with(
        self, voters: Collection[str], name: str, probabilities: Probabilities | None = None
    ) -> float:
        """Share in [0, 1] of images where a model predicts what the consensus of `voters` does.

        Args:
            voters: Members, at least one.
            name: The model.
            probabilities: What it says; by default the predictions that it has here.

        Raises:
            KeyError: If `name` or a voter is no member.
        """
        total = np.sum([self._members[voter] for voter in voters], axis=0)
        return _share_alike(self._members[name] if probabilities is None else probabilities, total)

    @property
    def voters(self) -> tuple[str, ...]:
        """Members that have a vote, in the order in which they came; all, while none has one."""
        return tuple(name for name in self._members if name in self._voters) or tuple(self._members)


def _share_alike(own: Probabilities, total: Probabilities) -> float:
    return float((own.argmax(1) == total.argmax(1)).mean())


def agreements(
    predictions: Mapping[str, Probabilities], *, untrusted: Collection[str] = ()
) -> dict[str, float]:
    """Every model's agreement with the consensus of all that are trusted.

    Args:
        predictions: Model name → probabilities [N, C], all of one shape.
        untrusted: Names of those without a vote.
    """
    crowd = Crowd()
    for name, probabilities in predictions.items():
        crowd.vote(name, probabilities, trusted=name not in untrusted)
    return {name: crowd.agreement(name) for name in predictions}
