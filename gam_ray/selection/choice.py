"""Choosing among candidates by a label-free score."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A model that may be chosen.

    Attributes:
        name: The trial's key.
        score: A label-free score, higher is better; a plain number, so no oracle reading. Where
            a setting was run with several seeds, their mean.
        std: Standard deviation of the score over these seeds; 0 for one.
    """

    name: str
    score: float
    std: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.score, float | int):
            raise TypeError(f"a score must be a number, but got {type(self.score).__name__}")


def choose(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate with the highest score; among equals the first given.

    Candidates with a score that is not finite cannot win.

    Raises:
        ValueError: If no candidate has a finite score.
    """
    finite = [candidate for candidate in candidates if math.isfinite(candidate.score)]
    if not finite:
        raise ValueError("no candidate has a finite score, so there is nothing to choose")
    return max(finite, key=lambda candidate: candidate.score)


def unless_no_better(best: Candidate, unadapted: Candidate) -> Candidate:
    """`best`, unless its score is not above the unadapted network's by more than its own spread.

    Adapting has to be trustworthily better, since it can do harm: `unadapted` wins a tie.
    """
    return best if best.score - best.std > unadapted.score else unadapted
