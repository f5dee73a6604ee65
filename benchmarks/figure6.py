"""Figure 6 of the paper, on streets → CamVid: what a few labelled target images add.

    python benchmarks/figure6.py --seeds 0 1 2 --json benchmarks/results/figure6.json

The network as it is and the adapted one are trained on 1, 10, 25 or 35 labelled images of CamVid's
training split (`fine_tuning`); lengths and settings of `table3.py`.
"""

from __future__ import annotations

from typing import Any

import table3
from tables import Row, finish, parser, run_rows

IMAGES = (1, 10, 25, 35)
METHODS = ("no adaptation", "GAM")


def rows(lengths: dict[str, Any]) -> list[Row]:
    """Both networks, without labels and with so many."""
    found = {row.name: row for row in table3.rows(lengths)}
    return [
        Row(
            table3.TITLE,
            f"{name}, {images} labelled images",
            {**found[name].trial, "fine_tuning": {"images": images} if images else None},
        )
        for name in METHODS
        for images in (0, *IMAGES)
    ]


if __name__ == "__main__":
    options = parser(__doc__.splitlines()[0], seeds=range(3)).parse_args()
    lengths = table3.FULL if options.full else table3.SHORT
    finish(run_rows(rows(lengths), options), options)
