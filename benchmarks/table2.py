"""Table 2 of the paper: half of the digits missing on one side (label shift), MNIST and USPS.

    python benchmarks/table2.py --seeds 0 1 2 --json benchmarks/results/table2.json

`odd` and `even` are the digits that are left. The paper's matching hurts in three of its eight
rows: this is what a study has to notice without target labels.
"""

from __future__ import annotations

from typing import Any

from table1 import ADAPTATIONS, FULL, SHORT
from tables import Row, finish, parser, run_rows

TASKS = {
    "MNIST odd→USPS": ("mnist-odd", "usps"),
    "MNIST even→USPS": ("mnist-even", "usps"),
    "MNIST→USPS odd": ("mnist", "usps-odd"),
    "MNIST→USPS even": ("mnist", "usps-even"),
}
METHODS = ("no adaptation", "Gaussian matching", "GAM, release")


def rows(lengths: dict[str, Any]) -> list[Row]:
    """Each method on each shifted task."""
    return [
        Row(
            title,
            method,
            {
                "task": {"source": source, "target": target, "network": "lenet"},
                "adaptation": ADAPTATIONS[method],
                **lengths,
            },
        )
        for title, (source, target) in TASKS.items()
        for method in METHODS
    ]


if __name__ == "__main__":
    options = parser(__doc__.splitlines()[0], seeds=range(5)).parse_args()
    finish(run_rows(rows(FULL if options.full else SHORT), options), options)
