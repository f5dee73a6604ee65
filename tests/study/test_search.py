"""From search spaces to Optuna, and from Tune's results to Optuna's states."""

from __future__ import annotations

import json
from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from gam_ray.config import SearchConfig, SearchSpace, StudyConfig, apply_settings
from gam_ray.study.search import DefineByRun, HonestOptunaSearch, build_search

MakeConfig = Callable[..., StudyConfig]


def space_of(mapping: dict[str, object]) -> SearchSpace:
    return SearchSpace.model_validate_json(json.dumps(mapping))


def search_of(config: StudyConfig, **search: object) -> HonestOptunaSearch:
    return build_search(config.space, config.trial, SearchConfig(**search))


def test_proposals_are_settings_that_a_trial_accepts(make_config: MakeConfig) -> None:
    config = make_config()
    search = search_of(config)
    for number in range(30):
        settings = search.suggest(str(number))["settings"]
        adaptation = apply_settings(config.trial, settings).adaptation
        assert 0.1 <= adaptation.weight <= 10
        assert adaptation.layers
        assert set(adaptation.layers) <= {"conv1", "conv2", "fc3", "fc4"}


def test_a_subset_is_one_yes_or_no_a_name(make_config: MakeConfig) -> None:
    config = make_config()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    settings = DefineByRun(config.space, config.trial)(trial)["settings"]
    answers = {name: trial.params[f"adaptation.layers/{name}"] for name in ("conv1", "conv2")}
    assert {name for name, yes in answers.items() if yes} <= set(settings["adaptation.layers"])


def test_an_empty_subset_is_filled_up_to_its_minimum(make_config: MakeConfig) -> None:
    space = space_of({"adaptation.layers": {"subset": ["fc3", "fc4"], "min": 1}})
    trial = optuna.trial.FixedTrial(
        {"adaptation.layers/fc3": False, "adaptation.layers/fc4": False}
    )
    settings = DefineByRun(space, make_config().trial)(trial)["settings"]
    assert settings == {"adaptation.layers": ["fc4"]}


@pytest.mark.parametrize("kind", ["initial", "running"])
def test_a_condition_decides_whether_a_parameter_is_asked(
    make_config: MakeConfig, kind: str
) -> None:
    momentum = "adaptation.moments.momentum"
    space = space_of(
        {
            momentum: {"float": [0.0, 0.5], "when": {"adaptation.moments.kind": "running"}},
            "adaptation.moments.kind": {"choice": ["initial", "running"]},
        }
    )
    trial = optuna.trial.FixedTrial({"adaptation.moments.kind": kind, momentum: 0.25})
    settings = DefineByRun(space, make_config().trial)(trial)["settings"]
    assert (momentum in settings) == (kind == "running")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_equal_seeds_propose_alike_and_others_do_not(make_config: MakeConfig, sampler: str) -> None:
    def proposals(seed: int) -> list[object]:
        search = search_of(make_config(), sampler=sampler, seed=seed, trials=12)
        found = []
        for number in range(12):
            found.append(search.suggest(str(number)))
            result = {"score": 1 / (number + 1), "step": 40, "last": True}
            search.on_trial_complete(str(number), result)
        return found

    assert proposals(0) == proposals(0)
    assert proposals(0) != proposals(1)


def test_the_first_proposal_is_what_the_file_says_as_far_as_the_space_has_it(
    make_config: MakeConfig,
) -> None:
    base = apply_settings(
        make_config().trial,
        {
            "adaptation.layers": ["conv2", "fc4"],
            "adaptation.adversary": "lsgan",
            "adaptation.weight": 500.0,
            "optimizer.target_lr": 3e-4,
        },
    )
    space = space_of(
        {
            "adaptation.weight": {"log": [0.1, 10]},
            "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
            "adaptation.adversary": {"choice": ["gan", "lsgan"]},
            "adaptation.layer_weights.fc3": {"float": [0.5, 1.0]},
            "optimizer.target_lr": {"log": [1e-4, 1e-3]},
        }
    )
    search = build_search(space, base, SearchConfig(seed=0))
    first, second = (search.suggest(str(number))["settings"] for number in range(2))
    assert first.pop("adaptation.weight") != 500.0
    assert 0.5 <= first.pop("adaptation.layer_weights.fc3") <= 1
    assert first == {
        "adaptation.layers": ["conv2", "fc4"],
        "adaptation.adversary": "lsgan",
        "optimizer.target_lr": 3e-4,
    }
    assert second["optimizer.target_lr"] != 3e-4


def test_optuna_hears_how_trials_really_ended(make_config: MakeConfig) -> None:
    search = search_of(make_config())
    ends = {
        "whole": ({"score": 0.9, "step": 40, "last": True}, False),
        "stopped": ({"score": 0.5, "step": 10, "last": False}, False),
        "diverged": ({"score": float("nan"), "step": 20, "last": False}, False),
        "failed": (None, True),
    }
    for name, (result, error) in ends.items():
        search.suggest(name)
        if result:
            search.on_trial_result(name, result)
        search.on_trial_complete(name, result, error=error)
    trials = search.optuna_study.trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert trials[0].value == 0.9
    assert trials[1].intermediate_values == {10: 0.5}
