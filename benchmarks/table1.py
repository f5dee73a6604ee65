"""Table 1 of the paper: MNIST→USPS and USPS→MNIST, row by row.

    python benchmarks/table1.py --seeds 0 1 2 --json benchmarks/results/table1.json

Each seed trains a source network of its own. Accuracies are those after the last step: nothing
is chosen by them. The last row of a task is what a study chose without labels, from trials of the
same length, for the seeds of `--study-seeds`. `--full` has the paper's 10,000 steps of 128 images.
"""

from __future__ import annotations

import argparse
from typing import Any

import studies
from tables import Row, commit, finish, parser, run_rows, summary

from gam_ray.config import StudyConfig
from gam_ray.config.trial import FORMS

RELEASE = FORMS["release"]
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "no adaptation": {"kind": "none"},
    "Gaussian matching": {"kind": "gaussian"},
    "output only": {**RELEASE, "layers": ["fc4"], "drift": 0.0},
    "output only + drift": {**RELEASE, "layers": ["fc4"]},
    "GAM without drift": {**RELEASE, "drift": 0.0},
    "GAM, release": RELEASE,
    "GAM, paper": FORMS["paper"],
}
# Not of the paper: a source network that saw its images turned, moved and scaled a little. The
# amounts are the usual ones, and were not searched.
AUGMENTED = {"augmentation": {"rotate": 15, "shift": 0.1, "zoom": 0.1}}
ON_AUGMENTED = {
    "no adaptation, augmented source": ADAPTATIONS["no adaptation"],
    "GAM, release, augmented source": RELEASE,
}
TASKS = {"MNIST→USPS": ("mnist", "usps"), "USPS→MNIST": ("usps", "mnist")}
SHORT = {
    "pretraining": {"steps": 3000, "batch_size": 64},
    "steps": 2000,
    "batch_size": 64,
    "report_every": 500,
}
FULL = {"steps": 10_000, "report_every": 1000}


def rows(lengths: dict[str, Any]) -> list[Row]:
    """Every method on every task, and two of them on augmented source networks."""
    augmented = {**lengths, "pretraining": {**lengths.get("pretraining", {}), **AUGMENTED}}
    return [
        Row(
            title,
            name,
            {
                "task": {"source": source, "target": target, "network": "lenet"},
                "adaptation": adaptation,
                **settings,
            },
        )
        for title, (source, target) in TASKS.items()
        for methods, settings in ((ADAPTATIONS, lengths), (ON_AUGMENTED, augmented))
        for name, adaptation in methods.items()
    ]


SPACE = {
    "adaptation.layers": {"subset": ["conv2", "fc3", "fc4"], "min": 1},
    "adaptation.adversary": {"choice": ["inverted", "lsgan"]},
    "adaptation.gaussian": {"choice": [True, False]},
    "adaptation.drift": {"log": [0.01, 10]},
    "optimizer.target_lr": {"log": [1e-4, 1e-3]},
    "optimizer.discriminator_lr": {"log": [1e-4, 1e-3]},
}


def study(row: Row, options: argparse.Namespace) -> StudyConfig:
    """A search around the row, of the same source network; trials as long as the table's."""
    gpus = {"gpus_per_worker": 0.25} if options.full else {}
    return StudyConfig.from_mapping(
        {
            "name": f"table1-augmented-{row.trial['task']['source']}-{row.trial['task']['target']}",
            "trial": {**row.trial, "adaptation": RELEASE},
            "space": SPACE,
            "search": {"trials": 40 if options.full else 12},
            "schedule": {"kind": "asha", "min_steps": row.trial["report_every"]},
            "resources": gpus,
            "storage": str(options.folder / "studies"),
        }
    )


def chosen(row: Row, seeds: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """The row of what studies chose, one study a seed."""
    runs = []
    for seed in seeds:
        config = studies.seeded(study(row, options), seed)
        # Of the same source network as the table's rows of this seed.
        trial = config.trial.model_copy(update={"pretraining": row.config(seed).pretraining})
        found = studies.run(config.model_copy(update={"trial": trial}), options.data_root)
        runs.append(
            {**found, "steps": row.trial["steps"], "commit": commit(), "device": "", "metrics": {}}
        )
    return {
        **summary(Row(row.task, "GAM, augmented source, chosen by a study", row.trial), runs),
        "studies": runs,
    }


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0], seeds=range(5))
    arguments.add_argument("--study-seeds", nargs="*", type=int, help="by default, all seeds")
    given = arguments.parse_args()
    wanted = rows(FULL if given.full else SHORT)
    figures = run_rows(wanted, given)
    seeds = given.seeds if given.study_seeds is None else given.study_seeds
    if seeds:
        searched = [row for row in wanted if row.name == "GAM, release, augmented source"]
        figures += [chosen(row, seeds, given) for row in searched]
    finish(figures, given)
