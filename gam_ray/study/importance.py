"""How much each searched parameter sets a study's best trials apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gam_ray.config import SearchSpace
from gam_ray.report.facts import Importance
from gam_ray.study.choosing import Ended
from gam_ray.study.store import WITH_SETTINGS

LEAST_TRIALS = 10
# What is among the best: a tenth of the trials, but of few trials not so few that chance decides.
BEST_SHARE, LEAST_BEST = 0.1, 5


def parameter_importance(space: SearchSpace, ended: Sequence[Ended]) -> Importance:
    """PED-ANOVA of the final scores (Watanabe et al., 2023), as Optuna has it.

    Trials that were stopped early count with the score that they were stopped with, which the
    choice looks at as well; those that are left out do not count.

    Args:
        space: What was searched.
        ended: All trials that ended in order.
    """
    searched = [each for each in ended if _counts(each)]
    count = len(searched)
    if count < LEAST_TRIALS:
        return Importance(
            {},
            count,
            f"Too few searched trials to say which parameter matters: {count} ended in order and "
            f"can be trusted, and {LEAST_TRIALS} are needed.",
        )
    if len({each.score for each in searched}) == 1:
        return Importance({}, count, "All searched trials have the same score.")
    return Importance(_ped_anova(space, searched), count, None)


def _counts(trial: Ended) -> bool:
    is_searched = trial.record.role in WITH_SETTINGS
    return is_searched and not trial.left_out and math.isfinite(trial.score)


def _ped_anova(space: SearchSpace, searched: Sequence[Ended]) -> dict[str, float]:
    import optuna

    from gam_ray.study.search import answers, distributions

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    aside, drawn_from = optuna.create_study(direction="maximize"), distributions(space)
    for each in searched:
        # A finalist's seed is no parameter of the space.
        own = {path: value for path, value in each.record.settings.items() if path in space.root}
        given = answers(space, own)
        aside.add_trial(
            optuna.trial.create_trial(
                value=each.score,
                params=given,
                distributions={name: drawn_from[name] for name in given},
            )
        )
    best = max(BEST_SHARE, LEAST_BEST / len(searched))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best)
    found = optuna.importance.get_param_importances(aside, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
