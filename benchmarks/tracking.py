"""How fast a sink catches up with a backlog, and what memory that takes.

    python benchmarks/tracking.py --json benchmarks/results/tracking.json
    python benchmarks/tracking.py --uri http://127.0.0.1:5000

The queue holds all rows before the sink starts, one metric a report or, with --values, several. By
default they go to a new SQLite file. Told are metric rows a second, from the first request on, and
by how much the process grew, in MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import stamp

from gam_ray.tracking import MetricsReported, MLflowSink, TrackingQueue, TrialStarted

TRIALS = 20
PATIENCE_S = 3600.0


def main() -> None:
    """Run, print, write JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--rows", type=int, default=100_000, help="metric rows in all")
    options.add_argument("--values", type=int, default=1, help="metrics a report")
    options.add_argument("--uri", help="an MLflow server; by default a new SQLite file")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = catch_up(Path(folder), given.rows, given.values, given.uri)
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if given.json:
        given.json.write_text(json.dumps({**stamp(), **found}, indent=1) + "\n")


def catch_up(folder: Path, rows: int, values: int, uri: str | None) -> dict[str, Any]:
    """Fill a queue, and let a sink empty it."""
    fill(folder, rows, values)
    sink = MLflowSink(
        folder,
        tracking_uri=uri or f"sqlite:///{folder}/mlflow.db",
        experiment=f"backlog {time.time():.0f}",
        study="backlog",
    )
    sink.start()
    while sink.status().logged == 0:  # imports, migrations and a first window
        time.sleep(0.01)
    before, size, began = sink.status().logged, peak_mib(), time.monotonic()
    sink.drain(PATIENCE_S)
    seconds = time.monotonic() - began
    end = sink.close(1)
    if end.waiting or end.rejected:
        raise SystemExit(f"not all was logged: {end}")
    return {
        "rows": rows,
        "values_a_report": values,
        "rows_per_s": round((end.logged - before) * values / seconds),
        "grew_mib": round(peak_mib() - size, 1),
    }


def fill(folder: Path, rows: int, values: int) -> None:
    """Write a backlog; without the queue, which waits for the disk after each report."""
    queue = TrackingQueue(folder)
    for trial in range(TRIALS):
        queue.append(TrialStarted(f"key-{trial}", f"trial {trial}", {"lr": 0.1}, {}, 1))
    with (folder / "events.jsonl").open("a") as file:
        for number in range(rows // values):
            step, trial = divmod(number, TRIALS)
            measured = {f"loss/{value}": step / 7 + value for value in range(values)}
            event = MetricsReported(f"key-{trial}", step, measured, 10 + step)
            file.write(json.dumps(event.to_json()) + "\n")


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
