"""What the tables of the paper share: rows of trials over seeds, resumable, in processes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gam_ray.config import TrialConfig
from gam_ray.training.reports import Verdict

FOLDER = Path("benchmarks") / "runs"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        task: What the table calls the task, such as ``MNIST→USPS``.
        name: What it calls the method.
        trial: The trial's settings without its seeds.
    """

    task: str
    name: str
    trial: Mapping[str, Any]

    def config(self, seed: int) -> TrialConfig:
        """The row's trial; a seed has a source network of its own."""
        pretraining = {**self.trial.get("pretraining", {}), "seed": seed}
        return TrialConfig.from_mapping({**self.trial, "pretraining": pretraining, "seed": seed})


def parser(description: str, *, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """The options that all tables take."""
    options = argparse.ArgumentParser(description=description, allow_abbrev=False)
    options.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    options.add_argument("--json", type=Path, help="where the figures go")
    options.add_argument("--data-root", type=Path, help="folder of the data sets")
    options.add_argument("--folder", type=Path, default=FOLDER, help="of runs, done and cut off")
    options.add_argument("--processes", type=int, default=os.cpu_count(), help="trials at once")
    options.add_argument("--rows", nargs="+", help="words of the rows to run; by default all")
    options.add_argument("--full", action="store_true", help="the paper's lengths, for a GPU")
    return options


def run_rows(rows: Sequence[Row], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not done yet; the figures of each row.

    Rows of one source network wait for each other's pretraining through the source cache.
    """
    if options.rows:
        rows = [row for row in rows if any(words in row.name for words in options.rows)]
    jobs = {(row.task, row.name, seed): row.config(seed) for seed in options.seeds for row in rows}
    done: dict[tuple[str, str, int], dict[str, Any]] = {}
    started = time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = {
            pool.submit(run, config, options.folder, options.data_root): name
            for name, config in jobs.items()
        }
        for future in as_completed(waiting):
            name = waiting[future]
            done[name] = future.result()
            minutes = (time.monotonic() - started) / 60
            print(
                f"{len(done)}/{len(jobs)} after {minutes:.0f} min: {name[0]}, {name[1]}, seed "
                f"{name[2]}: {100 * done[name]['oracle']['test']:.1f}",
                file=sys.stderr,
                flush=True,
            )
    return [
        summary(row, [done[row.task, row.name, seed] for seed in options.seeds]) for row in rows
    ]


def finish(figures: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Print the table in Markdown and write the figures.

    Runs of other seeds that stand in the JSON file stay, and count; so do other rows.
    """
    seeds: list[int] = options.seeds
    if options.json and options.json.exists():
        known = json.loads(options.json.read_text())
        here = {(row["task"], row["row"]) for row in figures}
        others = [row for row in known["rows"] if (row["task"], row["row"]) not in here]
        figures = [*(merged(row, seeds, known) for row in figures), *others]
        seeds = [*(seed for seed in known["seeds"] if seed not in seeds), *seeds]
    print(markdown(figures))
    if options.json:
        content = {**stamp(), "seeds": seeds, "rows": figures}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def merged(row: Mapping[str, Any], seeds: list[int], known: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the runs of other seeds that are known."""
    same = (old for old in known["rows"] if (old["task"], old["row"]) == (row["task"], row["row"]))
    old: Mapping[str, Any] = next(same, {"runs": [], "commits": []})
    runs = [run for run in old["runs"] if run["seed"] not in seeds]
    return {
        **row,
        **spreads([*runs, *row["runs"]]),
        "commits": sorted({*old["commits"], *row["commits"]}),
    }


def run(config: TrialConfig, folder: Path, data_root: Path | None) -> dict[str, Any]:
    """One trial's figures; read where it is done, resumed where it was cut off."""
    import torch
    from threadpoolctl import threadpool_limits

    from gam_ray.training.trial import Place, run_trial

    here = (folder / config.key()).absolute()
    result = here / "result.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return {"seed": config.seed, **found}
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    curve = Curve(here)
    started = time.monotonic()
    place = Place(here, folder.absolute() / ".sources", data_root, device)
    # Scores use scikit-learn: many processes with as many threads each would wait for each other.
    with threadpool_limits(1):
        outcome = run_trial(config, place, curve)
    if outcome.oracle is None:
        raise ValueError(f"a table needs a target with labels, but {config.task.target} has none")
    figures = {
        "seed": config.seed,
        "oracle": outcome.oracle.to_mapping(),
        "metrics": curve.metrics,
        "steps": outcome.step,
        "seconds": time.monotonic() - started,
        "device": str(device),
        "commit": commit(),
        "config": config.to_mapping(),
    }
    result.write_text(json.dumps(figures))
    return figures


class Curve:
    """A reporter that keeps the newest metrics and, by a line a report, all of them.

    Args:
        folder: Where ``reports.jsonl`` goes.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "reports.jsonl"
        self.metrics: dict[str, float] = {}

    def report(self, report: Any) -> Verdict:
        """Keep it; always go on."""
        self.metrics = report.metrics
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as lines:
            lines.write(json.dumps({"step": report.step, **report.metrics}) + "\n")
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing: the table tells of whole trials."""

    def is_to_pause(self) -> bool:
        """Never: a run that is cut off goes on from its last report."""
        return False


def summary(row: Row, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of each figure, in percent, by split."""
    return {
        "task": row.task,
        "row": row.name,
        **spreads(runs),
        "steps": runs[0]["steps"],
        "commits": sorted({run["commit"] for run in runs}),
    }


def spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row tells of its runs, and the runs."""
    names = sorted(set.intersection(*(set(run["oracle"]) for run in runs)))
    return {
        "percent": {name: spread([100 * run["oracle"][name] for run in runs]) for name in names},
        "seconds": spread([run["seconds"] for run in runs]),
        "runs": [
            {name: run[name] for name in ("seed", "oracle", "metrics", "seconds", "device")}
            for run in runs
        ],
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation (of the sample; 0 for one value)."""
    found = list(values)
    std = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"mean": statistics.mean(found), "std": std}


def markdown(figures: Sequence[Mapping[str, Any]]) -> str:
    """A table for each task, of the figures that all its rows have."""
    lines = []
    for task in dict.fromkeys(figure["task"] for figure in figures):
        rows = [figure for figure in figures if figure["task"] == task]
        names = [name for name in rows[0]["percent"] if "/iou/" not in name]
        lines += [
            "",
            f"| {task} | {' | '.join(names)} | seconds |",
            "|---" * (len(names) + 2) + "|",
        ]
        for figure in rows:
            cells = [_cell(figure["percent"][name]) for name in names]
            cells.append(f"{figure['seconds']['mean']:.0f}")
            lines.append(f"| {figure['row']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.1f} ± {value['std']:.1f}"


def stamp() -> dict[str, Any]:
    """When, from what, and on what."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
    }


def commit() -> str:
    """The commit that was measured."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
