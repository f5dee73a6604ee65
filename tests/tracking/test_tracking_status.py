"""What any process is told of a sink by its files, and what a sink holds in memory."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import BAD_REQUEST, MlflowException
from tracking_bench import PATIENCE_S, ROWS, Bench, a_study, append, wait_for

from gam_ray.tracking import (
    MetricsReported,
    MLflowSink,
    TrackingQueue,
    TrackingStatus,
    TrialStarted,
    health,
    read_status,
    sink,
)


def test_a_folder_without_a_queue_has_nothing_to_tell(tmp_path: Path) -> None:
    assert read_status(tmp_path / "nothing") == TrackingStatus()
    assert not (tmp_path / "nothing").exists()


def test_the_files_tell_of_an_outage_and_of_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench.folder / "queue"
    with monkeypatch.context() as outage:
        outage.setattr(mlflow.MlflowClient, "log_batch", _raise(RuntimeError("error code 403")))
        append(bench, *a_study())
        made = bench.make_sink()
        made.start()
        wait_for(lambda: read_status(folder).failing)
        told = read_status(folder)
        assert (told.logged, told.waiting) == (0, len(a_study()))
        assert "MLFLOW_TRACKING_USERNAME" in str(told.last_error)
        assert told.last_error_time is not None
        assert told.uri == bench.database_uri
    assert made.drain(PATIENCE_S)
    made.close(1)
    after = read_status(folder)
    assert (after.logged, after.waiting, after.failing) == (len(a_study()), 0, False)
    assert after.last_error == told.last_error
    assert bench.make_sink().status().last_error is None, "of this sink, not of an earlier one"
    assert read_status(folder).last_error == told.last_error


def test_reading_changes_nothing(bench: Bench) -> None:
    append(bench, *a_study())
    folder = bench.folder / "queue"
    (folder / "offset.json").write_text("{torn")
    (folder / "sink.json").write_text("[torn")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert read_status(folder).waiting == len(a_study())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_it_is_written_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: now[0])
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(health, "replace_json", lambda _, content: written.append(dict(content)))
    kept = health.Health(tmp_path, "http://host")
    for number in range(100):
        kept.failed(f"failure {number}")
        now[0] += 0.05
    assert 4 <= len(written) <= 6
    now[0] += 1.0
    kept.write()
    kept.write()
    assert written[-1]["last_error"] == "failure 99"
    assert [each["last_error"] for each in written].count("failure 99") == 1


def test_a_storage_that_refuses_it_does_not_hold_up_records(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "replace_json", _raise(OSError("no space left")))
    append(bench, *a_study())
    made = bench.make_sink()
    made.start()
    assert made.drain(PATIENCE_S), made.status()
    assert bench.rows() == ROWS


def test_a_poisoned_record_is_named_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    append(bench, *(TrialStarted("k", "t", {"a": each}, {}, each) for each in (1, 2, 3)))
    for _ in range(2):
        made = bench.make_sink()
        made.start()
        assert made.drain(PATIENCE_S)
        made.close(1)
        (bench.folder / "queue" / "offset.json").unlink()
    told = read_status(bench.folder / "queue")
    assert told.rejected == 2
    assert "'3'" in str(told.last_rejection)
    lines = [each for each in caplog.messages if "rejected.jsonl" in each]
    assert len(lines) == 2
    assert all("'trial': 'k'" in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "(psycopg2.InterfaceError) connection already closed",
        "QueuePool limit of size 5 overflow 10 reached, connection timed out",
        "Can't reconnect until invalid transaction is rolled back.",
    ],
)
def test_a_database_that_is_away_is_no_refusal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """MLflow calls these bad requests."""
    with monkeypatch.context() as outage:
        error = MlflowException(text, error_code=BAD_REQUEST)
        outage.setattr(mlflow.MlflowClient, "log_batch", _raise(error))
        append(bench, *a_study())
        made = bench.make_sink()
        made.start()
        wait_for(lambda: made.status().failures > 2)
    assert made.drain(PATIENCE_S), made.status()
    assert made.status().rejected == 0
    assert bench.rows() == ROWS


class _Store:
    """A store that takes everything and keeps nothing."""

    experiment_id = "1"

    def __init__(self, **_: Any) -> None:
        self.largest = 0

    def connect(self) -> None: ...

    def run_ids(self) -> dict[str, str]:
        return {}

    def log(self, _: str, batch: Any, **__: Any) -> None:
        self.largest = max(self.largest, len(batch.content.metrics))


def test_memory_does_not_grow_with_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "RunStore", _Store)

    def peak(rows: int) -> int:
        folder = tmp_path / f"{rows} rows"
        TrackingQueue(folder)
        report = MetricsReported("key", 1, {"loss": 0.5}, 1).to_json()
        with (folder / "events.jsonl").open("w") as file:
            for step in range(rows):
                file.write(json.dumps({**report, "step": step}) + "\n")
        made = MLflowSink(folder, tracking_uri="http://host", experiment="e", study="s")
        tracemalloc.start()
        try:
            made.start()
            assert made.drain(PATIENCE_S), made.status()
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert made.close(1).logged == rows
        assert made._store.largest <= 1000  # type: ignore[attr-defined]
        return most

    peak(1000)  # what is imported and kept on the way
    assert peak(20_000) < 1.5 * peak(2_000)


def _raise(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail
