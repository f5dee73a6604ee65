"""What the tests of the sink look through: a queue, and a database read without MLflow."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy

from gam_ray.tracking import (
    Event,
    MetricsReported,
    MLflowSink,
    StudyEnded,
    StudyStarted,
    TagsSet,
    TrackingQueue,
    TrialEnded,
    TrialStarted,
    sink,
)

PATIENCE_S = 120.0  # no test expects to wait so long
STEPS = 12
ROWS = {
    (name, key, step): [step / parts]
    for name in ("trial 1", "trial 2")
    for key, parts in (("loss", 2), ("acc", 3))
    for step in range(STEPS)
} | {("shown study", "best", 1): [0.9]}
RUNS = {"shown study": ["FINISHED"], "trial 1": ["FINISHED"], "trial 2": ["KILLED"]}


@dataclass(frozen=True)
class FirstStart:
    """What the first start on a new database left behind."""

    folder: Path
    stdout: str
    stderr: str


class MakeSink(Protocol):
    """Makes a sink on the bench's queue, on its database or on a server."""

    def __call__(self, uri: str = ...) -> MLflowSink:
        """Make it."""


@dataclass
class Bench:
    """A queue, and a database to look into without MLflow."""

    folder: Path
    database_uri: str
    experiment: str
    queue: TrackingQueue
    make_sink: MakeSink

    def rows(self) -> dict[tuple[str, str, int], list[float]]:
        """The metric rows by run name, key and step."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for name, key, step, value in self._ask("m.key, m.step, m.value", "metrics m"):
            found.setdefault((name, key, step), []).append(value)
        return found

    def runs(self) -> dict[str, list[str]]:
        """The statuses of the runs by run name."""
        found: dict[str, list[str]] = {}
        for name, status in self._ask("r.status"):
            found.setdefault(name, []).append(status)
        return found

    def params(self, name: str) -> dict[str, str]:
        """The params of the run of that name."""
        return self._pairs("params", name)

    def tags(self, name: str) -> dict[str, str]:
        """The tags of the run of that name."""
        return self._pairs("tags", name)

    def _pairs(self, table: str, run: str) -> dict[str, str]:
        rows = self._ask("t.key, t.value", f"{table} t")
        return {key: value for name, key, value in rows if name == run}

    def _ask(self, columns: str, table: str = "") -> list[Any]:
        """Rows of the experiment's runs that are not deleted, each led by the run's name."""
        join = f"join {table} using (run_uuid)" if table else ""
        query = (
            f"select r.name, {columns} from runs r {join} "  # noqa: S608 - the tests' own words
            "join experiments e on e.experiment_id = r.experiment_id "
            "where r.lifecycle_stage = 'active' and e.name = :name"
        )
        engine = sqlalchemy.create_engine(self.database_uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), {"name": self.experiment}))


def a_study() -> list[Event]:
    """A study of two trials with reports in turn."""
    reports = [
        MetricsReported(trial, step, {"loss": step / 2, "acc": step / 3}, 100 + step)
        for step in range(STEPS)
        for trial in ("key-1", "key-2")
    ]
    return [
        StudyStarted("shown study", {"seed": 0, "task": "m→u", "limit": None}, {"mood": "calm"}, 1),
        TrialStarted("key-1", "trial 1", {"lr": 0.1, "layers/conv1": True}, {"lane": "0"}, 2),
        TrialStarted("key-2", "trial 2", {"lr": 0.2}, {}, 3),
        *reports,
        MetricsReported(None, 1, {"best": 0.9}, 400),
        TagsSet("key-1", {"note": "first"}),
        TrialEnded("key-1", "FINISHED", 500),
        TrialEnded("key-2", "KILLED", 501),
        StudyEnded("FINISHED", 502),
    ]


def append(bench: Bench, *events: Event) -> None:
    """Queue events."""
    for event in events:
        bench.queue.append(event)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, and fail if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def carry(folder: Path, uri: str, experiment: str) -> None:
    """Be a sink, in small steps, until killed."""
    sink._WINDOW = 7
    sink._POLL_S = 0.02
    made = MLflowSink(folder, tracking_uri=uri, experiment=experiment, study="my study")
    made.start()
    made.drain(PATIENCE_S)
    time.sleep(PATIENCE_S)
