"""What a study learns from an older one, whose space may be another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from study_records import METRICS, votes

from gam_ray.config import StudyConfig, apply_settings
from gam_ray.study.broker import UNTRUSTED_SCORE
from gam_ray.study.optuna_study import WARM_START
from gam_ray.study.searching import Search, start_search
from gam_ray.study.store import EndRecord, EndState, ReportRecord, StudyStore, TrialRecord

MakeConfig = Callable[..., StudyConfig]

OLD_SPACE = {
    "adaptation.weight": {"log": [0.1, 100]},
    "adaptation.layers": {"subset": ["conv1", "fc3", "fc4"], "min": 1},
    "optimizer.target_lr": {"log": [1e-5, 1e-2]},
}
SPACE = {
    "adaptation.weight": {"log": [0.1, 10]},
    "adaptation.layers": {"subset": ["conv1", "fc3", "fc4"], "min": 1},
    "adaptation.drift": {"float": [0.0, 2.0]},
}
# (weight, class_ami, how it ended, distance of the classes); the third is distrusted.
OLD_TRIALS: list[tuple[float, float, EndState, float]] = [
    (0.5, 0.3, "finished", 0.0),
    (2.0, 0.8, "finished", 0.0),
    (4.0, 0.9, "finished", 0.9),
    (8.0, 0.7, "pruned", 0.0),
    (50.0, 0.6, "finished", 0.0),
    (6.0, 0.5, "failed", 0.0),
]


def older_study(make: MakeConfig, *, rate: float | None = None, **changes: Any) -> StudyConfig:
    old = make(name="older", space=OLD_SPACE, objective={"score": "class_ami"}, **changes)
    store = StudyStore(old.folder)
    store.write("study", {"key": old.key(), "config": old.to_mapping(), "trials": 9})
    for number, (weight, score, state, shift) in enumerate(OLD_TRIALS):
        settings: dict[str, Any] = {
            "adaptation.weight": weight,
            "adaptation.layers": ["fc3"],
            "optimizer.target_lr": rate or old.trial.optimizer.target_lr,
        }
        trial = apply_settings(old.trial, settings)
        files = store.trial(trial.key())
        files.create(TrialRecord(trial.key(), number, "search", settings, trial))
        metrics = {**METRICS, "score/class_ami": score, "guard/class_shift": shift}
        metrics |= {"score/ensv": score, "score/confident_ensv": score}
        files.append_report(ReportRecord(40, metrics, 1.0), votes(0, 1, 2, 0))
        files.write_end(EndRecord(state, 40, 2.0))
    return old


def start(
    make: MakeConfig, objective: Any = "class_ami", resources: Any = None, **search: Any
) -> Search:
    given = {"trials": 12, "warm_start": "older", **search}
    config = make(
        name="newer",
        space=SPACE,
        objective={"score": objective},
        search=given,
        resources=resources or {},
    )
    return start_search(config, StudyStore(config.folder))


def taken(search: Search) -> list[tuple[float, float | None]]:
    trials = [trial for trial in search.study.trials if WARM_START in trial.user_attrs]
    assert all(set(trial.params) == _names() for trial in trials)
    return [(trial.params["adaptation.weight"], trial.value) for trial in trials]


def _names() -> set[str]:
    layers = {f"adaptation.layers/{name}" for name in ("conv1", "fc3", "fc4")}
    return layers | {"adaptation.weight", "adaptation.drift"}


def test_values_of_the_same_function_stand_as_trials(make_config: MakeConfig) -> None:
    older_study(make_config)
    search = start(make_config)
    assert taken(search) == [(0.5, 0.3), (2.0, 0.8), (4.0, UNTRUSTED_SCORE)]
    assert search.trials == 12  # what was learned is no trial of this study
    warm = search.warm_start
    assert warm is not None
    assert (warm.study, warm.values, warm.settings) == ("older", 3, ())
    assert set(warm.left_out) == {
        "optimizer.target_lr: searched there, but not here",
        "adaptation.drift: searched here, but not there",
        "adaptation.weight: outside this study's space in 1 of 5 trials",
        "2 of 5 trials: stopped early, or not alike",
    }


@pytest.mark.parametrize("objective", ["ensv", "confident_ensv", ["class_ami", "entropy"]])
def test_scores_that_are_the_crowds_are_not_taken_but_the_best_settings_tried(
    make_config: MakeConfig, objective: Any
) -> None:
    older_study(make_config)
    search = start(make_config, objective)
    assert taken(search) == []
    found = [search.searcher.suggest(str(number))["settings"] for number in range(4)]
    # After the trial section's own: the best by the older study, whole ones before stopped ones;
    # of the one outside the space, what is in it. A quarter of twelve.
    assert [each["adaptation.weight"] for each in found[1:3]] == [
        2.0,
        found[2]["adaptation.weight"],
    ]
    warm = search.warm_start
    assert warm is not None
    assert [each.get("adaptation.weight") for each in warm.settings] == [2.0, None, 0.5]
    assert found[3]["adaptation.weight"] == 0.5
    assert all(each["adaptation.layers"] == ["fc3"] for each in found[1:])


@pytest.mark.parametrize(
    ("changes", "search"),
    [
        ({"rate": 1e-3}, {}),  # a setting that this study has otherwise
        ({"trial": {"task": {"source": "mnist", "target": "usps"}, "steps": 40}}, {}),
        ({}, {"sampler": "nsga2"}),  # which learns nothing of given trials
    ],
)
def test_values_of_another_function_or_for_nobody_are_not_taken(
    make_config: MakeConfig, changes: dict[str, Any], search: dict[str, Any]
) -> None:
    older_study(make_config, **changes)
    found = start(make_config, **search)
    assert taken(found) == []
    assert found.warm_start is not None
    assert len(found.warm_start.settings) == 3


def test_it_is_learned_once(make_config: MakeConfig) -> None:
    old = older_study(make_config)
    first = start(make_config)
    before = len(first.study.trials)
    again = start(make_config)
    assert (again.warm_start, len(again.study.trials)) == (first.warm_start, before)
    (old.folder / "study.json").unlink()  # needed no more
    assert start(make_config).warm_start == first.warm_start


def test_what_cannot_be_learned_from_is_named(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"search.warm_start: no study in .*older"):
        start(make_config)
    old = make_config(name="older")
    StudyStore(old.folder).write("study", {"key": old.key(), "config": old.to_mapping()})
    with pytest.raises(ValueError, match="no searched trial of older"):
        start(make_config)


def test_what_an_older_trial_violates_here_is_known(make_config: MakeConfig) -> None:
    older_study(make_config)
    search = start(make_config, constraints={"score/class_ami": {"min": 0.4}})
    known = [trial for trial in search.study.trials if WARM_START in trial.user_attrs]
    excesses = [trial.constraints["score/class_ami >= 0.4"] for trial in known]
    assert excesses == pytest.approx([(0.4 - score) / 0.4 for score in (0.3, 0.8, 0.9)])


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_score_and_cost_of_the_older_trials_are_taken(
    make_config: MakeConfig, sampler: str
) -> None:
    """An older study of the score alone will do: its trials' ends say what they took."""
    gpus = {"workers": 2, "gpus_per_worker": 1.0}
    older_study(make_config, resources=gpus)
    search = start(make_config, sampler=sampler, objectives=["score", "cost"], resources=gpus)
    known = [trial for trial in search.study.trials if WARM_START in trial.user_attrs]
    assert [(t.values, t.constraints) for t in known] == [
        ([0.3, 4.0], {"trusted": -1}),
        ([0.8, 4.0], {"trusted": -1}),
        ([0.9, 4.0], {"trusted": 1}),  # with its true score
    ]


def test_costs_of_other_resources_are_not_taken_but_the_best_settings_tried(
    make_config: MakeConfig,
) -> None:
    older_study(make_config, resources={"workers": 2})
    both = {"objectives": ["score", "cost"]}
    search = start(make_config, **both)
    assert taken(search) == []
    assert search.warm_start is not None
    assert len(search.warm_start.settings) == 3
    assert search.warm_start.left_out[-1] == (
        "costs: not comparable with this study's (resources.workers: 2 → 1), so the best settings "
        "are tried first"
    )


def test_resources_do_not_matter_where_cost_is_no_objective(make_config: MakeConfig) -> None:
    older_study(make_config, resources={"workers": 2})
    assert len(taken(start(make_config))) == 3


def test_settings_that_violate_a_constraint_here_are_not_tried_first(
    make_config: MakeConfig,
) -> None:
    older_study(make_config)
    found = start(make_config, "ensv", constraints={"score/ensv": {"max": 0.7}}).warm_start
    assert found is not None
    assert [each.get("adaptation.weight") for each in found.settings] == [None, 0.5, 8.0]
