"""Figure 5 of the paper, on digits and streets: long output-only matching, with drift and without.

    python benchmarks/figure5.py --tasks digits --seeds 0 1 --json benchmarks/results/figure5.json
    python benchmarks/figure5.py --tasks streets --seeds 0 --json benchmarks/results/figure5.json

Every report's checkpoint is held against the target's test split, after it was reported: a curve to
look at, which nothing chooses by. The picture goes to docs/figure5.png; curves of tasks and seeds
that are not named stay as the file of figures has them.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import table3
from table1 import ADAPTATIONS
from tables import Curve, Row, parser, stamp

from gam_ray.config import TrialConfig
from gam_ray.training.reports import Verdict

PICTURE = Path("docs") / "figure5.png"
METHODS = ("output only", "output only + drift")
DIGITS = {"source": "mnist", "target": "usps", "network": "lenet"}
SHORT = {"pretraining": {"steps": 3000, "batch_size": 64}, "steps": 6000, "batch_size": 64}
FULL = {"steps": 50_000}
REPORTS = 20
# Title of a task, and what its curves show.
TITLES = {
    "digits": ("MNIST → USPS", "accuracy on USPS test, %"),
    "streets": ("streets → CamVid", "mean IoU on CamVid test, %"),
}


def main(options: argparse.Namespace) -> None:
    """Run what is not done, draw, write."""
    known = json.loads(options.json.read_text())["curves"] if options.json.exists() else []
    jobs = [
        (task, row.name, seed, row.config(seed))
        for task in options.tasks
        for seed in options.seeds
        for row in ROWS[task](full=options.full)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = [
            (task, name, seed, pool.submit(curve, config, options.folder, options.data_root))
            for task, name, seed, config in jobs
        ]
        found = [
            {"task": task, "row": name, "seed": seed, **future.result()}
            for task, name, seed, future in waiting
        ]
    new = {(c["task"], c["row"], c["seed"]) for c in found}
    curves = found + [c for c in known if (c["task"], c["row"], c["seed"]) not in new]
    options.json.write_text(json.dumps({**stamp(), "curves": curves}, indent=1) + "\n")
    draw(curves)


def digits(*, full: bool) -> list[Row]:
    """Both methods on MNIST → USPS."""
    lengths: dict[str, Any] = FULL if full else SHORT
    every = {"report_every": lengths["steps"] // REPORTS}
    return [
        Row("digits", name, {"task": DIGITS, "adaptation": ADAPTATIONS[name], **lengths, **every})
        for name in METHODS
    ]


def streets(*, full: bool) -> list[Row]:
    """Both methods of Table 3, for eight times as many steps."""
    lengths = table3.FULL if full else table3.SHORT
    steps = 8 * int(lengths["steps"])
    longer = {"steps": steps, "report_every": steps // REPORTS}
    return [
        Row("streets", row.name, {**row.trial, **longer})
        for row in table3.rows(lengths)
        if row.name in METHODS
    ]


ROWS = {"digits": digits, "streets": streets}


def curve(config: TrialConfig, folder: Path, data_root: Path | None) -> dict[str, Any]:
    """Steps and test accuracies in percent of one trial."""
    import torch

    from gam_ray.training.data import load_target_labels, load_task
    from gam_ray.training.evaluation import quality
    from gam_ray.training.trial import Place, load_adapted, run_trial

    here = (folder / f"figure5-{config.key()}").absolute()
    file = here / "curve.jsonl"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    test = load_target_labels(config.task, data_root)["test"]
    names = load_task(config.task, data_root).class_names

    class Looking(Curve):
        def report(self, report: Any) -> Verdict:
            accuracy = quality(load_adapted(config, report.checkpoint, device), test, names)[""]
            with file.open("a") as lines:
                lines.write(json.dumps({"step": report.step, "test": 100 * accuracy}) + "\n")
            return super().report(report)

    run_trial(config, Place(here, folder.absolute() / ".sources", data_root, device), Looking(here))
    points = {line["step"]: line["test"] for line in map(json.loads, file.read_text().splitlines())}
    return {"steps": list(points), "test": list(points.values())}


def draw(curves: list[dict[str, Any]]) -> None:
    """A panel for each task, one line a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tasks = [task for task in TITLES if any(c["task"] == task for c in curves)]
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(6 * len(tasks), 4), layout="constrained", squeeze=False
    )
    for task, axes in zip(tasks, panels[0], strict=True):
        for name, colour in zip(METHODS, ("tab:red", "tab:blue"), strict=True):
            lines = [c for c in curves if c["task"] == task and c["row"] == name]
            for index, found in enumerate(lines):
                label = name if index == 0 else None
                axes.plot(found["steps"], found["test"], color=colour, label=label)
        title, quality = TITLES[task]
        axes.set(xlabel="adaptation steps", ylabel=quality, title=f"{title}, a line a seed")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0], seeds=range(3))
    arguments.add_argument("--tasks", nargs="+", choices=ROWS, default=list(ROWS))
    given = arguments.parse_args()
    given.json = given.json or given.folder / "figure5.json"
    main(given)
