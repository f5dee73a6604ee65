"""What a trial must keep to, besides its score: bounds of what it reports (`search.constraints`).

A trial that violates one cannot win, and is no finalist and no teacher; its predictions count in
the consensus all the same, for nothing says that they are wrong. The search hears by how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from gam_ray.config import Constraints, unknown_name
from gam_ray.study.store import EndRecord, ReportRecord, TrialRecord

# What a search hears of a value that is no number, and so beyond any bound.
FAR_BEYOND = 1e6
# Of one that is not there: at the bound itself, a model would hold it for likely to be violated.
CLEARLY_WITHIN = -1.0


def figures(kept: ReportRecord | None, end: EndRecord) -> dict[str, float]:
    """What constraints look at in a trial that has ended, by name.

    Args:
        kept: The report whose network counts.
        end: How the trial ended: its ``seconds``, and ``oracle/SPLIT`` where there are labels.
    """
    oracle = {f"oracle/{split}": value for split, value in (end.oracle or {}).items()}
    return {**(kept.metrics if kept else {}), **oracle, "seconds": end.seconds}


def excesses(constraints: Constraints, found: Mapping[str, float]) -> dict[str, float]:
    """How far beyond each bound a trial is, as Optuna has it: violated above 0.

    As a share of the bound, so that seconds and accuracies can be added; by itself of a bound
    of 0. A bound of what the trial does not report holds: a layer that is not matched has no loss.

    Args:
        constraints: The study's.
        found: `figures` of the trial.

    Returns:
        ``METRIC >= BOUND`` or ``METRIC <= BOUND`` → excess, all of them for every trial.
    """
    values: dict[str, float] = {}
    for metric, bounds in constraints.items():
        value = found.get(metric)
        if bounds.min is not None:
            values[f"{metric} >= {bounds.min:g}"] = _excess(value, bounds.min, sign=-1)
        if bounds.max is not None:
            values[f"{metric} <= {bounds.max:g}"] = _excess(value, bounds.max, sign=1)
    return values


def _excess(value: float | None, bound: float, *, sign: int) -> float:
    if value is None:
        return CLEARLY_WITHIN
    if not math.isfinite(value):
        return FAR_BEYOND
    return sign * (value - bound) / (abs(bound) or 1.0)


def violations(
    record: TrialRecord, constraints: Constraints, found: Mapping[str, float]
) -> tuple[str, ...]:
    """Why a trial that has ended cannot win, each with the rule and what was seen.

    The source network as it is violates none: doing nothing must stay possible.

    Args:
        record: The trial.
        constraints: The study's.
        found: `figures` of the trial.
    """
    if record.role == "no adaptation":
        return ()
    return tuple(
        f"constraint {rule} (search.constraints), but got {found[rule.split()[0]]:g}"
        for rule, excess in excesses(constraints, found).items()
        if excess > 0
    )


def without_effect(
    constraints: Constraints, reported: Iterable[Mapping[str, float]]
) -> tuple[str, ...]:
    """Constraints on metrics that no trial reported, each with the nearest that one did.

    Args:
        constraints: The study's.
        reported: `figures` of its trials; where there are none, nothing is said.
    """
    known = sorted({name for each in reported for name in each})
    return tuple(
        f"search.constraints has no effect: {unknown_name('metric', metric, known)}"
        for metric in constraints
        if known and metric not in known
    )
