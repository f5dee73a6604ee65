"""How far a study's choice can be trusted, in sentences that need no label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gam_ray.report.facts import Remark, TrialFacts, Verdict
from gam_ray.selection.guard import (
    AGREEMENT,
    CLASS_SHIFT,
    FEATURE_RANK,
    LEAST_AGREEMENT,
    LEAST_FEATURE_RANK,
)

# From this share of the trials on, failures and distrust say something of the study itself.
MANY = 0.25


def remarks(
    best: Mapping[str, Any],
    trials: Sequence[TrialFacts],
    guard: Mapping[str, float],
    *,
    state: str,
    label_shift: float,
) -> tuple[Remark, ...]:
    """What is to be known before the choice is used, the oracle aside.

    Args:
        best: As `results.best` has it.
        trials: All that ended.
        guard: Figures of the choice's report, with the guard's three.
        state: Of the study.
        label_shift: The guard's bound of `CLASS_SHIFT`, as `ObjectiveConfig` has it.
    """
    found = [_of_seeds(best), _of_rank(best), *_of_guard(guard, label_shift)]
    found += _of_trials(trials)
    found += [
        Remark("caution", "constraints", line) for line in best["constraints"]["without_effect"]
    ]
    if best["by_oracle"]:
        told = "The choice was made BY TARGET LABELS: it does not show what can be had without."
        found.insert(0, Remark("caution", "oracle", told))
    else:
        found.insert(2, _of_record(best))
    if state != "finished":
        told = f"The study is {state}; trials that are still to come may change the choice."
        found.insert(0, Remark("caution", "unfinished", told))
    return tuple(found)


def _of_seeds(best: Mapping[str, Any]) -> Remark:
    seeds, before = best["seeds"], best["no_adaptation"]["score"]
    if not best["adapt"]:
        told = "Nothing was trained on the target, so nothing can have gone wrong there."
        return Remark("note", "seeds", told)
    if seeds["std"] is None:
        told = "Its settings ran once, so how much luck is in the score is unknown."
        return Remark("caution", "seeds", told)
    spread = (
        f"{len(seeds['runs'])} runs of its settings on different seeds score "
        f"{seeds['mean']:.3f} ± {seeds['std']:.3f}"
    )
    if before is None:
        return Remark("note", "seeds", f"{spread}.")
    beyond = seeds["mean"] - seeds["std"] > before
    told = f"{spread}; the source network {before:.3f}."
    return Remark("good" if beyond else "caution", "seeds", told)


def _of_rank(best: Mapping[str, Any]) -> Remark:
    told = f"It scores higher than {best['score']['percentile']:.0f} % of the trusted trials."
    if best["trial"]["role"] == "student" and not best["by_oracle"]:
        told += (
            " It is chosen all the same, for the score is no measure of a student: the consensus "
            "of its teachers agrees with it no less than with the best trial of the search."
        )
    return Remark("note", "rank", told)


def _of_record(best: Mapping[str, Any]) -> Remark:
    known, name = best["reliability"], best["score"]["name"]
    if known is None:
        told = f"How well {name} chooses was never measured where labels are known."
        return Remark("caution", "record", told)
    told = (
        f"On {known['tasks']:.0f} tasks with known labels the choice by {name} was "
        f"{known['mean_regret']:.1f} points below the best trial on average, at worst "
        f"{known['worst_regret']:.1f}; its rank correlation with the accuracy was "
        f"{known['mean_spearman']:.2f}."
    )
    return Remark("note", "record", told)


def _of_guard(guard: Mapping[str, float], label_shift: float) -> Iterator[Remark]:
    """What the guard measured of the choice; it left out whatever is beyond a bound."""
    rules = {
        CLASS_SHIFT: ("predicted classes are {:.2f} away from the source's labels (at most {:g})",
                      label_shift),
        AGREEMENT: ("agreement with the source network is {:.2f} (at least {:g})",
                    LEAST_AGREEMENT),
        FEATURE_RANK: ("features keep {:.2f} of their rank (at least {:g})",
                       LEAST_FEATURE_RANK),
    }  # fmt: skip
    told = [
        text.format(guard[name], bound) for name, (text, bound) in rules.items() if name in guard
    ]
    if told:
        yield Remark("good", "guard", f"It has not collapsed: {'; '.join(told)}.")


def _of_trials(trials: Sequence[TrialFacts]) -> Iterator[Remark]:
    total = len(trials)
    failed = sum(trial.state == "failed" for trial in trials)
    left_out = sum(bool(trial.left_out) for trial in trials)
    for about, count, what in (
        ("failures", failed, "failed"),
        ("distrust", left_out, "were left out by the guard or a constraint"),
    ):
        verdict: Verdict = "caution" if count > MANY * total else "note"
        if count:
            yield Remark(verdict, about, f"{count} of {total} trials {what}.")
