"""Population-based training: which networks go on, and with which settings, by a study's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from study_records import METRICS, votes

from gam_ray.config import SearchSpace, StudyConfig, apply_settings
from gam_ray.study.choosing import ended_trials, teachers
from gam_ray.study.generations import FACTORS, explored, next_generation
from gam_ray.study.results import pareto
from gam_ray.study.schedule import build_scheduler, rungs
from gam_ray.study.store import EndRecord, ReportRecord, Role, StudyStore, TrialRecord

MakeConfig = Callable[..., StudyConfig]
SPACE: dict[str, Any] = {
    "adaptation.weight": {"log": [0.1, 10]},
    "optimizer.target_lr": {"float": [1e-4, 1e-2]},
    "adaptation.layers": {"subset": ["fc3", "fc4"], "min": 1},
    "batch_size": {"int": [8, 64]},
}


@pytest.fixture
def config(make_config: MakeConfig) -> StudyConfig:
    return make_config(
        space=SPACE,
        search={"trials": 6},
        objective={"score": "class_ami"},
        schedule={"kind": "pbt", "generations": 3},
    )


class Population:
    """A study's folder with trials that have ended."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.store = StudyStore(config.folder)
        self._count = 0

    def add(self, settings: dict[str, Any], role: Role, score: float, **how: Any) -> TrialRecord:
        """One with this score; `state`, `shift` and `classes` say how else it went."""
        trial = apply_settings(self.config.trial, settings)
        record = TrialRecord(trial.key(), self._count, role, settings, trial)
        self._count += 1
        files = self.store.trial(record.key)
        files.create(record)
        metrics = {**METRICS, "score/class_ami": score, "guard/class_shift": how.get("shift", 0.0)}
        predicted = votes(*how.get("classes", (0, 1, 2, 0)))
        files.append_report(ReportRecord(trial.steps, metrics, 1.0), predicted)
        files.write_end(EndRecord(how.get("state", "finished"), trial.steps, 2.0, None, None))
        return record

    def search(self, scores: list[float], **how: Any) -> list[TrialRecord]:
        """The first generation."""
        return [
            self.add(
                {
                    "adaptation.weight": 1.0 + n,
                    "optimizer.target_lr": 1e-3,
                    "adaptation.layers": ["fc3"],
                    "batch_size": 8 + n,
                },
                "search",
                score,
                **how,
            )
            for n, score in enumerate(scores)
        ]


def test_the_worst_give_way_to_copies_of_the_best_with_other_numbers(config: StudyConfig) -> None:
    population = Population(config)
    first = population.search([0.5, 0.9, 0.1, 0.6, 0.2, 0.8])
    planned = next_generation(config, population.store, 2)
    assert len(planned) == 6
    parents = [settings["continues"] for settings in planned]
    kept = [0, 1, 3, 5]
    assert [parents[n] for n in kept] == [first[n].key for n in kept]
    assert {parents[2], parents[4]} <= {first[1].key, first[5].key}
    assert {settings["steps"] for settings in planned} == {2 * config.trial.steps}
    by_key = {record.key: record.settings for record in first}
    for number, settings in enumerate(planned):
        own = {k: v for k, v in settings.items() if k not in ("steps", "continues")}
        before = by_key[settings["continues"]]
        if number in kept:
            assert own == before
            continue
        assert own["adaptation.weight"] != before["adaptation.weight"]
        assert 0.1 <= own["adaptation.weight"] <= 10
        # What the source network, the layers and the batches are stays with the network.
        unchanged = ("adaptation.layers", "batch_size")
        assert [own[k] for k in unchanged] == [before[k] for k in unchanged]
        apply_settings(config.trial, settings)


def test_a_generation_follows_from_those_before_it_alone(config: StudyConfig) -> None:
    population = Population(config)
    population.search([0.5, 0.9, 0.1, 0.6, 0.2, 0.8])
    second = next_generation(config, population.store, 2)
    for number, settings in enumerate(second):
        population.add(settings, "generation", 0.1 * number)
    assert next_generation(config, population.store, 2) == second
    third = next_generation(config, population.store, 3)
    keys = {files.folder.name for files in population.store.trials()}
    assert {settings["continues"] for settings in third} <= keys
    assert {settings["steps"] for settings in third} == {3 * config.trial.steps}
    other = config.model_copy(update={"search": config.search.model_copy(update={"seed": 1})})
    assert next_generation(other, population.store, 2) != second


def test_copies_of_one_network_are_not_alike(make_config: MakeConfig) -> None:
    config = make_config(
        space={"adaptation.weight": {"log": [0.1, 10]}},
        search={"trials": 9},
        objective={"score": "class_ami"},
        schedule={"kind": "pbt", "generations": 2, "reduction_factor": 9},
    )
    population = Population(config)
    population.add({"adaptation.weight": 1.0}, "search", 0.9)
    for number in range(8):
        population.add({"adaptation.weight": 2.0 + number}, "search", 0.1, shift=0.9)
    planned = next_generation(config, population.store, 2)
    keys = {apply_settings(config.trial, settings).key() for settings in planned}
    assert len(keys) == len(planned) == 9


def test_a_network_cost_what_all_its_generations_took(config: StudyConfig) -> None:
    population = Population(config)
    population.search([0.5, 0.4, 0.3])
    for number in (2, 3):
        settings = next_generation(config, population.store, number)[0]
        newest = population.add(settings, "generation", 0.5 + 0.1 * number)
    ended = ended_trials(population.store, config.objective, {})
    front = {each["trial"]: each["cost"] for each in pareto(ended, config.resources)}
    assert front[newest.key] == 6.0
    assert sorted(front.values()) == [2.0, 4.0, 6.0]


def test_later_voters_do_not_change_what_a_generation_was(make_config: MakeConfig) -> None:
    config = make_config(
        space=SPACE,
        search={"trials": 4},
        objective={"score": "ensv"},
        schedule={"kind": "pbt", "reduction_factor": 2},
    )
    population = Population(config)
    for number, classes in enumerate([(0, 1, 2, 0), (0, 1, 2, 0), (0, 1, 2, 1), (2, 2, 1, 1)]):
        settings = {"adaptation.weight": 1.0 + number, "batch_size": 8}
        population.add(settings, "search", 0.5, classes=classes)
    second = next_generation(config, population.store, 2)
    for settings in second:
        population.add(settings, "generation", 0.5, classes=(2, 2, 1, 1))
    assert next_generation(config, population.store, 2) == second


@pytest.mark.parametrize("how", [{"state": "failed"}, {"shift": 0.9}])
def test_who_failed_or_is_distrusted_gives_way_however_it_scored(
    how: dict[str, Any], config: StudyConfig
) -> None:
    population = Population(config)
    good = population.search([0.5, 0.6, 0.4, 0.3])
    bad = population.add({"adaptation.weight": 9.0, "batch_size": 30}, "search", 0.99, **how)
    planned = next_generation(config, population.store, 2)
    assert len(planned) == 5
    parents = [settings["continues"] for settings in planned]
    assert bad.key not in parents
    assert parents[:4] == [record.key for record in good]


def test_where_no_trial_may_win_none_goes_on(config: StudyConfig) -> None:
    population = Population(config)
    population.search([0.5, 0.6, 0.4], state="failed")
    assert next_generation(config, population.store, 2) == []


def test_networks_of_all_generations_may_be_chosen_and_teach(config: StudyConfig) -> None:
    population = Population(config)
    population.search([0.5, 0.4, 0.3])
    settings = next_generation(config, population.store, 2)[0]
    newest = population.add(settings, "generation", 0.9)
    ended = ended_trials(population.store, config.objective, {})
    assert max(ended, key=lambda trial: trial.score).record == newest
    assert newest.name == "03 gaussian+gan fc3 to step 80"
    assert teachers(population.store, config.objective, {}, 1) == (newest.key,)


@given(weight=st.floats(0.1, 10), rate=st.floats(1e-4, 1e-2), seed=st.integers(0, 1000))
def test_numbers_are_multiplied_or_drawn_anew_within_the_space(
    weight: float, rate: float, seed: int
) -> None:
    space = SearchSpace.model_validate_json(json.dumps(SPACE))
    before = {"adaptation.weight": weight, "optimizer.target_lr": rate, "batch_size": 9}
    after, again = (explored(space, before, Random(seed)) for _ in range(2))  # noqa: S311
    assert after == again
    assert after["batch_size"] == 9
    assert 0.1 <= after["adaptation.weight"] <= 10
    assert 1e-4 <= after["optimizer.target_lr"] <= 1e-2


def test_most_numbers_are_multiplied() -> None:
    space = SearchSpace.model_validate_json(json.dumps(SPACE))
    before = {"adaptation.weight": 1.0, "optimizer.target_lr": 1e-3}
    found = [
        explored(space, before, Random(n))["adaptation.weight"]  # noqa: S311
        for n in range(400)
    ]
    multiplied = sum(value in FACTORS for value in found)
    assert 0.65 * 400 < multiplied < 0.85 * 400
    assert min(found) < 0.5
    assert max(found) > 2


def test_it_stops_no_trial_and_plans_all_generations(config: StudyConfig) -> None:
    assert rungs(config) == ()
    assert type(build_scheduler(config, None)).__name__ == "InTurn"
    assert config.planned_trials == 2 + 3 * 6 + 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"adaptation.adversary": {"choice": ["gan", "lsgan"]}}}, "a number of adapt"),
        ({"space": {**SPACE, "steps": {"int": [10, 40]}}}, "a space without steps"),
        ({"search": {"trials": 2}}, "at least schedule.reduction_factor trials"),
    ],
)
def test_what_cannot_go_on_is_refused(
    changes: dict[str, Any], said: str, make_config: MakeConfig
) -> None:
    study = {"space": SPACE, "search": {"trials": 6}, "schedule": {"kind": "pbt"}}
    with pytest.raises(ValidationError, match=said):
        make_config(**{**study, **changes})


def test_a_study_does_not_go_on_from_another(make_config: MakeConfig) -> None:
    trial = {**make_config().trial.to_mapping(), "continues": "abc"}
    with pytest.raises(ValidationError, match="continues is written by the study itself"):
        make_config(trial=trial)
