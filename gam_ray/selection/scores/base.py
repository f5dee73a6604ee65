"""What a score is, and the table of known scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import ClassVar, TypeVar

from gam_ray.selection.evidence import Evidence

AnyScore = TypeVar("AnyScore", bound="type[Score]")
_SCORES: dict[str, type[Score]] = {}


class Score(ABC):
    """How good one model looks, seen without target labels; higher is better, always.

    What was published as lower is better is negated here, and its docstring says so. A score
    is finite for whatever evidence there is: for a single row, for one class everywhere, and for
    classes that never occur. It depends on the evidence alone, so that workers that gathered the
    same evidence find the same number.

    Attributes:
        name: What users write, and ``score/NAME`` in reports.
        lowest: What it never falls below.
        highest: What it never exceeds.
    """

    name: ClassVar[str]
    lowest: ClassVar[float]
    highest: ClassVar[float]

    @abstractmethod
    def __call__(self, evidence: Evidence) -> float | None:
        """The score; None where the evidence lacks what it looks at."""


def register_score(score: AnyScore) -> AnyScore:
    """Class decorator: make a score known by its name.

    Raises:
        ValueError: If the name is taken.
    """
    if score.name in _SCORES:
        raise ValueError(f"a score's name is its own, but {score.name!r} is taken; rename one")
    _SCORES[score.name] = score
    return score


def known_scores() -> dict[str, Score]:
    """Every score by name, in the order they were registered."""
    return {name: score() for name, score in _SCORES.items()}


def score_by_name(name: str) -> Score:
    """The score of that name.

    Raises:
        ValueError: If there is none; a near name is told.
    """
    if name not in _SCORES:
        near = get_close_matches(name, _SCORES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_SCORES))}"
        raise ValueError(f"there is no score {name!r}; {hint}")
    return _SCORES[name]()


def all_scores(evidence: Evidence) -> dict[str, float]:
    """Every known score of one model, by name; those that lack evidence are left out."""
    found = {name: score(evidence) for name, score in known_scores().items()}
    return {name: value for name, value in found.items() if value is not None}
