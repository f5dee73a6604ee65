"""How much training a search needs to be as good as 60 random trials.

    python benchmarks/economy.py --seeds 0 1 2 3 4 --json benchmarks/results/economy.json

Digits drawn from fonts → handwriting, short trials. For each seed two studies of the same space,
both led by one absolute score without labels (ClassAMI): a random search of 60 whole trials, and
gam_ray's own way, TPE with ASHA and the collapse guard. Counted in adaptation steps, which are the
same on every machine, in the order in which reports came: how many until the best score of the
random search was reached. What the guard distrusts counts for neither. Some minutes a seed on
two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from tables import FOLDER, stamp

from gam_ray import Study
from gam_ray.config import StudyConfig
from gam_ray.selection.guard import guard_causes
from gam_ray.study.store import StudyStore

TRIAL: dict[str, Any] = {
    "task": {"source": "rendered-digits", "target": "handwritten-digits", "network": "lenet"},
    "pretraining": {"steps": 300, "batch_size": 64},
    "steps": 240,
    "batch_size": 32,
    "report_every": 60,
}
SPACE: dict[str, Any] = {
    "adaptation.weight": {"log": [1, 300]},
    "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
    "adaptation.adversary": {"choice": ["gan", "inverted", "lsgan"]},
    "adaptation.gaussian": {"choice": [True, False]},
    "optimizer.target_lr": {"log": [2e-5, 2e-3]},
    "optimizer.discriminator_lr": {"log": [2e-5, 2e-3]},
}
SCORE = "class_ami"
WAYS: dict[str, dict[str, Any]] = {
    "random": {"search": {"sampler": "random"}, "schedule": {"kind": "none"}},
    "gam_ray": {
        "search": {"sampler": "tpe"},
        "schedule": {"kind": "asha", "min_steps": 60, "reduction_factor": 3},
    },
}
TRIALS = 60


def main(options: argparse.Namespace) -> None:
    """Run what is not done, compare, write."""
    found = []
    for seed in options.seeds:
        searches = {way: course(way, seed, options.folder) for way in WAYS}
        found.append({"seed": seed, **compare(searches)})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    ratios = [each["share of the steps"] for each in found if each["share of the steps"]]
    content = {
        **stamp(),
        "trials": TRIALS,
        "score": SCORE,
        "seeds": found,
        "reached": f"{len(ratios)} of {len(found)}",
        "median share of the steps": statistics.median(ratios) if ratios else None,
        "mean share of the steps": statistics.mean(ratios) if ratios else None,
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n")


def course(way: str, seed: int, folder: Path) -> list[tuple[int, float]]:
    """Steps done and best score so far, report by report."""
    config = StudyConfig.from_mapping(
        {
            "name": f"economy-{way}-{seed}",
            "trial": TRIAL,
            "space": SPACE,
            "objective": {"score": SCORE, "finalists": 1, "seeds": 1},
            "student": None,
            "resources": {"workers": 1, "max_lanes": os.cpu_count()},
            "storage": str(folder.absolute()),
            **WAYS[way],
            "search": {**WAYS[way]["search"], "trials": TRIALS, "seed": seed},
        }
    )
    Study(config).run()
    reports = sorted(
        (report.time, report.step - earlier, trusted_score(report.metrics, config))
        for files in StudyStore(config.folder).trials()
        if files.record().role == "search"
        for earlier, report in steps_between(files.reports())
    )
    steps = accumulate(step for _, step, _ in reports)
    best = accumulate((score for _, _, score in reports), max)
    return list(zip(steps, best, strict=True))


def steps_between(reports: Any) -> list[tuple[int, Any]]:
    """Each report with the step of the one before it."""
    ordered = sorted(reports, key=lambda report: report.step)
    return list(zip([0, *(report.step for report in ordered)], ordered, strict=False))


def trusted_score(metrics: dict[str, float], config: StudyConfig) -> float:
    """The score of a report; none that counts where the guard distrusts it."""
    distrusted = guard_causes(metrics, label_shift=config.objective.label_shift)
    return -1.0 if distrusted else metrics[f"score/{SCORE}"]


def compare(searches: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    """When each search reached the best score of the random one, in steps."""
    goal = searches["random"][-1][1]
    whole = searches["random"][-1][0]
    reached = {
        way: next((step for step, best in course if best >= goal), None)
        for way, course in searches.items()
    }
    own = reached["gam_ray"]
    return {
        "best of the random search": goal,
        "best of gam_ray": searches["gam_ray"][-1][1],
        "steps of the random search": whole,
        "steps of gam_ray": searches["gam_ray"][-1][0],
        "the random search had it after": reached["random"],
        "gam_ray had it after": own,
        "share of the steps": own / whole if own else None,
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument(
        "--folder", type=Path, default=FOLDER, help="of studies, done or cut off"
    )
    arguments.add_argument("--json", type=Path, required=True)
    main(arguments.parse_args())
