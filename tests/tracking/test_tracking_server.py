"""The sink against a server that is not there yet, is killed, and comes back."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tracking_bench import PATIENCE_S, Bench, wait_for

from gam_ray.tracking import ArtifactReady, MetricsReported, TrialStarted, sink

pytestmark = pytest.mark.slow

STEPS = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(bench: Bench, port: int) -> Iterator[Callable[[], None]]:
    """An MLflow server in a process group of its own; yields what kills it."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", "127.0.0.1:*"]
    command += ["--backend-store-uri", f"sqlite:///{bench.database}"]
    command += ["--artifacts-destination", str(bench.folder / "served files")]
    # Without this the server starts eight more processes for jobs of its own.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (bench.folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def kill() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    try:
        yield kill
    finally:
        kill()


def test_a_server_may_come_late_die_and_return(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_WINDOW", 7)  # many requests, so that the kill hits one
    port = free_port()
    carrier = bench.make_sink(f"http://127.0.0.1:{port}")
    file = bench.folder / "a page.html"
    file.write_text("hello")
    bench.queue.append(TrialStarted("key", "trial", {"lr": 0.1}, {}, 1))
    bench.queue.append(ArtifactReady("key", str(file)))
    carrier.start()
    wait_for(lambda: carrier.status().failures > 0)
    assert carrier.status().waiting == 2
    with server(bench, port) as kill:
        writer = threading.Thread(target=report, args=(bench,))
        writer.start()
        wait_for(lambda: carrier.status().logged > STEPS // 6)
        kill()
        writer.join()
        failures = carrier.status().failures
        wait_for(lambda: carrier.status().failures > failures)
        assert carrier.status().waiting > 0
    with server(bench, port):
        assert carrier.drain(PATIENCE_S), carrier.status()
    assert bench.rows() == {("trial", "loss", step): [step / 2] for step in range(STEPS)}
    assert bench.runs() == {"trial": ["RUNNING"], "my study": ["RUNNING"]}
    assert [path.read_text() for path in bench.folder.rglob("artifacts/a page.html")] == ["hello"]
    assert carrier.close(1).rejected == 0


def report(bench: Bench) -> None:
    for step in range(STEPS):
        bench.queue.append(MetricsReported("key", step, {"loss": step / 2}, 10 + step))
