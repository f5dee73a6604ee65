"""What an objective says of each model of a study, each held against the others.

Numpy alone, so that a process without torch can keep standings.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gam_ray.selection.consensus import Crowd, Probabilities

ENSV, CONFIDENT_ENSV, MEAN_RANK = "ensv", "confident_ensv", "mean_rank"
"""The scores of the crowd, and the aggregate of several scores, as reports name them."""

# Voters of `confident_ensv`. Half of a crowd may be wrong alike, as under label shift those that
# match every class; among the few surest, what collapsed is outvoted by what did not.
CONFIDENT_VOTERS = 6
# Of fewer other models the consensus says little of a model's own checkpoints: the first adapted
# ones of a study would be held against the networks that were not adapted.
LEAST_OTHERS = 5


class Standings:
    """The newest word of each model of a study, and what the objective says of it.

    Two scores are the crowd's. ``ensv`` is the share of images where a model predicts what the
    consensus of all models that have a vote does; ``confident_ensv`` has as voters the six of
    them that are surest, by the mean entropy of their predictions. Both in [0, 1].

    Of one score, its own value is the objective; of several, the mean over them of the model's
    rank among all models.

    Args:
        scores: Names of scores; all but the crowd's stand in reports.
        checkpoint_scores: Those by which the reports of one model are compared; by default the
            same.
    """

    def __init__(
        self, scores: Sequence[str], checkpoint_scores: Sequence[str] | None = None
    ) -> None:
        self._scores = tuple(scores)
        self._checkpoint_scores = tuple(scores if checkpoint_scores is None else checkpoint_scores)
        self._crowd = Crowd()
        self._metrics: dict[str, Mapping[str, float]] = {}
        # Forgotten with every word that is put: a study asks for all of them again and again.
        self._values: dict[str, float] | None = None

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
            metrics: Of its report, with ``score/entropy`` and ``score/NAME`` of each score that
                is not the crowd's.
            predictions: Probabilities [N, C] on the held-out target.
            has_vote: Whether they count in the consensus.

        Raises:
            ValueError: As `Crowd.vote`.
        """
        self._crowd.vote(name, predictions, trusted=has_vote)
        self._metrics[name] = metrics
        self._values = None

    def crowd_scores(self, name: str) -> dict[str, float]:
        """Both scores of the crowd of one model, by name."""
        return {
            ENSV: self._crowd.agreement(name),
            CONFIDENT_ENSV: self._crowd.agreement_with(self._confident(), name),
        }

    def value(self, name: str) -> float:
        """The objective of one model.

        Raises:
            KeyError: If it is not here, or its report lacks a score.
        """
        return self._all_values()[name]

    def values(self) -> dict[str, float]:
        """The objective of each model, by name."""
        return dict(self._all_values())

    def _all_values(self) -> Mapping[str, float]:
        if self._values is None:
            by_score = [self._values_of(score) for score in self._scores]
            self._values = by_score[0] if len(by_score) == 1 else mean_ranks(by_score)
        return self._values

    def is_no_worse(
        self, name: str, metrics: Mapping[str, float], predictions: Probabilities
    ) -> bool:
        """Whether another report of a model is at least as good as the one it has here.

        By the checkpoint scores.
        Both are held against the other models alone: its own vote is in neither scale. Where
        fewer than `LEAST_OTHERS` of them have a vote, the crowd's scores find the two equal.
        """
        new = self._against_others(name, metrics, predictions)
        return new >= self._against_others(name, self._metrics[name], None)

    def _against_others(
        self, name: str, metrics: Mapping[str, float], predictions: Probabilities | None
    ) -> float:
        own = {}
        for score in self._checkpoint_scores:
            voters = self._voters(score, without=name)
            if voters is None:
                own[score] = metrics[f"score/{score}"]
            elif len(self._able(without=name)) < LEAST_OTHERS:
                own[score] = 1.0
            else:
                own[score] = self._crowd.agreement_with(voters, name, predictions)
        if len(own) == 1:
            return own[self._checkpoint_scores[0]]
        of_all = {score: self._values_of(score) for score in own}
        return statistics.fmean(
            _rank(value, [v for other, v in of_all[score].items() if other != name])
            for score, value in own.items()
        )

    def _values_of(self, score: str) -> dict[str, float]:
        voters = self._voters(score)
        if voters is None:
            return {name: metrics[f"score/{score}"] for name, metrics in self._metrics.items()}
        return self._crowd.agreements() if score == ENSV else self._crowd.agreements_with(voters)

    def _voters(self, score: str, *, without: str | None = None) -> list[str] | None:
        """Whose consensus a score is held against; None of a score that is not the crowd's."""
        if score == ENSV:
            return self._able(without=without)
        return self._confident(without=without) if score == CONFIDENT_ENSV else None

    def _able(self, *, without: str | None = None) -> list[str]:
        return [voter for voter in self._crowd.voters if voter != without]

    def _confident(self, *, without: str | None = None) -> list[str]:
        """Those with a vote whose predictions have the least entropy; of equals the first."""
        able = self._able(without=without)
        return sorted(able, key=lambda name: -self._metrics[name]["score/entropy"])[
            :CONFIDENT_VOTERS
        ]


def mean_ranks(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over scores of each model's rank, in [0, 1]: 1 is the best by all of them.

    Args:
        scores: Of each score, model name → value, higher is better; the same models in all.
    """
    names = list(scores[0])
    if len(names) < 2:
        return dict.fromkeys(names, 0.5)
    ranks = np.mean([_ranks(np.array([values[name] for name in names])) for values in scores], 0)
    return dict(zip(names, ranks.tolist(), strict=True))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`_rank` of each of several values among the others, without comparing all pairs."""
    ordered = np.sort(values)
    below, to_equal = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    ranks: NDArray[np.float64] = (below + (to_equal - below - 1) / 2) / (len(values) - 1)
    return ranks


def _rank(value: float, others: Sequence[float]) -> float:
    """Share of the others that are below, an equal one counted half; ½ of nobody."""
    if not others:
        return 0.5
    below = sum((value > other) + (value == other) / 2 for other in others)
    return below / len(others)
