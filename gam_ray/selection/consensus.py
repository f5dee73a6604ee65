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
        self._classes: dict[str, NDArray[np.uint16]] = {}
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
        self._classes[name] = _classes(probabilities)
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
        return _share_alike(self._classes[name], self._consensus())

    def agreements(self) -> dict[str, float]:
        """`agreement` of every member, by name."""
        return self._all_alike(self._consensus())

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
        own = self._classes[name] if probabilities is None else _classes(probabilities)
        return _share_alike(own, self._consensus_of(voters))

    def agreements_with(self, voters: Collection[str]) -> dict[str, float]:
        """`agreement_with` of every member, by name; the consensus is taken once for all."""
        return self._all_alike(self._consensus_of(voters))

    def _consensus(self) -> NDArray[np.uint16]:
        if not self._voters:
            return self._consensus_of(self._members)
        assert self._total is not None
        return _classes(self._total)

    def _consensus_of(self, voters: Collection[str]) -> NDArray[np.uint16]:
        if not voters:  # an empty crowd agrees on nothing
            return np.zeros(0, dtype=np.uint16)
        return _classes(np.asarray(sum(self._members[voter] for voter in voters)))

    def _all_alike(self, consensus: NDArray[np.uint16]) -> dict[str, float]:
        return {name: _share_alike(own, consensus) for name, own in self._classes.items()}

    @property
    def voters(self) -> tuple[str, ...]:
        """Members that have a vote, in the order in which they came; all, while none has one."""
        return tuple(name for name in self._members if name in self._voters) or tuple(self._members)


def _classes(probabilities: Probabilities) -> NDArray[np.uint16]:
    """The likeliest class [N] of each row, in few bytes: a study keeps those of all its models."""
    return probabilities.argmax(1).astype(np.uint16)


def _share_alike(own: NDArray[np.uint16], consensus: NDArray[np.uint16]) -> float:
    # Several times as fast as the mean of a mask, of which a large study takes thousands.
    return int(np.count_nonzero(own == consensus)) / len(own)


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
    return crowd.agreements()
