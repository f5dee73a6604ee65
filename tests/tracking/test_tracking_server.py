"""The sink against real MLflow servers, on SQLite and PostgreSQL, in all kinds of trouble."""

import multiprocessing
import os
import signal
import threading

import pytest
from servers import Fault, Server, answers, drop, lose_answer, passes, proxy, slow
from tracking_bench import PATIENCE_S, ROWS, RUNS, Bench, a_study, append, carry, wait_for

from gam_ray.tracking import ArtifactReady, MetricsReported, TrialStarted, read_status, sink

pytestmark = pytest.mark.slow

STEPS = 300
LOSSES = {("trial", "loss", step): [step / 2] for step in range(STEPS)}


def report(bench: Bench) -> None:
    for step in range(STEPS):
        bench.queue.append(MetricsReported("key", step, {"loss": step / 2}, 10 + step))


def test_a_server_may_come_late_die_and_return(
    served: Server, served_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = served_bench
    monkeypatch.setattr(sink, "_WINDOW", 7)  # many requests, so that the kill hits one
    file = bench.folder / "a page.html"
    file.write_text("hello")
    append(bench, TrialStarted("key", "trial", {"lr": 0.1}, {}, 1), ArtifactReady("key", str(file)))
    carrier = bench.make_sink()
    carrier.start()
    wait_for(lambda: carrier.status().failures > 0)
    assert carrier.status().waiting == 2
    assert "see whether the MLflow server runs" in str(carrier.status().last_error)
    served.start()
    writer = threading.Thread(target=report, args=(bench,))
    writer.start()
    wait_for(lambda: carrier.status().logged > STEPS // 6)
    served.kill()
    writer.join()
    failures = carrier.status().failures
    wait_for(lambda: carrier.status().failures > failures)
    assert carrier.status().waiting > 0
    served.start()
    assert carrier.drain(PATIENCE_S), carrier.status()
    assert bench.rows() == LOSSES
    assert bench.runs() == {"trial": ["RUNNING"], "my study": ["RUNNING"]}
    kept = [path.read_text() for path in served.folder.rglob("artifacts/a page.html")]
    assert kept == ["hello"]
    assert carrier.close(1).rejected == 0
    told = read_status(bench.folder / "queue")
    assert (told.logged, told.waiting, told.failing) == (STEPS + 2, 0, False)


def test_a_sink_may_be_killed_at_any_moment(served: Server, served_bench: Bench) -> None:
    served.start()
    served.wait()
    bench, folder = served_bench, served_bench.folder / "queue"
    append(bench, TrialStarted("key", "trial", {"lr": 0.1}, {}, 1))
    report(bench)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mlflow", "gam_ray.tracking"])
    for kill in range(5):
        process = processes.Process(target=carry, args=(folder, served.uri, bench.experiment))
        process.start()
        assert process.pid is not None
        wait_for(lambda kills=kill: read_status(folder).logged > 40 * (kills + 1))  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert read_status(folder).waiting > 0, "the kills came too late to mean anything"
    last = bench.make_sink()
    last.start()
    assert last.drain(PATIENCE_S), last.status()
    assert bench.rows() == LOSSES
    assert bench.runs() == {"trial": ["RUNNING"], "my study": ["RUNNING"]}


@pytest.mark.parametrize(
    ("faults", "word"),
    [
        ([answers(403, "Forbidden")] * 3, "right to edit"),
        ([answers(401, "Unauthorized")] * 3, "MLFLOW_TRACKING_TOKEN"),
        ([answers(400)] * 3 + [passes] * 3 + [answers(400)], "400"),
        ([answers(500, "database or disk is full")] * 3, "its disk may be full"),
        ([passes, answers(429)] * 5, "nothing has to be done"),
        ([answers(502), passes, answers(503), passes, passes, answers(504)], "50"),
        ([drop, passes, drop, passes, passes, passes, drop], "onnection"),
        ([passes, passes, passes, lose_answer] * 8, "onnection"),
        ([slow(2.0)] * 4, "timed out"),
    ],
    ids=["403", "401", "400 of a proxy", "disk full", "429", "5xx", "drop", "lost answer", "slow"],
)
def test_trouble_on_the_way_costs_and_doubles_nothing(
    served: Server,
    served_bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
    word: str,
) -> None:
    monkeypatch.setattr(sink, "_WINDOW", 5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    served.start()
    served.wait()
    *events, end = a_study()
    append(served_bench, *events)
    left = list(faults)
    with proxy(served, left) as address:
        carrier = served_bench.make_sink(address)
        carrier.start()
        wait_for(lambda: carrier.status().failures > 0)
        assert word in str(carrier.status().last_error)
        wait_for(lambda: not left)
        assert carrier.drain(PATIENCE_S), carrier.status()
        append(served_bench, end)
        assert carrier.drain(PATIENCE_S), carrier.status()
        assert carrier.close(1).rejected == 0
    assert served_bench.rows() == ROWS
    assert served_bench.runs() == RUNS


def test_a_slow_server_holds_up_nobody(served: Server, served_bench: Bench) -> None:
    served.start()
    served.wait()
    with proxy(served, [slow(0.5)] * 6) as address:
        carrier = served_bench.make_sink(address)
        carrier.start()
        append(served_bench, *a_study())
        assert carrier.status().logged == 0, "the study has to be done before the server answers"
        assert carrier.drain(PATIENCE_S), carrier.status()
    assert carrier.status().failures == 0
    assert served_bench.rows() == ROWS
    assert served_bench.runs() == RUNS


def test_hosts_that_are_not_allowed_are_told(served: Server, served_bench: Bench) -> None:
    served.start()
    served.wait()
    append(served_bench, *a_study())
    wrong = served_bench.make_sink(f"http://me:very-secret@localhost:{served.port}")
    wrong.start()
    wait_for(lambda: wrong.status().failures > 0)
    wrong.close(0)
    told = read_status(served_bench.folder / "queue")
    assert (told.waiting, told.failing) == (len(a_study()), True)
    assert "403" in str(told.last_error)
    assert "start the MLflow server with this address among its --allowed-hosts" in str(
        told.last_error
    )
    assert told.uri == f"http://localhost:{served.port}"
    right = served_bench.make_sink()
    right.start()
    assert right.drain(PATIENCE_S), right.status()
    right.close(1)
    assert served_bench.rows() == ROWS
    assert served_bench.runs() == RUNS
    assert not read_status(served_bench.folder / "queue").failing


def test_a_server_whose_disk_is_full_catches_up(served: Server, served_bench: Bench) -> None:
    if not served.database_uri.startswith("sqlite"):
        pytest.skip("the files of PostgreSQL are written by processes of its own")
    served.start()
    served.wait()
    append(served_bench, *a_study()[:10])
    carrier = served_bench.make_sink()
    carrier.start()
    assert carrier.drain(PATIENCE_S), carrier.status()
    with served.full_disk():
        append(served_bench, *a_study()[10:])
        wait_for(lambda: carrier.status().failures > 1)
        assert "its disk may be full" in str(carrier.status().last_error)
        assert carrier.status().waiting == len(a_study()) - 10
    assert carrier.drain(PATIENCE_S), carrier.status()
    assert served_bench.rows() == ROWS
    assert served_bench.runs() == RUNS
    assert carrier.status().rejected == 0
