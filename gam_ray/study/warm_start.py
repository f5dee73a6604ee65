"""What a study learns from an older one before it begins.

A value of the older study may stand beside those of this one only if it is a value of the same
function. So it is with an objective of one score that is of a model alone, such as ``entropy``,
for trials whose settings are the same but for what is searched here: these stand in the Optuna
study as trials, for the samplers that learn from such (``tpe``, ``gp``). Where the cost is an
objective as well, the older trials must have had the same resources; whether their machine was the
same, nobody knows.

``ensv``, ``confident_ensv`` and the mean rank by several scores are held against a study's own
crowd: 0.9 there and 0.9 here are not alike. With these, and wherever no value can be used, the
best settings of the older study are tried first instead, and scored here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from gam_ray.config import StudyConfig, apply_settings, settings_difference, value_at
from gam_ray.selection.standings import CONFIDENT_ENSV, ENSV
from gam_ray.study.broker import UNTRUSTED_SCORE
from gam_ray.study.choosing import SEARCHED, Ended, ended_trials
from gam_ray.study.objectives import Objectives
from gam_ray.study.optuna_study import WARM_START
from gam_ray.study.remote import store_at
from gam_ray.study.search import answers, distributions
from gam_ray.study.store import StudyStore

LEARNING_SAMPLERS = ("tpe", "gp")
# Of a study's resources, those on which a trial's seconds depend.
_COSTLY = ("workers", "cpus_per_worker", "gpus_per_worker")
# Of the older study's best settings so many are tried first, at most this share of the trials.
BEST_SETTINGS = 5
LARGEST_SHARE = 0.25


@dataclass(frozen=True)
class WarmStart:
    """What was used of an older study.

    Attributes:
        study: Its name.
        values: Its trials that stand in the Optuna study with their values.
        settings: Those of its settings that are tried first, by dotted path, best first.
        left_out: What was not used, and why.
    """

    study: str
    values: int
    settings: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON-like data."""
        return {**asdict(self), "settings": list(self.settings), "left_out": list(self.left_out)}


def warm_start(study: optuna.Study, config: StudyConfig) -> WarmStart | None:
    """Use what matches of the older study that `config` names; None if it names none.

    Done once: when the study is taken up again, what was used stands in the Optuna study.

    Raises:
        ValueError: If there is no such study, or it has no trial that ended in order.
    """
    if config.search.warm_start is None:
        return None
    done = study.user_attrs.get(WARM_START)
    if done is None:
        done = _learn(study, config).to_mapping()
        study.set_user_attr(WARM_START, done)
    lists = {name: tuple(done[name]) for name in ("settings", "left_out")}
    return WarmStart(**{**done, **lists})


def _learn(study: optuna.Study, config: StudyConfig) -> WarmStart:
    store, old = _older(config)
    ended = ended_trials(store, old.objective, config.search.constraints, roles=SEARCHED)
    trials = [trial for trial in ended if trial.record.role == "search"]
    if not trials:
        raise ValueError(
            f"search.warm_start: no searched trial of {old.name} in {store.folder} has ended in "
            "order; name another study, or leave it out"
        )
    unlike = _other_costs(config, old)
    values = {} if unlike else _values(store, config, trials)
    known = {trial.user_attrs.get(WARM_START) for trial in study.get_trials(deepcopy=False)}
    told = Objectives.of(config)
    for key, (settings, score) in values.items():
        name, files = f"{old.name}/{key}", store.trial(key)
        end = files.end()
        assert end is not None
        if name not in known:
            found, beyond = told.values(score, end.seconds), told.excesses(files, end)
            _add(study, config, settings, found, beyond=beyond, name=name)
    return WarmStart(
        study=old.name,
        values=len(values),
        settings=() if values else _best_settings(config, trials),
        left_out=(*_left_out(config, old, trials), *_unused(trials, values, unlike)),
    )


def _older(config: StudyConfig) -> tuple[StudyStore, StudyConfig]:
    named = config.search.warm_start
    assert named is not None
    beside = str(config.folder.parent / named)
    store = store_at(beside if Path(beside).is_dir() else named)
    if config.is_on_s3 and "/" not in named:
        beside = f"{config.storage.rstrip('/')}/{named}"
        store = store_at(beside)
    content = store.read("study")
    if content is None:
        raise ValueError(
            f"search.warm_start: no study in {beside} nor in {named}; give the "
            "folder of a study, or the name of one beside this one"
        )
    return store, StudyConfig.from_mapping(content["config"])


def _in_space(config: StudyConfig, trial: Ended) -> dict[str, Any]:
    """What the space has of a trial's settings, searched there or not."""
    mapping = trial.record.config.to_mapping()
    found = {path: value_at(mapping, path) for path in config.space}
    return {
        path: value
        for path, value in found.items()
        if config.space.root[path].refusal(value) is None
        and all(value_at(mapping, p) == v for p, v in config.space.root[path].when.items())
    }


def _values(
    store: StudyStore, config: StudyConfig, trials: list[Ended]
) -> dict[str, tuple[dict[str, Any], float]]:
    """Key → (settings, score) of the trials whose score is one of this study's objective."""
    scores, found, has_cost = config.objective.score, {}, Objectives.of(config).has_cost
    if len(scores) > 1 or scores[0] in (ENSV, CONFIDENT_ENSV):
        return {}
    if config.search.sampler not in LEARNING_SAMPLERS:
        return {}
    for trial in trials:
        settings, kept = _in_space(config, trial), store.trial(trial.record.key).kept()
        value = kept.metrics.get(f"score/{scores[0]}") if kept else None
        if value is not None and trial.is_whole and not _others(config, trial, settings):
            is_worst = trial.causes and not has_cost
            found[trial.record.key] = (settings, UNTRUSTED_SCORE if is_worst else value)
    return found


def _other_costs(config: StudyConfig, old: StudyConfig) -> list[str]:
    """The resources that make costs of the two studies unlike, where the cost is an objective."""
    if not Objectives.of(config).has_cost:
        return []
    before, now = old.resources.to_mapping(), config.resources.to_mapping()
    return settings_difference(
        {"resources": {name: before[name] for name in _COSTLY}},
        {"resources": {name: now[name] for name in _COSTLY}},
    )


def _others(config: StudyConfig, trial: Ended, settings: Mapping[str, Any]) -> list[str]:
    """What sets a trial apart from the one that this study would run with these settings."""
    old = trial.record.config.model_copy(update={"seed": config.trial.seed})
    ours = apply_settings(config.trial, settings)
    return settings_difference(old.to_mapping(), ours.to_mapping())


def _add(
    study: optuna.Study,
    config: StudyConfig,
    settings: Mapping[str, Any],
    values: Sequence[float],
    *,
    beyond: Mapping[str, float],
    name: str,
) -> None:
    given, drawn_from = answers(config.space, settings), distributions(config.space)
    study.add_trial(
        optuna.trial.create_trial(
            values=values,
            params=given,
            distributions={each: drawn_from[each] for each in given},
            user_attrs={WARM_START: name},
            constraints=dict(beyond),
        )
    )


def _best_settings(config: StudyConfig, trials: list[Ended]) -> tuple[dict[str, Any], ...]:
    """The best settings by the older study's own objective, as far as the space has them."""
    search = config.search
    room = search.trials - 1 - len(search.enqueue)
    count = min(BEST_SETTINGS, room, max(1, int(LARGEST_SHARE * search.trials)))
    able = sorted((t for t in trials if not t.left_out), key=lambda t: (-t.is_whole, -t.score))
    found: list[dict[str, Any]] = []
    for trial in able:
        settings = _in_space(config, trial)
        if settings and settings not in found:
            found.append(settings)
    return tuple(found[:count])


def _left_out(config: StudyConfig, old: StudyConfig, trials: list[Ended]) -> tuple[str, ...]:
    lines = [
        f"{path}: searched there, but not here"
        for path in old.space
        if path not in config.space.root
    ]
    lines += [
        f"{path}: searched here, but not there"
        for path in config.space
        if path not in old.space.root
    ]
    outside = Counter(
        path
        for trial in trials
        for path in trial.record.settings
        if path in config.space.root and path not in _in_space(config, trial)
    )
    lines += [
        f"{path}: outside this study's space in {count} of {len(trials)} trials"
        for path, count in outside.items()
    ]
    return tuple(lines)


def _unused(
    trials: list[Ended], values: Mapping[str, Any], unlike: Sequence[str]
) -> tuple[str, ...]:
    """Why not all trials stand in the Optuna study with their values."""
    rule = "not comparable with this study's"
    if unlike:
        return (f"costs: {rule} ({'; '.join(unlike)}), so the best settings are tried first",)
    if not values:
        return (f"scores: {rule}, so the best settings are tried first",)
    if len(values) < len(trials):
        left = len(trials) - len(values)
        return (f"{left} of {len(trials)} trials: stopped early, or not alike",)
    return ()
