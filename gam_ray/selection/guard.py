"""The collapse guard: what a model must keep, whatever its score says. Sees no target label.

Entropy-like scores rank a network first that is sure of one class everywhere, and a crowd of such
networks agrees with itself. The guard looks at three figures of a report, and a trial that is
out of bounds in one of them cannot win and has no vote in the consensus.

Plain Python, so that a process without torch can guard; `guard_figures` in
`gam_ray.selection.collapse` measures.
"""

from __future__ import annotations

from collections.abc import Mapping

CLASS_SHIFT, AGREEMENT, FEATURE_RANK = "guard/class_shift", "guard/agreement", "guard/feature_rank"

# Chance is 0. A source network that is right of 30 % of ten classes agrees with a perfect
# one by 0.2.
LEAST_AGREEMENT = 0.1
# Of a perfect classifier's features so many directions remain as there are classes, less one: in
# the digits' networks about as many as before.
LEAST_FEATURE_RANK = 0.25


def guard_causes(figures: Mapping[str, float], *, label_shift: float) -> tuple[str, ...]:
    """Why a model cannot be trusted, each with the rule and what was seen; empty if it can.

    Args:
        figures: A report's, with the three of the guard, or a mapping without: then there is
            nothing to guard, and no cause.
        label_shift: Largest distance, in [0, 1], of the predicted classes' shares on the target
            from the labels' on the source: half the sum of the absolute differences. Half of the
            classes missing is 0.5, all but one of ten are 0.9.
    """
    causes = []
    if figures.get(CLASS_SHIFT, 0.0) > label_shift:
        causes.append(
            f"predicted classes are {figures[CLASS_SHIFT]:.2f} away from the source's labels, and "
            f"{label_shift:g} is allowed (objective.label_shift)"
        )
    if figures.get(AGREEMENT, 1.0) < LEAST_AGREEMENT:
        causes.append(
            f"agreement with the source network is {figures[AGREEMENT]:.2f} (Cohen's kappa), below "
            f"{LEAST_AGREEMENT:g}"
        )
    if figures.get(FEATURE_RANK, 1.0) < LEAST_FEATURE_RANK:
        causes.append(
            f"features have {figures[FEATURE_RANK]:.2f} of the rank that the source network's "
            f"have, below {LEAST_FEATURE_RANK:g}"
        )
    return tuple(causes)
