"""A database made once, and sinks on copies of it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postgresql_server import postgresql_server
from servers import Server
from tracking_bench import Bench, FirstStart

from gam_ray.tracking import MLflowSink, TrackingQueue, sink

FIRST_START = """
import sys
from pathlib import Path
from gam_ray.tracking import MLflowSink, StudyStarted, TrackingQueue
assert "mlflow" not in sys.modules, "importing gam_ray.tracking imports mlflow"
folder = Path.cwd()
TrackingQueue(folder / "queue").append(StudyStarted("first", {}, {}, 1))
sink = MLflowSink(folder / "queue", tracking_uri=f"sqlite:///{folder}/mlflow.db",
                  experiment="first", study="first")
sink.start()
sink.drain(120)
assert sink.close(1).logged == 1, sink.status()
"""


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> FirstStart:
    """A sink's first start, in a process of its own: it takes seconds."""
    folder = tmp_path_factory.mktemp("first start")
    done = subprocess.run(
        [sys.executable, "-c", FIRST_START], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return FirstStart(folder, done.stdout, done.stderr)


@pytest.fixture
def bench(request: pytest.FixtureRequest, impatient: None) -> Iterator[Bench]:  # noqa: ARG001
    """A new queue, and a new SQLite database, in a folder with a space in its name."""
    folder = _new_folder(request)
    first_start: FirstStart = request.getfixturevalue("first_start")
    shutil.copy(first_start.folder / "mlflow.db", folder)
    uri = f"sqlite:///{folder}/mlflow.db"
    yield from _benches(folder, uri, "an experiment", uri)


@pytest.fixture
def served_bench(
    request: pytest.FixtureRequest,
    served: Server,
    impatient: None,  # noqa: ARG001
) -> Iterator[Bench]:
    """A new queue, and a new experiment of the server."""
    folder = _new_folder(request)
    yield from _benches(folder, served.database_uri, request.node.name, served.uri)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql")])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """An MLflow server that is not started yet, on a database of its own."""
    folder = tmp_path_factory.mktemp("a server")
    with ExitStack() as stack:
        if request.param == "postgresql":
            uri = stack.enter_context(postgresql_server())
        else:
            uri = f"sqlite:///{folder}/mlflow.db"
        server = Server(folder, uri)
        stack.callback(server.kill)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks that wait for less long than in life."""
    monkeypatch.setattr(sink, "_POLL_S", 0.02)
    monkeypatch.setattr(sink, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(sink, "_LONGEST_DELAY_S", 0.5)


def _new_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("tmp_path") / "a study"
    folder.mkdir()
    return folder


def _benches(folder: Path, database: str, experiment: str, uri: str) -> Iterator[Bench]:
    made: list[MLflowSink] = []

    def make_sink(uri: str = uri) -> MLflowSink:
        new = MLflowSink(
            folder / "queue", tracking_uri=uri, experiment=experiment, study="my study"
        )
        made.append(new)
        return new

    yield Bench(folder, database, experiment, TrackingQueue(folder / "queue"), make_sink)
    for each in made:
        each.close(0)
