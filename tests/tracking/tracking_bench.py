"""What the tests of the sink look through: a queue, and a database read without MLflow."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gam_ray.tracking import MLflowSink, TrackingQueue

PATIENCE_S = 240.0  # no test expects to wait so long


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
    database: Path
    queue: TrackingQueue
    make_sink: MakeSink

    def rows(self) -> dict[tuple[str, str, int], list[float]]:
        """The metric rows by run name, key and step."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for name, key, step, value in self._ask(
            "select r.name, m.key, m.step, m.value from metrics m join runs r using (run_uuid)"
        ):
            found.setdefault((name, key, step), []).append(value)
        return found

    def runs(self) -> dict[str, list[str]]:
        """The statuses of the runs by run name."""
        found: dict[str, list[str]] = {}
        for name, status in self._ask(
            "select r.name, r.status from runs r join experiments e using (experiment_id) "
            "where e.name = 'an experiment'"
        ):
            found.setdefault(name, []).append(status)
        return found

    def params(self, name: str) -> dict[str, str]:
        """The params of the run of that name."""
        return self._pairs("params", name)

    def tags(self, name: str) -> dict[str, str]:
        """The tags of the run of that name."""
        return self._pairs("tags", name)

    def _pairs(self, table: str, name: str) -> dict[str, str]:
        return dict(
            self._ask(
                f"select t.key, t.value from {table} t join runs r using (run_uuid) "  # noqa: S608
                "where r.name = ?",
                name,
            )
        )

    def _ask(self, query: str, *values: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.database, timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, and fail if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
