"""What an objective says of each model of a study, each held against the others.

Numpy alone, so that a process without torch can keep standings.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from gam_ray.selection.consensus import Crowd, Probabilities

ENSV, MEAN_RANK = "ensv", "mean_rank"
"""The score of the crowd, and the aggregate of several scores, as reports name them."""


class Standings:
    """The newest word of each model of a study, and what the objective says of it.

    Of one score, its own value is the objective; of several, the mean over them of the model's
    rank among all models.

    Args:
        scores: Names of scores; ``ensv`` is that of the crowd, the others stand in reports.
    """

    def __init__(self, scores: Sequence[str]) -> None:
        self._scores = tuple(scores)
        self._crowd = Crowd()
        self._metrics: dict[str, Mapping[str, float]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._metrics

    def put(
        self,
        name: str,
        metrics: Mapping[str, float],
        predictions: Probabilities,
        *,
        has_vote: bool = True,
    ) -> None:
        """Take what a model says now, in place of what it said before.

        Args:
            name: The model.
            metrics: Of its report, with ``score/NAME`` of each score but ``ensv``.
            predictions: Probabilities [N, C] on the held-out target.
            has_vote: Whether they count in the consensus.

        Raises:
            ValueError: As `Crowd.vote`.
        """
        self._crowd.vote(name, predictions, trusted=has_vote)
        self._metrics[name] = metrics

    def agreement(self, name: str) -> float:
        """EnsV of a model: its agreement with the consensus of those that have a vote."""
        return self._crowd.agreement(name)

    def value(self, name: str) -> float:
        """The objective of one model.

        Raises:
            KeyError: If it is not here, or its report lacks a score.
        """
        if len(self._scores) == 1:
            return self._score(name, self._scores[0])
        return self.values()[name]

    def values(self) -> dict[str, float]:
        """The objective of each model, by name."""
        by_score = [
            {name: self._score(name, score) for name in self._metrics} for score in self._scores
        ]
        return by_score[0] if len(by_score) == 1 else mean_ranks(by_score)

    def is_no_worse(
        self, name: str, metrics: Mapping[str, float], predictions: Probabilities
    ) -> bool:
        """Whether another report of a model is at least as good as the one it has here.

        Both are held against the other models alone. Where there is no other model, the consensus
        says nothing, and ``ensv`` finds them equal.
        """
        others = self._crowd.agreement_with_others
        new = self._against_others(name, metrics, others(name, predictions))
        old = self._against_others(name, self._metrics[name], others(name))
        return new >= old

    def _against_others(self, name: str, metrics: Mapping[str, float], agreement: float) -> float:
        own = {s: agreement if s == ENSV else metrics[f"score/{s}"] for s in self._scores}
        if len(own) == 1:
            return own[self._scores[0]]
        others = [other for other in self._metrics if other != name]
        return statistics.fmean(
            _rank(value, [self._score(other, score) for other in others])
            for score, value in own.items()
        )

    def _score(self, name: str, score: str) -> float:
        return self.agreement(name) if score == ENSV else self._metrics[name][f"score/{score}"]


def mean_ranks(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over scores of each model's rank, in [0, 1]: 1 is the best by all of them.

    Args:
        scores: Of each score, model name → value, higher is better; the same models in all.
    """
    return {
        name: statistics.fmean(
            _rank(values[name], [value for other, value in values.items() if other != name])
            for values in scores
        )
        for name in scores[0]
    }


def _rank(value: float, others: Sequence[float]) -> float:
    """Share of the others that are below, an equal one counted half; ½ of nobody."""
    if not others:
        return 0.5
    below = sum((value > other) + (value == other) / 2 for other in others)
    return below / len(others)
