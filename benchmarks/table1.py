"""Table 1 of the paper: MNIST→USPS and USPS→MNIST, row by row.

    python benchmarks/table1.py --seeds 0 1 2 --json benchmarks/results/table1.json

Each seed trains a source network of its own. Accuracies are those after the last step: nothing
is chosen by them. `--full` has the paper's 10,000 steps of 128 images.
"""

from __future__ import annotations

from typing import Any

from tables import Row, parser, run_rows

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
TASKS = {"MNIST→USPS": ("mnist", "usps"), "USPS→MNIST": ("usps", "mnist")}
SHORT = {
    "pretraining": {"steps": 3000, "batch_size": 64},
    "steps": 2000,
    "batch_size": 64,
    "report_every": 500,
}
FULL = {"report_every": 1000}


def rows(lengths: dict[str, Any]) -> list[Row]:
    """Every method on every task."""
    return [
        Row(
            title,
            name,
            {
                "task": {"source": source, "target": target, "network": "lenet"},
                "adaptation": adaptation,
                **lengths,
            },
        )
        for title, (source, target) in TASKS.items()
        for name, adaptation in ADAPTATIONS.items()
    ]


if __name__ == "__main__":
    options = parser(__doc__.splitlines()[0], seeds=range(5)).parse_args()
    run_rows(rows(FULL if options.full else SHORT), options)
