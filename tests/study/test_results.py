"""Status and choice, from a study's folder alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_records import METRICS, votes
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import StudyConfig, TrackingConfig, apply_settings
from gam_ray.study import results
from gam_ray.study.store import EndRecord, ReportRecord, StudyStore, TrialRecord
from gam_ray.study.study import Study, _note
from gam_ray.tracking import ArtifactReady, TagsSet, TrackingQueue
from gam_ray.tracking.health import Health

MakeConfig = Callable[..., StudyConfig]


def add_trial(
    store: StudyStore,
    config: StudyConfig,
    number: int,
    classes: tuple[int, ...] | None,
    *,
    role: Any = "search",
    state: Any = "finished",
    oracle: float = 0.5,
    of_score: float | None = None,
    **guard: float,
) -> str:
    trial = apply_settings(config.trial, {"adaptation.weight": number + 1.0})
    record = TrialRecord(trial.key(), number, role, {"adaptation.weight": number + 1.0}, trial)
    files = store.trial(record.key)
    files.create(record)
    if classes is not None:
        metrics = {**METRICS, "score/class_ami": float(number)}
        metrics |= {f"guard/{name}": value for name, value in guard.items()}
        metrics |= {} if of_score is None else {"score/oracle": of_score}
        files.append_report(ReportRecord(40, metrics, 1.0), votes(*classes))
    error = "DivergedError: loss" if state == "failed" else None
    files.write_end(EndRecord(state, 40, 2.0, error, {"test": oracle}))
    return record.key


@pytest.fixture
def study(make_config: MakeConfig) -> tuple[StudyStore, StudyConfig]:
    """A finished study of three trials that agree and disagree, and one that failed."""
    config = make_config()
    store = StudyStore(config.folder)
    content = {"key": config.key(), "config": config.to_mapping(), "trials": 4}
    store.write("study", content)
    store.write("state", {"state": "finished", "started": 100.0, "ended": 160.0})
    add_trial(store, config, 0, (0, 0, 0, 0), role="no adaptation", oracle=0.4)
    add_trial(store, config, 1, (0, 0, 1, 2), oracle=0.7)
    add_trial(store, config, 2, (0, 1, 1, 2), state="pruned", oracle=0.9)
    add_trial(store, config, 3, None, state="failed")
    return store, config


def test_ensv_chooses_by_the_whole_crowd_and_not_by_the_oracle(
    study: tuple[StudyStore, StudyConfig],
) -> None:
    store, _ = study
    choice = results.best(store)
    # The consensus is 0, 0, 1, 2; the oracle would have liked number 2.
    assert choice["trial"]["number"] == 1
    # Two of three trusted trials score lower.
    assert choice["score"] == {
        "name": "ensv", "metric": "ensv", "value": 1.0, "percentile": pytest.approx(200 / 3),
    }  # fmt: skip
    assert choice["by_oracle"] is False
    assert choice["regret"] == {"test": pytest.approx(0.2)}
    assert choice["seeds"]["runs"] == [choice["trial"]["key"]]
    assert choice["seeds"]["oracle"] == {"test": {"mean": 0.7, "std": None}}
    assert choice["adapt"] is True
    assert choice["oracle"] == {"test": 0.7}
    assert choice["no_adaptation"] == {"score": 0.5, "oracle": {"test": 0.4}}
    assert choice["mlflow_run_id"] is None


def test_what_the_guard_distrusts_cannot_win_and_is_told(
    study: tuple[StudyStore, StudyConfig],
) -> None:
    store, config = study
    # Alone they would be the majority.
    for number in (4, 5, 6, 7):
        add_trial(store, config, number, (1, 1, 1, 1), class_shift=0.9)
    assert results.best(store)["trial"]["number"] == 1
    told = CliRunner().invoke(app, ["best", str(store.folder)]).stdout
    (first, *others) = results.best(store)["distrusted"]
    assert len(others) == 3
    assert first["causes"][0].startswith("predicted classes are 0.90 away")
    assert f"left out    {first['name']}: predicted classes are 0.90 away" in told
    store.write("study", {**store.read("study"), "config": make_lenient(config)})
    assert results.best(store)["trial"]["number"] == 4


def make_lenient(config: StudyConfig) -> dict[str, Any]:
    mapping = config.to_mapping()
    return {**mapping, "objective": {**mapping["objective"], "label_shift": 1.0}}


def test_where_everything_is_distrusted_nothing_is_chosen(make_config: MakeConfig) -> None:
    config = make_config()
    store = StudyStore(config.folder)
    store.write("study", {"key": "k", "config": config.to_mapping(), "trials": 1})
    add_trial(store, config, 2, (1, 1), feature_rank=0.1)
    with pytest.raises(
        ValueError, match=r"distrusts all 1 trials.* features have 0\.10 of the rank"
    ):
        results.best(store)


def test_another_objective_chooses_by_its_own_score(make_config: MakeConfig) -> None:
    config = make_config(objective={"score": "class_ami"})
    store = StudyStore(config.folder)
    store.write("study", {"key": "k", "config": config.to_mapping(), "trials": 2})
    for number in range(2):
        add_trial(store, config, number, (number,))
    assert results.best(store)["trial"]["number"] == 1


def test_a_choice_by_target_labels_says_so_wherever_it_is_shown(make_config: MakeConfig) -> None:
    config = make_config(objective={"score": "oracle"})
    store = StudyStore(config.folder)
    store.write("study", {"key": "k", "config": config.to_mapping(), "trials": 2})
    for number, oracle in ((0, 0.4), (1, 0.9), (2, 0.7)):
        role = "search" if number else "no adaptation"
        add_trial(store, config, number, (0, 1), role=role, oracle=oracle, of_score=oracle)
    choice = results.best(store)
    assert choice["trial"]["number"] == 1
    assert choice["by_oracle"] is True
    assert choice["score"]["name"] == "oracle"
    told = " ".join(CliRunner().invoke(app, ["best", str(store.folder)]).stdout.split())
    assert "chosen BY TARGET LABELS (score: oracle)" in told
    assert "label-free" not in told
    assert results.overview(store).score_label == "score (TARGET LABELS)"
    assert "TARGET LABELS" in _note(choice)
    assert "label-free" not in _note(choice)


def test_how_far_to_trust_a_choice_is_told(study: tuple[StudyStore, StudyConfig]) -> None:
    store, config = study
    again = apply_settings(config.trial, {"adaptation.weight": 2.0, "seed": 5})
    files = store.trial(again.key())
    files.create(TrialRecord(again.key(), 9, "again", {"adaptation.weight": 2.0}, again))
    files.append_report(ReportRecord(40, METRICS, 1.0), votes(0, 0, 1, 2))
    files.write_end(EndRecord("finished", 40, 2.0, None, {"test": 0.6}))
    told = CliRunner().invoke(app, ["best", str(store.folder)]).stdout
    assert "scores higher than 50 % of the trusted trials" in told
    assert "1.000 ± 0.000 over 2 runs of its settings; oracle 65.0 ± 7.1 %" in told
    assert "20.0 points below this study's best trial by the oracle" in told


def test_status_counts_every_trial(study: tuple[StudyStore, StudyConfig]) -> None:
    status = results.status(study[0])
    assert status["trials"] == {
        "finished": 2, "pruned": 1, "failed": 1, "running": 0, "planned": 0,
    }  # fmt: skip
    assert status["elapsed_s"] == 60.0
    assert status["state"] == "finished"


def test_a_study_whose_process_is_gone_is_interrupted(
    study: tuple[StudyStore, StudyConfig],
) -> None:
    store, _ = study
    here = {"state": "running", "started": 1.0, "host": socket.gethostname()}
    store.write("state", {**here, "pid": os.getpid()})
    assert results.status(store)["state"] == "running"
    store.write("state", {**here, "pid": 2**22 + 1})
    assert results.status(store)["state"] == "interrupted"


def test_nothing_ended_and_nothing_there_are_errors(make_config: MakeConfig) -> None:
    config = make_config()
    store = StudyStore(config.folder)
    with pytest.raises(ValueError, match="no study in"):
        results.status(store)
    store.write("study", {"key": "k", "config": config.to_mapping(), "trials": 2})
    with pytest.raises(ValueError, match="no trial of a-study has ended in order yet"):
        results.best(store)


def test_predictions_survive_storage(study: tuple[StudyStore, StudyConfig]) -> None:
    files = study[0].trials()[1]
    np.testing.assert_array_equal(files.predictions(), votes(0, 0, 1, 2))


class TestCommandLine:
    """`gam-ray`, called as a user would."""

    def call(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    def test_best_and_status_print_json(self, study: tuple[StudyStore, StudyConfig]) -> None:
        import json

        store, config = study
        folder = str(store.folder)
        assert json.loads(self.call("best", folder, "--json").stdout) == results.best(store)
        assert json.loads(self.call("status", folder, "--json").stdout) == results.status(store)
        by_name = self.call("best", config.name, "--storage", config.storage, "--json")
        assert json.loads(by_name.stdout) == results.best(store)

    def test_best_shows_the_oracle_in_a_column_of_its_own(
        self, study: tuple[StudyStore, StudyConfig]
    ) -> None:
        shown = self.call("best", str(study[0].folder)).stdout
        assert "oracle" in shown
        assert "70.0" in shown
        assert "90.0" not in shown

    def test_a_study_that_is_not_there_exits_with_2(self, tmp_path: Path) -> None:
        ended = self.call("status", "none", "--storage", str(tmp_path))
        assert ended.exit_code == 2
        assert "no study in" in ended.stderr
        assert "Traceback" not in ended.output

    def test_every_problem_of_a_study_file_is_shown(self, tmp_path: Path) -> None:
        file = tmp_path / "study.yaml"
        file.write_text("nmae: x\ntrial: {steps: 0}\nspace: {}\n")
        ended = self.call("run", str(file))
        assert ended.exit_code == 2
        for text in ("did you mean 'name'?", "trial.task: is required", "trial.steps"):
            assert text in ended.stderr

    def test_version(self) -> None:
        assert self.call("--version").stdout.startswith("gam-ray ")

    def test_ui_opens_the_database_in_the_study_s_folder_from_anywhere(
        self,
        study: tuple[StudyStore, StudyConfig],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        started: list[str] = []
        monkeypatch.setattr(os, "execv", lambda _program, arguments: started.extend(arguments))
        monkeypatch.chdir(tmp_path)
        moved = study[0].folder.rename(tmp_path / "moved")
        self.call("ui", "moved")
        assert f"sqlite:///{moved / 'mlflow.db'}" in started


def test_status_tells_what_waits_for_mlflow(study: tuple[StudyStore, StudyConfig]) -> None:
    store, _ = study
    assert results.status(store)["tracking"]["waiting"] == 0
    TrackingQueue(store.tracking).append(TagsSet(None, {"mood": "calm"}))
    Health(store.tracking, "http://host").write()
    tracking = results.status(store)["tracking"]
    assert (tracking["logged"], tracking["waiting"], tracking["rejected"]) == (0, 1, 0)
    assert tracking["uri"] == "http://host"


def test_mlflow_gets_the_study_without_its_password(
    study: tuple[StudyStore, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "overview", lambda _: None)
    monkeypatch.setattr("gam_ray.study.study.draw_overview", lambda _, file: file.touch())
    store, config = study
    tracking = TrackingConfig.model_construct(uri="http://me:very-secret@host:5000")
    tracked = config.model_copy(update={"tracking": tracking})
    content = {"key": tracked.key(), "config": tracked.to_mapping(), "trials": 4}
    store.write("study", content)
    Study(tracked)._choose("finished")
    events = [event for _, event in TrackingQueue(store.tracking).read()]
    files = [Path(event.path) for event in events if isinstance(event, ArtifactReady)]
    assert [file.name for file in files if file.suffix != ".svg"] == [
        "overview.png", "study.json", "result.json", "report.html",
    ]  # fmt: skip
    assert not [file for file in files if b"secret" in file.read_bytes()]
    assert '"http://host:5000"' in files[1].read_text()
    assert "secret" not in (store.tracking / "events.jsonl").read_text()
    assert store.read("study") == content, "the study itself needs it"


def test_a_report_that_fails_does_not_end_a_study(
    study: tuple[StudyStore, StudyConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(results, "overview", lambda _: None)
    monkeypatch.setattr("gam_ray.study.study.draw_overview", lambda _, file: file.touch())
    monkeypatch.setattr("gam_ray.study.reporting.gather", fail)
    store, config = study
    store.tracking.mkdir(parents=True)
    Study(config)._choose("finished")
    assert store.read("result") is not None
    assert "no ink" in caplog.text
    events = [event for _, event in TrackingQueue(store.tracking).read()]
    paths = [event.path for event in events if isinstance(event, ArtifactReady)]
    assert not [path for path in paths if path.endswith(".html")]


def test_a_constraint_without_effect_is_logged_at_the_end(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(results, "overview", lambda _: None)
    monkeypatch.setattr("gam_ray.study.study.draw_overview", lambda _, file: file.touch())
    config = make_config(search={"trials": 4, "constraints": {"loss/tagret": {"max": 1}}})
    store = StudyStore(config.folder)
    store.tracking.mkdir(parents=True)
    store.write("study", {"key": config.key(), "config": config.to_mapping(), "trials": 4})
    add_trial(store, config, 1, (0, 1, 2))
    Study(config)._choose("finished")
    assert "has no effect: unknown metric 'loss/tagret'; did you mean 'loss/target'?" in caplog.text
