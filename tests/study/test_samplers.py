"""What every sampler must do with every kind of space."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from optuna.trial import TrialState
from study_records import METRICS, votes

from gam_ray.config import (
    StudyConfig,
    apply_settings,
    value_at,
)
from gam_ray.config.study import SamplerName
from gam_ray.study.samplers import CONSTRAINED_SAMPLERS, STARTUP_TRIALS, build_sampler
from gam_ray.study.search import REFUSED
from gam_ray.study.searching import start_search
from gam_ray.study.store import EndRecord, EndState, ReportRecord, StudyStore, TrialRecord

MakeConfig = Callable[..., StudyConfig]
SAMPLERS = get_args(SamplerName)
TRIALS = STARTUP_TRIALS + 4

SPACE = {
    "adaptation.moments.momentum": {
        "float": [0.0, 0.5],
        "when": {"adaptation.moments.kind": "running"},
    },
    "adaptation.moments.kind": {"choice": ["initial", "running"]},
    "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
    "adaptation.weight": {"log": [0.1, 10]},
    "adaptation.drift": {"float": [0.0, 2.0]},
    "batch_size": {"int": [8, 64]},
}
KNOWN = {"adaptation.weight": 0.25, "adaptation.layers": ["conv1", "fc4"], "batch_size": 21}
# Of every three trials one is stopped early, of every five one fails.
ENDS: dict[bool, EndState] = {True: "pruned", False: "finished"}


def settings_of(make: MakeConfig, sampler: str, seed: int = 0, **changes: Any) -> StudyConfig:
    search = {"sampler": sampler, "trials": TRIALS, "seed": seed, "enqueue": [KNOWN]}
    return make(**{"space": SPACE, "search": search, "name": f"{sampler}-{seed}", **changes})


def proposals(config: StudyConfig) -> list[dict[str, Any]]:
    """What is proposed in a whole study, whose trials end in all ways."""
    store = StudyStore(config.folder)
    search = start_search(config, store)
    found = []
    for number in range(search.trials):
        name = str(number)
        settings = search.searcher.suggest(name)["settings"]
        found.append(settings)
        trial = apply_settings(config.trial, settings)
        files = store.trial(trial.key())
        files.create(TrialRecord(trial.key(), number, "search", settings, trial))
        score = -((trial.adaptation.weight - 1) ** 2) - trial.adaptation.drift
        failed = number % 5 == 4
        result = None if failed else {"score": score, "step": 10}
        if result:
            search.searcher.on_trial_result(name, result)
        state = "failed" if failed else ENDS[number % 3 == 2]
        files.write_end(EndRecord(state, 10, 1.0))
        search.searcher.on_trial_complete(name, result, error=failed)
    states = [trial.state for trial in search.study.trials]
    assert TrialState.RUNNING not in states
    assert {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL} <= set(states)
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_in_the_space_and_begin_with_what_is_known(
    make_config: MakeConfig, sampler: str
) -> None:
    config = settings_of(make_config, sampler)
    found = proposals(config)
    assert len(found) == TRIALS
    for settings in found:
        assert ("adaptation.moments.momentum" in settings) == (
            settings["adaptation.moments.kind"] == "running"
        )
        for path, value in settings.items():
            assert config.space.root[path].refusal(value) is None
    base = config.trial.to_mapping()
    for path, value in found[0].items():
        assert value == value_at(base, path)
    assert {path: found[1][path] for path in KNOWN} == KNOWN
    assert len({json.dumps(each, sort_keys=True) for each in found}) == TRIALS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_seeds_propose_alike_and_others_do_not(
    make_config: MakeConfig, sampler: str, tmp_path: Path
) -> None:
    first = proposals(settings_of(make_config, sampler))
    again = proposals(settings_of(make_config, sampler, storage=str(tmp_path / "again")))
    other = proposals(settings_of(make_config, sampler, seed=1))
    assert first == again
    assert first[2:] != other[2:]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_life_that_follows_does_not_repeat_the_proposals(
    make_config: MakeConfig, sampler: str
) -> None:
    config = settings_of(make_config, sampler)
    longer = config.model_copy(
        update={"search": config.search.model_copy(update={"trials": TRIALS + 3})}
    )
    first, further = proposals(config), None
    store = StudyStore(config.folder)
    # What these trials predicted is not at hand; to the search they are failed ones.
    for files in store.trials():
        files.write_end(EndRecord("failed", 10, 1.0))
    search = start_search(longer, store)
    further = [search.searcher.suggest(str(n))["settings"] for n in range(search.trials)]
    assert len(further) == 3
    assert all(settings not in first for settings in further)
    assert [trial.number for trial in search.study.trials] == list(range(len(search.study.trials)))


def test_only_qmc_keeps_its_seed_in_a_life_that_follows() -> None:
    from gam_ray.config import SearchConfig

    for sampler in SAMPLERS:
        config = SearchConfig(sampler=sampler)
        first, later = (build_sampler(config, known=known) for known in (0, 7))
        seeds = [_state(each) for each in (first, later)]
        assert (seeds[0] == seeds[1]) == (sampler == "qmc"), sampler


# Long enough to see it: a model tells at once, six generations little by little.
TRIALS_TO_LEARN = {"tpe": 22, "gp": 14, "nsga2": 60}
PLAIN_SPACE = {
    "adaptation.weight": {"float": [0.0, 10.0]},
    "adaptation.drift": {"float": [0.0, 2.0]},
}


def weights(config: StudyConfig) -> list[float]:
    """The weights proposed where a greater one scores better and is also what is reported."""
    store = StudyStore(config.folder)
    search, found = start_search(config, store), []
    for number in range(search.trials):
        settings = search.searcher.suggest(str(number))["settings"]
        trial = apply_settings(config.trial, settings)
        found.append(trial.adaptation.weight)
        files = store.trial(trial.key())
        files.create(TrialRecord(trial.key(), number, "search", settings, trial))
        metrics = {**METRICS, "loss/target": found[-1]}
        files.append_report(ReportRecord(40, metrics, 1.0), votes(0, 1, 2))
        files.write_end(EndRecord("finished", 40, 1.0))
        search.searcher.on_trial_complete(str(number), {"score": found[-1], "step": 40})
    run = [trial for trial in search.study.trials if REFUSED not in trial.user_attrs]
    assert [trial.value for trial in run] == found
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_constraints_are_learned_or_change_nothing(
    make_config: MakeConfig, sampler: str, caplog: pytest.LogCaptureFixture
) -> None:
    search = {"sampler": sampler, "trials": TRIALS_TO_LEARN.get(sampler, TRIALS)}
    bounds = {"loss/target": {"max": 3}, "seconds": {"max": 60}, "loss/none": {"min": 1}}
    free = weights(make_config(space=PLAIN_SPACE, search=search, name="free"))
    assert "search.constraints" not in caplog.text
    search["constraints"] = bounds
    held = weights(make_config(space=PLAIN_SPACE, search=search, name="held"))
    assert free[:STARTUP_TRIALS] == held[:STARTUP_TRIALS]
    is_told = "without regard to search.constraints" in caplog.text
    assert is_told == (sampler not in CONSTRAINED_SAMPLERS)
    if sampler not in CONSTRAINED_SAMPLERS:
        assert held == free
        return
    beyond = [
        sum(max(0.0, weight - 3) for weight in each[STARTUP_TRIALS:]) for each in (free, held)
    ]
    assert beyond[1] < beyond[0] / 2, beyond


def _state(sampler: Any) -> Any:
    if hasattr(sampler, "_seed"):
        return sampler._seed
    rng = getattr(sampler, "_rng", None) or getattr(sampler, "_cma_rng", None)
    return rng.rng.get_state()[1].tolist()
