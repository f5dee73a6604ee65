"""From search spaces to Optuna, and from Tune's results to Optuna's states."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from study_records import METRICS, votes

from gam_ray.config import SearchConfig, SearchSpace, StudyConfig, apply_settings
from gam_ray.study.broker import UNTRUSTED_SCORE
from gam_ray.study.search import KEY, NAME, DefineByRun, StudySearcher, answers, distributions
from gam_ray.study.searching import start_search
from gam_ray.study.store import (
    EndRecord,
    EndState,
    ReportRecord,
    StudyStore,
    TrialFiles,
    TrialRecord,
)

MakeConfig = Callable[..., StudyConfig]

EVERY_KIND = {
    "adaptation.moments.momentum": {
        "float": [0.0, 0.5],
        "when": {"adaptation.moments.kind": "running"},
    },
    "adaptation.moments.kind": {"choice": ["initial", "running"]},
    "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 2},
    "adaptation.weight": {"log": [0.1, 10]},
    "adaptation.drift": {"float": [0.0, 2.0]},
    "batch_size": {"int": [8, 64]},
}


def space_of(mapping: dict[str, object]) -> SearchSpace:
    return SearchSpace.model_validate_json(json.dumps(mapping))


def search_of(config: StudyConfig, **search: object) -> StudySearcher:
    config = config.model_copy(update={"search": SearchConfig(**search)})
    return start_search(config, StudyStore(config.folder)).searcher


def store_trial(
    store: StudyStore, config: StudyConfig, number: int, settings: dict[str, object]
) -> TrialFiles:
    trial = apply_settings(config.trial, settings)
    files = store.trial(trial.key())
    files.create(TrialRecord(trial.key(), number, "search", settings, trial))
    return files


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


def test_what_a_space_is_drawn_from_is_what_optuna_is_asked(make_config: MakeConfig) -> None:
    space = space_of(EVERY_KIND)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        settings = DefineByRun(space, make_config().trial)(trial)["settings"]
        known = distributions(space)
        assert {name: known[name] for name in trial.params} == trial.distributions
        given = answers(space, settings)
        again = DefineByRun(space, make_config().trial)(optuna.trial.FixedTrial(given))
        assert again["settings"] == settings


def test_the_first_proposal_is_what_the_file_says_as_far_as_the_space_has_it(
    make_config: MakeConfig,
) -> None:
    base = apply_settings(
        make_config().trial,
        {
            "adaptation.layers": ["conv2", "fc4"],
            "adaptation.adversary": "lsgan",
            "adaptation.weight": 500.0,
            "adaptation.layer_weights": {"fc3": 0.1},
            "optimizer.target_lr": 3e-4,
        },
    )
    space = {
        "adaptation.weight": {"log": [0.1, 10]},
        "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
        "adaptation.adversary": {"choice": ["gan", "lsgan"]},
        "adaptation.layer_weights.fc3": {"float": [0.5, 1.0]},
        "optimizer.target_lr": {"log": [1e-4, 1e-3]},
    }
    search = search_of(make_config(trial=base.to_mapping(), space=space))
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
    config = make_config()
    search, store = search_of(config), StudyStore(config.folder)
    ends: dict[str, tuple[EndState | None, dict[str, object] | None, bool]] = {
        "whole": ("finished", {"score": 0.9, "step": 40}, False),
        "stopped": ("pruned", {"score": 0.5, "step": 10}, False),
        "diverged": ("failed", {"score": float("nan"), "step": 20}, True),
        "failed": ("failed", None, True),
        "cut off": (None, {"score": 0.7, "step": 20}, True),
        "not heard of": ("finished", None, True),
    }
    for number, (name, (end, result, error)) in enumerate(ends.items()):
        settings = search.suggest(name)["settings"]
        files = store_trial(store, config, number, settings)
        if result:
            search.on_trial_result(name, result)
            search.on_trial_result(name, result)  # as a relay that was started again has it
        if end:
            files.write_end(EndRecord(end, 40, 1.0))
        search.on_trial_complete(name, result, error=error)
    trials = search.optuna_study.trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.RUNNING,
    ]
    assert trials[0].value == 0.9
    assert trials[1].intermediate_values == {10: 0.5}
    names = [files.record().name for files in store.trials()]
    keys = [files.record().key for files in store.trials()]
    assert [trial.user_attrs[KEY] for trial in trials] == keys
    assert [trial.user_attrs[NAME] for trial in trials[:5]] == names[:5]


def test_no_settings_are_proposed_twice_until_none_are_left(make_config: MakeConfig) -> None:
    space = {
        "adaptation.adversary": {"choice": ["gan", "lsgan", "inverted"]},
        "adaptation.layers": {"subset": ["fc3", "fc4"], "min": 1},
    }
    search = search_of(make_config(space=space), trials=20)
    found = []
    for number in range(20):
        proposal = search.suggest(str(number))
        if proposal == Searcher.FINISHED:
            break
        found.append(json.dumps(proposal, sort_keys=True))
    assert len(set(found)) == len(found) == 3 * 3


def test_what_tune_keeps_of_the_search_holds_no_address(make_config: MakeConfig) -> None:
    search = search_of(make_config())
    assert b"optuna.db" not in pickle.dumps(search)


def test_a_life_that_follows_finds_what_the_storage_says(make_config: MakeConfig) -> None:
    config = make_config(objective={"score": "class_ami"})
    first, store = search_of(config), StudyStore(config.folder)
    ends: list[tuple[EndState | None, float, float]] = [
        ("finished", 0.3, 0.0),
        ("finished", 0.8, 0.9),  # collapsed
        ("pruned", 0.5, 0.0),
        (None, 0.6, 0.0),
    ]
    for number, (end, score, shift) in enumerate(ends):
        settings = first.suggest(str(number))["settings"]
        files = store_trial(store, config, number, settings)
        metrics = {**METRICS, "score/class_ami": score, "guard/class_shift": shift}
        files.append_report(ReportRecord(20, metrics, 1.0), votes(0, 1, 2))
        if end:
            files.write_end(EndRecord(end, 20, 1.0))
    unheard = first.suggest("4")["settings"]
    further = {"trials": 9, "sampler": "tpe"}
    config = config.model_copy(update={"search": SearchConfig(**further)})
    search = start_search(config, store)
    heard = [(t.state, t.value, t.intermediate_values) for t in search.study.trials]
    assert heard == [
        (TrialState.COMPLETE, 0.3, {20: 0.3}),
        (TrialState.COMPLETE, UNTRUSTED_SCORE, {20: UNTRUSTED_SCORE}),
        (TrialState.PRUNED, 0.5, {20: 0.5}),
        (TrialState.RUNNING, None, {}),
        (TrialState.RUNNING, None, {}),
    ]
    assert [(each.by_step) for each in search.ended] == [
        {20: 0.3},
        {20: UNTRUSTED_SCORE},
        {20: 0.5},
    ]
    assert search.begun == {store.trials()[3].record().key: 20}
    assert search.trials == 9 - 3
    again = [search.searcher.suggest(f"again-{number}")["settings"] for number in range(2)]
    assert again == [store.trials()[3].record().settings, unheard]
    # Its end is heard of under the same trial, and those that Tune did not hear of are settled.
    files = store.trials()[3]
    search.searcher.on_trial_result("again-0", {"score": 0.6, "step": 20})
    files.write_end(EndRecord("finished", 20, 1.0))
    search.searcher.on_trial_complete("again-0", {"score": 0.6, "step": 20})
    lost = store_trial(store, config, 4, unheard)
    lost.write_end(EndRecord("failed", 0, 1.0))
    search.settle()
    states = [trial.state for trial in search.study.trials]
    assert states[3:] == [TrialState.COMPLETE, TrialState.FAIL]
    assert search.study.trials[3].value == 0.6


def test_optuna_knows_constraints_as_the_storage_does(make_config: MakeConfig) -> None:
    """Heard at the end, found by a life that follows, or made again with a new database."""
    bounds = {"score/source_accuracy": {"min": 0.8}, "seconds": {"min": 2, "max": 10}}
    search = {"trials": 9, "constraints": {**bounds, "loss/discriminator/fc3": {"max": 1}}}
    config = make_config(objective={"score": "class_ami"}, search=search)
    store = StudyStore(config.folder)
    searcher = start_search(config, store).searcher
    ends: list[tuple[EndState, float, float]] = [
        ("finished", 0.9, 8.0),
        ("pruned", 0.6, 15.0),
        ("finished", float("nan"), 1.0),
        ("failed", 0.5, 1.0),
    ]
    for number, (end, accuracy, seconds) in enumerate(ends):
        settings = searcher.suggest(str(number))["settings"]
        files = store_trial(store, config, number, settings)
        metrics = {**METRICS, "score/source_accuracy": accuracy}
        files.append_report(ReportRecord(10, metrics, 1.0), votes(0, 1, 2))
        # A later report that is not kept is not what the trial is held to.
        worse = {**metrics, "score/source_accuracy": 0.0}
        files.append_report(ReportRecord(20, worse, 2.0, kept=False), votes(0, 1, 2))
        files.write_end(EndRecord(end, 20, seconds))
        if number != 1:
            searcher.on_trial_complete(str(number), {"score": 0.5, "step": 20})
    by_hand = [
        [(0.8 - 0.9) / 0.8, (2 - 8) / 2, (8 - 10) / 10, -1],
        [(0.8 - 0.6) / 0.8, (2 - 15) / 2, (15 - 10) / 10, -1],
        [1e6, (2 - 1) / 2, (1 - 10) / 10, -1],
        [],
    ]
    rules = [
        "score/source_accuracy >= 0.8",
        "seconds >= 2",
        "seconds <= 10",
        "loss/discriminator/fc3 <= 1",
    ]
    wanted = [pytest.approx(dict(zip(rules, each, strict=False))) for each in by_hand]
    heard = [trial.constraints for trial in searcher.optuna_study.trials]
    assert heard == [wanted[0], {}, *wanted[2:]]
    assert [t.constraints for t in start_search(config, store).study.trials[:4]] == wanted
    (config.folder / "optuna.db").unlink()
    assert [t.constraints for t in start_search(config, store).study.trials[:4]] == wanted
