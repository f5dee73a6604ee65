"""Population-based training: the trials of the search train on, the worst from the best.

After Jaderberg et al., "Population Based Training of Neural Networks", 2017. The searched trials
are the first generation. In each further one every network trains ``trial.steps`` more: those of
the worst 1/n (``schedule.reduction_factor``) give way to copies of the best 1/n, whose numbers are
changed a little (exploit and explore); the others go on as they are.

A network that goes on is a trial of its own, whose configuration names the one that it goes on
from (`TrialConfig.continues`): so a trial stays what its configuration says. Generations are
synchronous, and what one is follows from the trials before it alone, so that a study that was cut
off takes up the same ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gam_ray.config import RangeParameter, SearchSpace, StudyConfig, derive_seed, explorable
from gam_ray.study.choosing import SEARCHED, ended_trials
from gam_ray.study.store import Role, StudyStore, TrialRecord

# As the paper has it: numbers are multiplied by one of these, or now and then drawn anew.
FACTORS = (0.8, 1.25)
DRAWN_ANEW = 0.25
# Two copies that are alike would be one trial. So often another change is looked for.
ATTEMPTS = 100


@dataclass(frozen=True)
class Member:
    """A network of the population, as the newest generation left it.

    Attributes:
        record: Its newest trial.
        score: Of it, against all trials up to its generation; None if it failed or may not win.
    """

    record: TrialRecord
    score: float | None


def next_generation(config: StudyConfig, store: StudyStore, number: int) -> list[dict[str, Any]]:
    """Settings of each trial of a generation.

    Args:
        config: The study.
        store: Its storage; the generation before has ended.
        number: 2, 3, ….

    Returns:
        Dotted path → value, one a trial; none if no trial of the generation before may win.
    """
    members = _members(config, store, number - 1)
    able = sorted((each for each in members if each.score is not None), key=_descending)
    if not able:
        return []
    unable = [each for each in members if each.score is None]
    count = len(members) // config.schedule.reduction_factor
    best = able[: max(1, count)]
    ranked = [*able, *unable]
    worst = ranked[len(best) :][-max(count, len(unable)) :]
    steps = number * config.trial.steps
    found: list[dict[str, Any]] = []
    for slot, member in enumerate(members):
        drawn = random.Random(derive_seed(config.search.seed, "generation", number, slot))  # noqa: S311 - not a secret
        onward = {**member.record.settings, "steps": steps, "continues": member.record.key}
        if member in worst:
            for _ in range(ATTEMPTS):
                parent = drawn.choice(best).record
                changed = explored(config.space, parent.settings, drawn)
                onward = {**changed, "steps": steps, "continues": parent.key}
                if onward not in found:
                    break
        found.append(onward)
    return found


def explored(
    space: SearchSpace, settings: Mapping[str, Any], drawn: random.Random
) -> dict[str, Any]:
    """Settings whose numbers are changed, within the space; layers and choices stay.

    Args:
        space: What was searched.
        settings: By dotted path.
        drawn: Where chance comes from.
    """
    changed = dict(settings)
    for path, parameter in explorable(space).items():
        if path not in settings:  # its condition does not hold
            continue
        low, high = parameter.bounds
        value = settings[path] * drawn.choice(FACTORS)
        if drawn.random() < DRAWN_ANEW:
            value = _draw(parameter, drawn)
        value = min(max(value, low), high)
        changed[path] = round(value) if parameter.kind == "int" else value
    return changed


def _draw(parameter: RangeParameter, drawn: random.Random) -> float:
    low, high = parameter.bounds
    if parameter.kind == "log":
        return math.exp(drawn.uniform(math.log(low), math.log(high)))
    return drawn.uniform(low, high)


def _members(config: StudyConfig, store: StudyStore, generation: int) -> list[Member]:
    """Those of a generation, by number; what comes after it is as if it were not there."""
    last, every = generation * config.trial.steps, config.search.constraints
    roles: tuple[Role, ...] = (*SEARCHED, "generation")
    ended = ended_trials(store, config.objective, every, roles=roles, last_step=last)
    scores = {
        each.record.key: each.score
        for each in ended
        if each.is_whole and not each.left_out and math.isfinite(each.score)
    }
    records = [files.record() for files in store.trials()]
    return [
        Member(record, scores.get(record.key))
        for record in records
        if record.role in ("search", "generation") and record.config.steps == last
    ]


def _descending(member: Member) -> float:
    assert member.score is not None
    return -member.score
