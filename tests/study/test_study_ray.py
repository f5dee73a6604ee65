"""Whole studies on a real Ray: real Tune, real Train, real worker processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from gam_ray.config import StudyConfig
from gam_ray.study import results
from gam_ray.study.relay import Relay
from gam_ray.study.store import StudyStore
from gam_ray.study.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRIALS = 5
# Two baselines, one finalist again, one student.
ALL = TRIALS + 4


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage for all studies here, so that they share the source network."""
    return tmp_path_factory.mktemp("my studies")


def settings(storage: Path, name: str, **changes: Any) -> StudyConfig:
    trial = {
        "task": {"source": "rendered-digits", "target": "handwritten-digits"},
        "pretraining": {"steps": 30, "batch_size": 32},
        "steps": 40,
        "report_every": 10,
        "batch_size": 16,
    }
    study = {
        "name": name,
        "trial": trial,
        "space": {
            "adaptation.weight": {"log": [1, 100]},
            "adaptation.layers": {"subset": ["fc3", "fc4"], "min": 1},
            "adaptation.adversary": {"choice": ["gan", "lsgan"]},
        },
        "search": {"trials": TRIALS, "seed": 3},
        "objective": {"finalists": 1, "seeds": 2},
        "student": {"teachers": 3, "steps": 10, "batch_size": 16},
        "schedule": {"kind": "asha", "min_steps": 10, "reduction_factor": 2},
        "resources": {"workers": 2, "cpus_per_worker": 0.5},
        "storage": str(storage),
    }
    return StudyConfig.from_mapping({**study, **changes})


def training_workers() -> list[int]:
    """Process ids of Ray Train's workers on this machine that are ours."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in command:
            found.append(int(folder.name))
    return found


class KillOneWorker:
    """A listener that ends one training worker in the middle of a searched trial."""

    def __init__(self) -> None:
        self.killed: int | None = None

    def __call__(self, news: dict[str, Any]) -> None:
        stage = news.get("stage")
        if self.killed is None and stage and stage[0] == "adapting":
            self.killed = max(training_workers())
            os.kill(self.killed, signal.SIGKILL)


def relay_that_dies(once: Path) -> type[Relay]:
    """A relay that ends while it is given its next trial, the first time that happens.

    Args:
        once: A file that says that it has happened.
    """

    class DyingRelay(Relay):
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if not once.exists():
                once.touch()
                os._exit(1)
            return super().reset_config(new_config)

    return DyingRelay


@pytest.fixture(scope="module")
def disturbed(storage: Path) -> tuple[StudyStore, dict[str, Any], KillOneWorker]:
    """A finished study of two data-parallel workers, of which one was killed, and a relay."""
    config = settings(
        storage,
        "disturbed",
        trial={
            **settings(storage, "x").trial.to_mapping(),
            "steps": 400,
            "report_every": 50,
        },
        schedule={"kind": "asha", "min_steps": 50, "reduction_factor": 2},
    )
    killer = KillOneWorker()
    study = Study(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gam_ray.study.relay.Relay", relay_that_dies(storage / "relay died"))
        choice = study.run(listener=killer)
    return study.store, choice, killer


def test_a_killed_worker_loses_no_trial(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker],
) -> None:
    store, _, killer = disturbed
    assert killer.killed is not None
    counts = results.status(store)["trials"]
    assert counts["finished"] + counts["pruned"] == ALL
    assert counts["failed"] == counts["running"] == counts["planned"] == 0
    for files in store.trials():
        steps = [report.step for report in files.reports()]
        assert steps == sorted(set(steps))
        assert steps[-1] == files.end().step


def test_a_relay_that_dies_when_it_is_given_a_trial_loses_none(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker], storage: Path
) -> None:
    store, *_ = disturbed
    assert (storage / "relay died").exists()
    searched = [files for files in store.trials() if files.record().role == "search"]
    assert len(searched) == TRIALS
    with sqlite3.connect(store.folder / "optuna.db") as connection:
        states = connection.execute("select state, count(*) from trials group by state").fetchall()
    assert sum(count for state, count in states if state in ("COMPLETE", "PRUNED")) == TRIALS
    assert all(state != "RUNNING" for state, _ in states)


def test_a_finalist_runs_again_and_the_best_teach_a_student(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker],
) -> None:
    *_, again, student = (files.record() for files in disturbed[0].trials())
    assert [again.role, student.role] == ["again", "student"]
    first = next(
        record
        for files in disturbed[0].trials()
        if (record := files.record()).settings.items() < again.settings.items()
        and record.role == "search"
    )
    assert first.config.seed != again.config.seed
    assert first.config.model_copy(update={"seed": again.config.seed}) == again.config
    assert len(student.config.student.teachers) == 3


def test_best_and_status_keep_their_contract(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker],
) -> None:
    store, choice, _ = disturbed
    assert set(choice) >= {
        "study", "trial", "config", "score", "oracle", "no_adaptation", "checkpoint",
        "mlflow_run_id",
    }  # fmt: skip
    assert set(choice["score"]) == {"name", "metric", "value", "percentile"}
    assert set(choice["seeds"]) == {"runs", "mean", "std", "oracle"}
    assert set(choice["no_adaptation"]) == {"score", "oracle"}
    assert Path(choice["checkpoint"]).is_file()
    assert json.loads(json.dumps(choice)) == choice
    status = results.status(store)
    assert set(status) >= {"study", "state", "trials", "best", "started", "elapsed_s"}
    assert set(status["trials"]) == {"finished", "pruned", "failed", "running", "planned"}
    assert status["state"] == "finished"
    assert status["best"]["trial"] == choice["trial"]["key"]


def test_mlflow_holds_one_parent_and_one_child_a_trial(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker],
) -> None:
    store, choice, _ = disturbed
    with sqlite3.connect(store.folder / "mlflow.db") as database:

        def rows(query: str) -> list[tuple[Any, ...]]:
            return database.execute(query).fetchall()

        assert rows("select count(*) from runs") == [(ALL + 1,)]
        assert rows("select count(*) from tags where key = 'mlflow.parentRunId'") == [(ALL,)]
        assert rows("select count(*) from runs where status not in ('FINISHED', 'KILLED')") == [
            (0,)
        ]
        assert rows(
            "select count(distinct run_uuid) from params where key='adaptation.weight'"
        ) == [(TRIALS + 1,)]
        reports = sum(len(files.reports()) for files in store.trials())
        # Every report once, and the choice's on the study's own run.
        told = "select count(*) from metrics where key = 'score/mean_rank'"
        assert rows(told) == [(reports + 1,)]
        assert rows(
            "select count(*) from (select 1 from metrics group by run_uuid, key, step "
            "having count(*) > 1)"
        ) == [(0,)]
        chosen = rows("select run_uuid from tags where key='gam_ray.chosen' and value='yes'")
    assert chosen == [(choice["mlflow_run_id"],)]


def test_a_finished_study_is_not_run_again(
    disturbed: tuple[StudyStore, dict[str, Any], KillOneWorker],
) -> None:
    store, choice, _ = disturbed
    started = time.monotonic()
    again = Study(StudyConfig.from_mapping(store.read("study")["config"])).run()
    assert again == choice
    assert time.monotonic() - started < 30


def proposals(store: StudyStore) -> list[tuple[dict[str, Any], list[dict[str, float]]]]:
    """Settings and figures of all trials, without what depends on the machine."""

    def figures(metrics: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if not name.startswith("system/")}

    return [
        (files.record().settings, [figures(report.metrics) for report in files.reports()])
        for files in store.trials()
    ]


def test_the_same_seed_gives_the_same_study(storage: Path) -> None:
    stores = []
    for name in ("one", "two"):
        study = Study(settings(storage, name, resources={"workers": 1, "max_lanes": 1}))
        study.run()
        stores.append(study.store)
    first, second = (proposals(store) for store in stores)
    assert len(first) == ALL
    assert first == second


def test_generations_train_on_from_the_best(storage: Path) -> None:
    config = settings(
        storage,
        "generations",
        search={"trials": 4, "seed": 1},
        schedule={"kind": "pbt", "generations": 3, "reduction_factor": 4},
        resources={"workers": 1},
        objective={"score": "class_ami"},
    )
    choice = Study(config).run()
    store = StudyStore(config.folder)
    records = {files.folder.name: files.record() for files in store.trials()}
    generations = [
        [r for r in records.values() if r.config.adaptation_steps == steps]
        for steps in (40, 80, 120)
    ]
    assert [len(each) for each in generations] == [4, 4, 4]
    for before, after in itertools.pairwise(generations):
        keys = {record.key for record in before}
        parents = [record.config.continues for record in after]
        assert set(parents) < keys, "the worst gives way to the best"
        for record in after:
            steps = [report.step for report in store.trial(record.key).reports()]
            first = record.config.steps - 40
            assert steps == [first + 10, first + 20, first + 30, first + 40]
    assert results.status(store)["trials"]["failed"] == 0
    assert len(records) == config.planned_trials
    assert choice["trial"]["key"] in records
    ends = {files.folder.name: files.end() for files in store.trials()}
    assert Study(config).run()["trial"] == choice["trial"]
    assert {files.folder.name: files.end() for files in store.trials()} == ends
