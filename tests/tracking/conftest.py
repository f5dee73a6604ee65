"""A database made once, and sinks on copies of it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
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
def bench(
    first_start: FirstStart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A new queue and a new database, in a folder with a space in its name."""
    monkeypatch.setattr(sink, "_POLL_S", 0.02)
    monkeypatch.setattr(sink, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(sink, "_LONGEST_DELAY_S", 0.5)
    folder = tmp_path / "a study"
    folder.mkdir()
    database = folder / "mlflow.db"
    shutil.copy(first_start.folder / "mlflow.db", database)
    made: list[MLflowSink] = []

    def make_sink(uri: str = f"sqlite:///{database}") -> MLflowSink:
        new = MLflowSink(
            folder / "queue", tracking_uri=uri, experiment="an experiment", study="my study"
        )
        made.append(new)
        return new

    yield Bench(folder, database, TrackingQueue(folder / "queue"), make_sink)
    for each in made:
        each.close(0)
