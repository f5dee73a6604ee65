"""Figure 5 of the paper, on digits: long output-only matching, with and without drift.

    python benchmarks/figure5.py --seeds 0 1 --json benchmarks/results/figure5.json

Every report's checkpoint is held against the target's test split, after it was reported: a curve to
look at, which nothing chooses by. The picture goes to docs/figure5.png.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from table1 import ADAPTATIONS
from tables import Curve, Row, parser, stamp

from gam_ray.config import TrialConfig
from gam_ray.training.reports import Verdict

PICTURE = Path("docs") / "figure5.png"
METHODS = ("output only", "output only + drift")
TASK = {"source": "mnist", "target": "usps", "network": "lenet"}
SHORT = {"pretraining": {"steps": 3000, "batch_size": 64}, "steps": 6000, "batch_size": 64}
FULL = {"steps": 50_000}
REPORTS = 20


def main(options: argparse.Namespace) -> None:
    """Run what is not done, draw, write."""
    lengths: dict[str, Any] = FULL if options.full else SHORT
    every = {"report_every": lengths["steps"] // REPORTS}
    rows = [
        Row("MNIST→USPS", name, {"task": TASK, "adaptation": ADAPTATIONS[name], **lengths, **every})
        for name in METHODS
    ]
    jobs = [(row.name, seed, row.config(seed)) for seed in options.seeds for row in rows]
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = [
            (name, seed, pool.submit(curve, config, options.folder, options.data_root))
            for name, seed, config in jobs
        ]
        curves = [{"row": name, "seed": seed, **f.result()} for name, seed, f in waiting]
    if options.json:
        options.json.write_text(json.dumps({**stamp(), "curves": curves}, indent=1) + "\n")
    draw(curves)


def curve(config: TrialConfig, folder: Path, data_root: Path | None) -> dict[str, Any]:
    """Steps and test accuracies in percent of one trial."""
    import torch

    from gam_ray.training.data import load_target_labels
    from gam_ray.training.evaluation import quality
    from gam_ray.training.trial import Place, load_adapted, run_trial

    here = (folder / f"figure5-{config.key()}").absolute()
    file = here / "curve.jsonl"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    test = load_target_labels(config.task, data_root)["test"]
    names = tuple("0123456789")

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
    """One line a seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, colour in zip(METHODS, ("tab:red", "tab:blue"), strict=True):
        for index, found in enumerate(c for c in curves if c["row"] == name):
            label = name if index == 0 else None
            axes.plot(found["steps"], found["test"], color=colour, label=label)
    axes.set(xlabel="adaptation steps", ylabel="accuracy on USPS test, %")
    axes.set_title("MNIST → USPS, output-only matching: a line a seed")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main(parser(__doc__.splitlines()[0], seeds=range(3)).parse_args())
