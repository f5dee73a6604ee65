"""What does not go together in a search: its sampler, its known settings, and its space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gam_ray.config.space import (
    RangeParameter,
    SearchSpace,
    apply_settings,
    unknown_name,
    value_at,
)
from gam_ray.config.study import SearchConfig
from gam_ray.config.trial import TrialConfig

# CMA-ES adapts a covariance, for which it takes at least two numbers.
CMAES_NUMBERS = 2


def search_problems(
    space: SearchSpace, base: TrialConfig, search: SearchConfig
) -> dict[tuple[str | int, ...], str]:
    """What is wrong with `search` over `space`: place within ``search`` → message.

    An enqueued setting must be searched and its value lie in the space, where a condition of it
    holds; together they must be a trial. CMA-ES needs two numbers that are always searched, and
    takes one objective.
    """
    problems: dict[tuple[str | int, ...], str] = {}
    for index, settings in enumerate(search.enqueue):
        found = _setting_problems(space, base, settings)
        problems |= {("enqueue", index, path): message for path, message in found.items()}
        if not found and (message := _refusal(base, settings)):
            problems["enqueue", index] = message
    numbers = [path for path, p in space.items() if isinstance(p, RangeParameter) and not p.when]
    if search.sampler == "cmaes" and len(numbers) < CMAES_NUMBERS:
        problems[("sampler",)] = (
            f"cmaes needs at least {CMAES_NUMBERS} numbers (log, float or int) without a "
            f"condition in the space, but got {', '.join(numbers) or 'none'}; the others it draws "
            "at random: use tpe"
        )
    if search.sampler == "cmaes" and len(search.objectives) > 1:
        problems[("objectives",)] = (
            f"cmaes takes one objective, but got [{', '.join(search.objectives)}]; use another "
            "sampler, of which tpe, gp and nsga2 learn of both, or objectives: [score]"
        )
    return problems


def _setting_problems(
    space: SearchSpace, base: TrialConfig, settings: Mapping[str, Any]
) -> dict[str, str]:
    problems: dict[str, str] = {}
    for path, value in settings.items():
        parameter = space.root.get(path)
        if parameter is None:
            problems[path] = unknown_name("parameter of the space", path, list(space))
        elif message := parameter.refusal(value):
            problems[path] = message
        else:
            for condition, wanted in parameter.when.items():
                given = settings.get(condition)
                if condition not in space.root:
                    given = value_at(base.to_mapping(), condition)
                if given != wanted:
                    problems[path] = (
                        f"is searched only where {condition} is {wanted!r}; give that beside it, "
                        "or leave it out"
                    )
    return problems


def _refusal(base: TrialConfig, settings: Mapping[str, Any]) -> str | None:
    try:
        apply_settings(base, settings)
    except ValidationError as error:
        return "is refused: " + "; ".join(item["msg"] for item in error.errors())
    return None
