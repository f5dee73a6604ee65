"""Table 3 of the paper, on rendered streets → CamVid with ERFNet's encoder.

    python benchmarks/table3.py --seeds 0 1 2 --json benchmarks/results/table3.json

Mean IoU, class and global accuracy over CamVid's 11 classes; terrain counts as pavement. The short
form (160×120 pixels, a few hundred steps) is for CPUs; `--full` is 480×360 and long, for a GPU.
"Supervised on target" trains on the labels of CamVid's training split instead, as long as the
source network did on streets. In the rows of a *coloured source*, which the paper has not, source
networks (and the supervised one) see their images in other colours and light as well.
"""

from __future__ import annotations

from typing import Any

from tables import Row, finish, parser, run_rows

TITLE = "streets→CamVid"
FOUR = ["layer4", "layer8", "layer12", "layer17"]
MATCHED = {"adversary": "lsgan", "weight": 10.0}
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "no adaptation": {"kind": "none"},
    "Gaussian matching": {"kind": "gaussian"},
    "output only": {**MATCHED, "layers": ["layer17"], "drift": 0.0},
    "output only + drift": {**MATCHED, "layers": ["layer17"]},
    "GAM": {**MATCHED, "layers": FOUR},
}
SHORT = {"size": [120, 160], "pretraining": 400, "steps": 150, "batch_size": 4}
FULL = {"size": [360, 480], "pretraining": 10_000, "steps": 3000, "batch_size": 8}


COLOURED = ("no adaptation", "Gaussian matching", "GAM")
COLOUR = 0.5


def rows(lengths: dict[str, Any]) -> list[Row]:
    """All rows: from a source network as the paper has it, then from a coloured one."""
    return [*_rows(lengths), *_rows(lengths, colour=COLOUR)]


def _rows(lengths: dict[str, Any], colour: float = 0.0) -> list[Row]:
    """Every method, and what labels of the target would give."""
    task = {
        "source": "streets",
        "target": "camvid",
        "network": "erfnet-encoder",
        "size": lengths["size"],
    }
    common = {
        "pretraining": {
            "steps": lengths["pretraining"],
            "batch_size": 6,
            "learning_rate": 5e-4,
            "weight_decay": 1e-4,
            "schedule": "poly",
            "augmentation": {"flip": True, "colour": colour},
        },
        "augmentation": {"flip": True},
        # The target's learning rate is the lower one: with equal ones the target outran its
        # discriminators, whose accuracy on both domains fell below one half.
        "optimizer": {"target_lr": 5e-5, "discriminator_lr": 5e-4},
        "steps": lengths["steps"],
        "batch_size": lengths["batch_size"],
        "report_every": lengths["steps"],
    }
    methods = {name: {"task": task, "adaptation": ADAPTATIONS[name]} for name in ADAPTATIONS}
    methods["supervised on target"] = {
        "task": {**task, "source": "camvid"},
        "adaptation": ADAPTATIONS["no adaptation"],
    }
    if colour:
        methods = {name: methods[name] for name in (*COLOURED, "supervised on target")}
    prefix = "coloured source, " if colour else ""
    return [Row(TITLE, prefix + name, {**own, **common}) for name, own in methods.items()]


if __name__ == "__main__":
    options = parser(__doc__.splitlines()[0], seeds=range(3)).parse_args()
    finish(run_rows(rows(FULL if options.full else SHORT), options), options)
