"""What studies choose: runs job files over several seeds, and compares choice and oracle.

    python benchmarks/studies.py jobs/quickstart.yaml --seeds 0 1 2 --json results.json

Resumable: a study that has finished is read, not run again. The seed is the study's: it moves
the proposals and every trial, and not the source network. Of jobs that are not named, the rows that
stand in the JSON file stay.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from tables import spread, stamp

from gam_ray import Study
from gam_ray.config import StudyConfig, load_study_config
from gam_ray.study import results


def main() -> None:
    """Run, print a table in Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("jobs", nargs="+", type=Path, help="study files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = []
    for job in options.jobs:
        config = load_study_config(job)
        runs = [run(seeded(config, seed), options.data_root) for seed in options.seeds]
        row = {"job": str(job), **stamp(), "seeds": options.seeds, "runs": runs, **summary(runs)}
        rows.append(row)
        print(markdown(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": [*others(options), *rows]}, indent=1) + "\n")


def others(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of other jobs that stand in the JSON file."""
    known = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    named = {str(job) for job in options.jobs}
    return [row for row in known if row["job"] not in named]


def run(config: StudyConfig, data_root: Path | None) -> dict[str, Any]:
    """One study's figures: accuracies in percent on the target's test split, seconds."""
    study = Study(config, data_root=data_root)
    started = time.monotonic()
    choice = study.run()
    oracles = [
        100 * end.oracle["test"]
        for record, _, end in results.trial_table(study.store)
        if end.oracle and end.state != "failed" and record.role == "search"
    ]
    return {
        "seed": config.search.seed,
        "trials": results.status(study.store)["trials"],
        "none": 100 * choice["no_adaptation"]["oracle"]["test"],
        "chosen": 100 * choice["oracle"]["test"],
        "best": max(oracles),
        "score": choice["score"],
        "trial": choice["trial"]["name"],
        "settings": choice["settings"],
        "oracle": choice["oracle"],
        "seconds": results.status(study.store)["elapsed_s"],
        "seconds_now": time.monotonic() - started,
    }


def seeded(config: StudyConfig, seed: int) -> StudyConfig:
    """The study under another seed, and in a folder of its own."""
    search = config.search.model_copy(update={"seed": seed})
    name = config.name if seed == config.search.seed else f"{config.name}-seed{seed}"
    return config.model_copy(update={"search": search, "name": name})


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of each figure."""
    names = ("none", "chosen", "best", "seconds")
    return {name: spread([run[name] for run in runs]) for name in names}


def markdown(row: dict[str, Any]) -> str:
    """One line of the README's table."""
    figures = [row[name] for name in ("none", "chosen", "best")]
    cells = [f"{figure['mean']:.1f} ± {figure['std']:.1f}" for figure in figures]
    seeds = " ".join(str(seed) for seed in row["seeds"])
    return f"| `{row['job']}` ({seeds}) | {' | '.join(cells)} | {row['seconds']['mean']:.0f} |"


if __name__ == "__main__":
    main()
