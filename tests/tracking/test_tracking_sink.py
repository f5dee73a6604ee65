"""The sink against a real MLflow on SQLite."""

import json
import os
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from tracking_bench import (
    PATIENCE_S,
    ROWS,
    RUNS,
    STEPS,
    Bench,
    FirstStart,
    a_study,
    append,
    wait_for,
)

from gam_ray.tracking import (
    ArtifactReady,
    MetricsReported,
    MLflowSink,
    TrialEnded,
    TrialStarted,
    read_run_ids,
    sink,
)
from gam_ray.tracking.progress import Progress


def started(bench: Bench) -> MLflowSink:
    made = bench.make_sink()
    made.start()
    return made


def log_all(bench: Bench) -> MLflowSink:
    made = started(bench)
    assert made.drain(PATIENCE_S), made.status()
    return made


def failing(
    monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, after: int, times: int
) -> None:
    """Let calls of a client method fail: those after so many good ones, so many times."""
    real = getattr(mlflow.MlflowClient, method)
    calls = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if after < len(calls) <= after + times:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, method, call)


def rejected(bench: Bench) -> list[dict[str, Any]]:
    file = bench.folder / "queue" / "rejected.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_first_start_is_silent_and_leaves_no_litter(first_start: FirstStart) -> None:
    assert first_start.stdout == first_start.stderr == ""
    assert {path.name for path in first_start.folder.iterdir()} == {"queue", "mlflow.db"}


def test_a_study_arrives_whole(bench: Bench) -> None:
    append(bench, *a_study())
    done = log_all(bench)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS
    assert bench.params("shown study") == {"seed": "0", "task": "m→u", "limit": "None"}
    assert bench.params("trial 1") == {"lr": "0.1", "layers/conv1": "True"}
    ids = done.run_ids()
    trial = bench.tags("trial 1")
    assert trial["mlflow.parentRunId"] == ids["study"]
    assert trial["gam_ray.study"] == "my study"
    assert (trial["gam_ray.trial"], trial["lane"], trial["note"]) == ("key-1", "0", "first")
    assert bench.tags("shown study")["mood"] == "calm"
    assert "mlflow.parentRunId" not in bench.tags("shown study")
    info = mlflow.MlflowClient(bench.database_uri).get_run(ids["key-2"]).info
    assert (info.run_name, info.start_time, info.end_time) == ("trial 2", 3, 501)
    assert done.close(PATIENCE_S) == sink.SinkStatus(
        logged=len(a_study()), waiting=0, rejected=0, last_error=None, failures=0
    )


def test_a_sink_that_starts_later_begins_at_once_when_it_is_drained(bench: Bench) -> None:
    append(bench, *a_study())
    late = bench.make_sink()
    late.start(after_s=3600)
    time.sleep(0.2)
    assert late.status().waiting == len(a_study())
    assert late.close(PATIENCE_S).waiting == 0
    assert bench.rows() == ROWS


def test_waiting_events_share_a_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = mlflow.MlflowClient.log_batch

    def count(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["metrics"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", count)
    append(bench, *a_study())
    log_all(bench)
    assert sorted(sizes) == [1, 2 * STEPS, 2 * STEPS]


def test_more_than_one_request_holds(bench: Bench) -> None:
    params = {f"p{number}": number for number in range(130)}
    tags = {f"t{number}": "x" for number in range(130)}
    values = {f"m{number}": number / 7 for number in range(600)}
    append(bench, TrialStarted("k", "wide", params, tags, 1))
    append(bench, *(MetricsReported("k", step, values, step) for step in range(2)))
    assert log_all(bench).status().rejected == 0
    assert len(bench.params("wide")) == 130
    assert tags.items() <= bench.tags("wide").items()
    assert len(bench.rows()) == 1200


def test_run_ids_are_read_without_mlflow(bench: Bench) -> None:
    assert read_run_ids(bench.folder / "queue") == {}
    append(bench, *a_study())
    ids = log_all(bench).run_ids()
    assert read_run_ids(bench.folder / "queue") == ids
    assert set(ids) == {"study", "key-1", "key-2"}


def test_a_restart_midway_doubles_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "_WINDOW", 5)
    with monkeypatch.context() as outage:
        failing(outage, "log_batch", MlflowException("down"), after=8, times=10**6)
        append(bench, *a_study())
        first = started(bench)
        wait_for(lambda: first.status().failures > 0)
        left = first.close(0)
    assert left.logged > 0
    assert left.waiting > 0
    assert left.logged + left.waiting == len(a_study())
    assert 0 < len(bench.rows()) < len(ROWS)
    second = log_all(bench)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS
    assert second.status().logged == len(a_study())


@pytest.mark.parametrize(
    "left", ["", "{torn", '{"offset": 10000000, "events": 1, "artifacts": []}']
)
def test_a_lost_offset_doubles_nothing(bench: Bench, left: str) -> None:
    append(bench, *a_study())
    log_all(bench).close(PATIENCE_S)
    offset = bench.folder / "queue" / "offset.json"
    offset.write_text(left) if left else offset.unlink()
    again = bench.make_sink()
    assert again.status().waiting == len(a_study())
    again.start()
    assert again.drain(PATIENCE_S)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS
    assert again.status() == sink.SinkStatus(len(a_study()), 0, 0, None, 0)


def test_a_crash_before_the_offset_is_saved_doubles_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Progress.advance, []

    def advance(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no space left")
        real(*args)

    monkeypatch.setattr(Progress, "advance", advance)
    append(bench, *a_study())
    assert log_all(bench).status().failures == 1
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("log_batch", RestException({"error_code": "PERMISSION_DENIED", "message": "no"})),
        ("log_batch", RestException({"error_code": "UNAUTHENTICATED", "message": "no"})),
        ("log_batch", RestException({"error_code": "INTERNAL_ERROR", "message": "no"})),
        ("log_batch", RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"})),
        ("log_batch", RuntimeError("no")),
        ("create_run", requests.ConnectionError("no")),
        ("get_experiment_by_name", requests.ConnectionError("no")),
    ],
    ids=repr,
)
def test_what_can_pass_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    failing(monkeypatch, method, error, after=0, times=2)
    append(bench, *a_study())
    status = log_all(bench).status()
    assert (status.failures, status.rejected) == (2, 0)
    assert "no" in str(status.last_error)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS


def test_an_outage_is_told_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as outage:
        failing(outage, "log_batch", MlflowException("down"), after=0, times=10**6)
        append(bench, *a_study())
        made = started(bench)
        for failures in range(1, 4):
            assert not made.drain(0)
            wait_for(lambda seen=failures: made.status().failures >= seen)  # type: ignore[misc]
    assert made.drain(PATIENCE_S)
    assert caplog.text.count("tried again") == 1


def test_a_run_made_by_a_call_that_failed_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = mlflow.MlflowClient.create_run, []

    def answer_lost(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        calls.append(made)
        if len(calls) <= 2:
            raise MlflowException("timeout")
        return made

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", answer_lost)
    append(bench, *a_study())
    log_all(bench)
    assert bench.runs() == RUNS
    assert bench.rows() == ROWS


def test_an_experiment_made_by_another_meanwhile_is_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(bench.database_uri)
    client.create_experiment("an experiment", (bench.folder / "elsewhere").as_uri())
    real, calls = mlflow.MlflowClient.get_experiment_by_name, []

    def late(*args: Any) -> Any:
        calls.append(1)
        return None if len(calls) == 1 else real(*args)

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", late)
    append(bench, *a_study())
    assert log_all(bench).status().failures == 0
    assert bench.runs() == RUNS


def test_a_deleted_experiment_is_told_and_waited_for(bench: Bench) -> None:
    client = mlflow.MlflowClient(bench.database_uri)
    experiment = client.create_experiment("an experiment")
    client.delete_experiment(experiment)
    append(bench, *a_study())
    made = started(bench)
    wait_for(lambda: made.status().failures > 0)
    assert "mlflow experiments restore" in str(made.status().last_error)
    client.restore_experiment(experiment)
    assert made.drain(PATIENCE_S)
    assert bench.rows() == ROWS


def test_a_poisoned_record_is_set_aside(bench: Bench) -> None:
    changed = TrialStarted("key-1", "trial 1", {"lr": 0.3}, {"lane": "1"}, 50)
    first, *others = a_study()
    append(bench, first, others[0], changed, *others[1:])
    done = log_all(bench)
    assert bench.rows() == ROWS
    assert bench.runs() == RUNS
    assert bench.params("trial 1")["lr"] == "0.1"
    assert bench.tags("trial 1")["lane"] == "1", "what is good of it gets through"
    [record] = rejected(bench)
    assert record["event"] == changed.to_json()
    assert "lr" in record["reason"]
    status = done.status()
    assert (status.logged, status.waiting, status.rejected) == (len(a_study()), 0, 1)


def test_a_record_is_set_aside_once(bench: Bench) -> None:
    append(bench, TrialStarted("k", "t", {"a": 1}, {}, 1), TrialStarted("k", "t", {"a": 2}, {}, 2))
    log_all(bench).close(PATIENCE_S)
    (bench.folder / "queue" / "offset.json").unlink()
    assert log_all(bench).status().rejected == 1
    assert len(rejected(bench)) == 1


def test_an_unreadable_line_is_set_aside(bench: Bench) -> None:
    append(bench, a_study()[0])
    with (bench.folder / "queue" / "events.jsonl").open("ab") as file:
        file.write(b"what is this\n")
    append(bench, *a_study()[1:])
    assert log_all(bench).status().rejected == 1
    assert rejected(bench)[0]["event"] == "what is this\n"
    assert bench.rows() == ROWS


def test_records_for_a_run_the_user_deleted_do_not_hold_up_others(bench: Bench) -> None:
    append(bench, *a_study()[:3])
    made = log_all(bench)
    client = mlflow.MlflowClient(bench.database_uri)
    client.delete_run(made.run_ids()["key-2"])
    append(bench, *a_study()[3:])
    assert made.drain(PATIENCE_S)
    assert made.status().rejected == STEPS + 1
    assert bench.rows() == {key: row for key, row in ROWS.items() if key[0] != "trial 2"}


def test_nonfinite_numbers_become_tags(bench: Bench) -> None:
    values = {"loss*": float("nan"), "up": float("inf"), "down": float("-inf"), "good": 1.0}
    append(bench, TrialStarted("k", "t", {}, {}, 1), MetricsReported("k", 7, values, 2))
    log_all(bench)
    assert bench.rows() == {("t", "good", 7): [1.0]}
    tags = bench.tags("t")
    assert tags["gam_ray.nonfinite.loss_"] == "nan at step 7"
    assert tags["gam_ray.nonfinite.up"] == "inf at step 7"
    assert tags["gam_ray.nonfinite.down"] == "-inf at step 7"


def test_a_trial_that_goes_on_runs_again(bench: Bench) -> None:
    append(bench, *a_study())
    made = log_all(bench)
    append(bench, TrialStarted("key-2", "trial 2", {"lr": 0.2}, {}, 600))
    assert made.drain(PATIENCE_S)
    assert bench.runs() == RUNS | {"trial 2": ["RUNNING"]}
    append(bench, TrialEnded("key-2", "FAILED", 700))
    assert made.drain(PATIENCE_S)
    assert bench.runs() == RUNS | {"trial 2": ["FAILED"]}


def test_long_and_odd_texts_are_fitted(bench: Bench) -> None:
    text = "\0ü" + "x" * 10_000
    append(bench, TrialStarted("k", "t", {"p": text}, {"g": text}, 1))
    assert log_all(bench).status().rejected == 0
    assert bench.params("t")["p"] == text[1:6001]
    assert bench.tags("t")["g"] == text[1:8001]


def test_a_file_is_uploaded_beside_the_database(bench: Bench) -> None:
    file = bench.folder / "a page.html"
    file.write_text("hello")
    append(bench, *a_study(), ArtifactReady("key-1", str(file), "a folder"))
    run_id = log_all(bench).run_ids()["key-1"]
    kept = bench.folder / "artifacts" / run_id / "artifacts" / "a folder" / "a page.html"
    assert kept.read_text() == "hello"


def test_a_file_that_is_gone_is_set_aside(bench: Bench) -> None:
    append(bench, ArtifactReady(None, str(bench.folder / "gone")), *a_study())
    assert log_all(bench).status().rejected == 1
    assert "no file" in rejected(bench)[0]["reason"]
    assert bench.rows() == ROWS


def test_files_that_wait_hold_up_nothing_and_are_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bench.folder / "model.bin"
    file.write_text("weights")
    with monkeypatch.context() as outage:
        failing(outage, "log_artifact", OSError("bucket away"), after=0, times=10**6)
        append(bench, *a_study()[:2], ArtifactReady("key-1", str(file)), *a_study()[2:])
        made = started(bench)
        wait_for(lambda: made.status().waiting == 1 and made.status().failures > 0)
        assert bench.rows() == ROWS
        made.close(0)
    done = log_all(bench).status()
    assert (done.logged, done.rejected) == (len(a_study()) + 1, 0)
    assert [path.read_text() for path in bench.folder.rglob("artifacts/model.bin")] == ["weights"]


def test_the_users_settings_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    append(bench, *a_study())
    log_all(bench)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_errors_do_not_show_passwords(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    error = MlflowException("API request to http://me:secret@host:5000/api failed")
    failing(monkeypatch, "get_experiment_by_name", error, after=0, times=1)
    append(bench, *a_study())
    assert "//host:5000/api" in str(log_all(bench).status().last_error)


def test_misuse_is_told(bench: Bench) -> None:
    made = bench.make_sink()
    with pytest.raises(ValueError, match="start"):
        made.drain(1)
    made.start()
    with pytest.raises(ValueError, match="once"):
        made.start()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"study": "it's"}, "rename"),
        ({"study": ""}, "rename"),
        ({"experiment": ""}, "experiment"),
        ({"tracking_uri": "http://host", "artifact_root": Path("files")}, "artifact_root"),
    ],
)
def test_unusable_settings_are_told(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    good = {"tracking_uri": "sqlite:///x.db", "experiment": "e", "study": "s"}
    with pytest.raises(ValueError, match=word):
        MLflowSink(tmp_path / "queue", **(good | change))
