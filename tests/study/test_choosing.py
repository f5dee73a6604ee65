"""What a study ends with: finalists, fresh seeds, teachers and the choice, from its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from study_records import METRICS, votes
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import StudyConfig, TrialConfig, apply_settings
from gam_ray.study import results
from gam_ray.study.choosing import (
    Ended,
    choose_trial,
    ended_trials,
    finalists,
    fresh_seeds,
    teachers,
)
from gam_ray.study.store import EndRecord, ReportRecord, Role, StudyStore, TrialRecord
from gam_ray.study.study import _note

MakeConfig = Callable[..., StudyConfig]


@dataclass
class Folder:
    """A study's folder that tests fill with trials that have ended."""

    config: StudyConfig
    store: StudyStore = field(init=False)
    count: int = 0
    searched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = StudyStore(self.config.folder)
        content = {"key": self.config.key(), "config": self.config.to_mapping(), "trials": 9}
        self.store.write("study", content)

    def add(
        self,
        score: float,
        *,
        role: Role = "search",
        weight: float | None = None,
        seed: int = 0,
        state: Any = "finished",
        shift: float = 0.0,
        oracle: float = 0.5,
        classes: Sequence[int] = (0, 1, 2, 0),
        seconds: float = 2.0,
        **reported: float,
    ) -> str:
        """A trial whose objective is `score`; its key."""
        trial = self._config_of(role, weight, seed)
        record = TrialRecord(trial.key(), self.count, role, {"adaptation.weight": weight}, trial)
        self.count += 1
        if role in ("search", "again") and not shift and not reported:
            self.searched.append(record.key)
        files = self.store.trial(record.key)
        files.create(record)
        metrics = {**METRICS, "score/class_ami": score, "guard/class_shift": shift}
        metrics |= {f"score/{name}": value for name, value in reported.items()}
        files.append_report(ReportRecord(40, metrics, 1.0), votes(*classes))
        files.write_end(EndRecord(state, 40, seconds, None, {"test": oracle}))
        return record.key

    def _config_of(self, role: Role, weight: float | None, seed: int) -> TrialConfig:
        base = self.config.trial
        if role == "student":
            student = {"student": {"teachers": self.searched or ["a"]}, "adaptation.kind": "none"}
            return apply_settings(base, student)
        if role in ("no adaptation", "gaussian"):
            return base.baseline("none" if role == "no adaptation" else "gaussian")
        settings = {"adaptation.weight": weight or self.count + 1.0, "seed": seed}
        return apply_settings(base, settings)

    @property
    def ended(self) -> list[Ended]:
        return ended_trials(self.store, self.config.objective, self.config.search.constraints)

    @property
    def finalists(self) -> list[Ended]:
        return finalists(self.store, self.config.objective, self.config.search.constraints)

    def teachers(self, count: int) -> tuple[str, ...]:
        config = self.config
        return teachers(self.store, config.objective, config.search.constraints, count)

    @property
    def choice(self) -> str:
        return choose_trial(self.ended).key


@pytest.fixture
def folder(make_config: MakeConfig) -> Folder:
    return Folder(make_config(objective={"score": "class_ami", "finalists": 2, "seeds": 3}))


def test_finalists_are_the_best_whole_trusted_trials_of_the_search(folder: Folder) -> None:
    folder.add(0.99, role="no adaptation")
    folder.add(0.98, state="pruned")
    folder.add(0.97, shift=0.9)
    folder.add(0.96, state="failed")
    third, first, second = folder.add(0.3), folder.add(0.5), folder.add(0.4)
    found = [each.record.key for each in folder.finalists]
    assert found == [first, second]
    assert third not in found


def test_finalists_stay_the_same_while_they_are_run_again(make_config: MakeConfig) -> None:
    folder = Folder(make_config(objective={"score": "ensv", "finalists": 1, "seeds": 3}))
    first = folder.add(0, weight=1.0, classes=(0, 1, 2, 0))
    folder.add(0, weight=2.0, classes=(0, 1, 2, 1))
    folder.add(0, weight=3.0, classes=(0, 1, 0, 0))
    before = folder.finalists
    assert [each.record.key for each in before] == [first]
    # Two more votes for the second would make it the consensus.
    for seed in (1, 2):
        folder.add(0, role="again", weight=2.0, seed=seed, classes=(0, 1, 2, 1))
    after = folder.finalists
    assert [each.record.key for each in after] == [first]


def test_fresh_seeds_are_new_each_and_the_same_every_time(folder: Folder) -> None:
    record = folder.store.trial(folder.add(0.5, seed=7)).record()
    seeds = fresh_seeds(record, 4)
    assert len({7, *seeds}) == 4
    assert seeds == fresh_seeds(record, 4)
    assert seeds[:2] == fresh_seeds(record, 3)
    assert fresh_seeds(record, 1) == []


def test_the_best_mean_over_seeds_wins_and_not_one_lucky_run(folder: Folder) -> None:
    folder.add(0.1, role="no adaptation")
    folder.add(0.99, weight=1.0)
    for seed, score in ((1, 0.2), (2, 0.3)):
        folder.add(score, role="again", weight=1.0, seed=seed)
    folder.add(0.6, weight=2.0)
    best = folder.add(0.7, role="again", weight=2.0, seed=1)
    folder.add(0.65, role="again", weight=2.0, seed=2, oracle=0.9)
    choice = choose_trial(folder.ended)
    assert choice.key == best
    assert choice.mean == pytest.approx(0.65)
    assert choice.std == pytest.approx(0.05)
    assert len(choice.runs) == 3
    told = results.best(folder.store)["seeds"]
    oracle = [0.5, 0.5, 0.9]
    assert told["oracle"]["test"]["mean"] == pytest.approx(np.mean(oracle))
    assert told["oracle"]["test"]["std"] == pytest.approx(np.std(oracle, ddof=1))


def test_a_setting_that_was_not_run_again_cannot_win_where_others_were(folder: Folder) -> None:
    folder.add(0.9, weight=1.0)
    folder.add(0.5, weight=2.0)
    again = folder.add(0.6, role="again", weight=2.0, seed=1)
    assert folder.choice == again


def test_without_further_seeds_the_best_run_wins(folder: Folder) -> None:
    folder.add(0.1, role="no adaptation")
    best = folder.add(0.9, weight=1.0)
    folder.add(0.5, weight=2.0)
    assert folder.choice == best


@pytest.mark.parametrize(("scores", "adapts"), [((0.5, 0.9), False), ((0.68, 0.72), True)])
def test_what_is_not_better_by_more_than_its_spread_is_not_adapted(
    folder: Folder, scores: tuple[float, float], adapts: bool
) -> None:
    none = folder.add(0.6, role="no adaptation")
    folder.add(scores[0], weight=1.0)
    folder.add(scores[1], role="again", weight=1.0, seed=1)
    assert (folder.choice != none) == adapts
    choice = results.best(folder.store)
    assert choice["adapt"] == adapts
    assert (results.DO_NOT_ADAPT in _note(choice)) is not adapts


def test_the_source_network_wins_a_tie(folder: Folder) -> None:
    none = folder.add(0.6, role="no adaptation")
    folder.add(0.6, weight=1.0)
    assert folder.choice == none


def test_a_student_may_win_on_one_run_and_has_no_vote(make_config: MakeConfig) -> None:
    folder = Folder(make_config(objective={"score": "ensv", "finalists": 1, "seeds": 2}))
    folder.add(0, role="no adaptation", classes=(2, 2, 2, 2))
    folder.add(0, weight=1.0, classes=(0, 1, 2, 1))
    folder.add(0, role="again", weight=1.0, seed=1, classes=(0, 1, 1, 0))
    folder.add(0, weight=2.0, classes=(0, 1, 2, 0))
    student = folder.add(0, role="student", classes=(0, 1, 2, 0))
    assert folder.choice == student
    (found,) = (t for t in folder.ended if t.record.key == student)
    # The others' votes are 0, 1, 2, 0; with the student's it would be the same, without theirs not.
    assert found.score == 1.0


@pytest.mark.parametrize(
    ("classes", "shift", "wins"),
    [
        ((0, 1, 2, 0), 0.0, True),  # all of what its teachers say together
        ((0, 1, 2, 1), 0.0, True),  # as much as the best run
        ((0, 2, 2, 1), 0.0, False),
        ((0, 1, 2, 0), 0.9, False),  # the guard distrusts it
    ],
)
def test_a_student_is_chosen_if_it_says_what_its_teachers_say(
    folder: Folder, classes: tuple[int, ...], shift: float, wins: bool
) -> None:
    folder.add(0.1, role="no adaptation")
    best = folder.add(0.9, weight=1.0, classes=(0, 1, 2, 2))
    folder.add(0.8, weight=2.0, classes=(0, 1, 2, 0))
    folder.add(0.7, weight=3.0, classes=(0, 1, 1, 0))
    # Its own score is no matter: it is as unsure as its teachers differ.
    student = folder.add(0.2, role="student", classes=classes, shift=shift)
    assert folder.choice == (student if wins else best)


@pytest.mark.parametrize(("score", "wins"), [(0.8, True), (0.6, False)])
def test_where_labels_choose_the_student_is_measured_by_them(
    folder: Folder, score: float, wins: bool
) -> None:
    """Though it says other than its teachers, and their spread speaks for the source network."""
    none = folder.add(0.6, role="no adaptation")
    folder.add(0.5, weight=1.0)
    folder.add(0.9, role="again", weight=1.0, seed=1)
    student = folder.add(score, role="student", classes=(1, 2, 0, 1))
    trials = folder.ended
    assert choose_trial(trials).key == none
    assert choose_trial(trials, by_oracle=True).key == (student if wins else none)


def test_no_student_is_chosen_where_nothing_is_better_than_the_source_network(
    folder: Folder,
) -> None:
    none = folder.add(0.9, role="no adaptation")
    folder.add(0.5, weight=1.0)
    folder.add(0.4, weight=2.0)
    folder.add(0.95, role="student")
    assert folder.choice == none


def test_teachers_are_the_best_trusted_settings_one_run_of_each(folder: Folder) -> None:
    none = folder.add(0.2, role="no adaptation")
    first = folder.add(0.8, weight=1.0)
    folder.add(0.7, role="again", weight=1.0, seed=1)
    second = folder.add(0.6, weight=2.0, state="pruned")
    folder.add(0.95, weight=3.0, shift=0.9)
    assert folder.teachers(6) == (first, second, none)
    assert folder.teachers(1) == (first,)
    folder.add(0.99, role="student")
    assert folder.teachers(6) == (first, second, none)


CONSTRAINTS = {"score/source_accuracy": {"min": 0.8}, "seconds": {"max": 100}}


@pytest.fixture
def constrained(make_config: MakeConfig) -> Folder:
    objective = {"score": "class_ami", "finalists": 2, "seeds": 3}
    return Folder(make_config(objective=objective, search={"constraints": CONSTRAINTS}))


def test_what_violates_a_constraint_wins_nothing_and_is_told(constrained: Folder) -> None:
    none = constrained.add(0.1, role="no adaptation", source_accuracy=0.3, seconds=900)
    slow = constrained.add(0.9, seconds=101)
    poor = constrained.add(0.8, source_accuracy=0.7)
    able = constrained.add(0.5, source_accuracy=0.8, seconds=100)
    assert constrained.choice == able
    assert [each.record.key for each in constrained.finalists] == [able]
    assert constrained.teachers(6) == (able, none)
    choice = results.best(constrained.store)
    causes = {each["trial"]: each["causes"] for each in choice["distrusted"]}
    assert causes == {
        slow: ["constraint seconds <= 100 (search.constraints), but got 101"],
        poor: ["constraint score/source_accuracy >= 0.8 (search.constraints), but got 0.7"],
    }
    assert results.status(constrained.store)["best"]["trial"] == able
    told = CliRunner().invoke(app, ["best", str(constrained.store.folder)]).stdout
    name = constrained.store.trial(slow).record().name
    assert f"left out {name}: constraint seconds <= 100" in " ".join(told.split())
    assert choice["constraints"]["without_effect"] == []


def test_the_source_network_may_be_chosen_whatever_it_violates(constrained: Folder) -> None:
    none = constrained.add(0.1, role="no adaptation", source_accuracy=0.3)
    constrained.add(0.9, seconds=101)
    assert constrained.choice == none


def test_a_student_that_violates_a_constraint_is_not_chosen(constrained: Folder) -> None:
    constrained.add(0.1, role="no adaptation")
    best = constrained.add(0.9, weight=1.0)
    constrained.add(0.8, weight=2.0)
    constrained.add(0.9, role="student", seconds=101)
    assert constrained.choice == best


def test_a_trial_that_violates_a_constraint_has_its_vote(make_config: MakeConfig) -> None:
    folder = Folder(make_config(objective={"score": "ensv"}, search={"constraints": CONSTRAINTS}))
    folder.add(0, seconds=101, classes=(0, 1, 2, 1))
    folder.add(0, seconds=101, classes=(0, 1, 2, 1))
    folder.add(0, classes=(0, 1, 2, 0))
    assert [each.score for each in folder.ended] == [1.0, 1.0, 0.75]


def test_where_constraints_leave_nothing_it_is_said(constrained: Folder) -> None:
    constrained.add(0.9, seconds=101)
    with pytest.raises(ValueError, match=r"search.constraints leave out all 1 trials.*seconds <="):
        results.best(constrained.store)


def test_a_constraint_on_what_nobody_reports_holds_and_is_told(make_config: MakeConfig) -> None:
    bounds = {"loss/tagret": {"max": 0.01}, "loss/target": {"max": 1}}
    folder = Folder(make_config(objective={"score": "class_ami"}, search={"constraints": bounds}))
    folder.add(0.1, role="no adaptation")
    best = folder.add(0.9)
    assert folder.choice == best
    (line,) = results.best(folder.store)["constraints"]["without_effect"]
    assert "unknown metric 'loss/tagret'; did you mean 'loss/target'?" in line
    told = CliRunner().invoke(app, ["best", str(folder.store.folder)]).stdout
    assert f"warning     {line}" in told


def test_the_pareto_front_has_what_no_other_beats_in_score_and_cost(
    constrained: Folder,
) -> None:
    trials = [(0.5, 10), (0.7, 30), (0.6, 40), (0.7, 35), (0.9, 90), (0.95, 101), (0.4, 10)]
    keys = [constrained.add(score, seconds=seconds) for score, seconds in trials]
    constrained.add(0.99, shift=0.9, seconds=1)
    constrained.add(0.99, role="student", seconds=1)
    front = results.best(constrained.store)["pareto"]
    assert [each["trial"] for each in front] == [keys[0], keys[1], keys[4]]
    assert [(each["score"], each["cost"], each["unit"]) for each in front] == [
        (0.5, 10, "seconds"), (0.7, 30, "seconds"), (0.9, 90, "seconds"),
    ]  # fmt: skip


def test_on_gpus_the_cost_is_theirs(make_config: MakeConfig) -> None:
    resources = {"workers": 2, "gpus_per_worker": 1.0}
    folder = Folder(make_config(objective={"score": "class_ami"}, resources=resources))
    folder.add(0.5, seconds=10)
    (only,) = results.best(folder.store)["pareto"]
    assert (only["cost"], only["unit"]) == (20, "gpu_seconds")
