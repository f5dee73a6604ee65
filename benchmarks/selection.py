"""How well scores choose: random search, every score at every checkpoint, held against the oracle.

    python benchmarks/selection.py --trials 40 --json benchmarks/results/selection.json

Each task has the baselines and `--trials` random proposals, short ones. Of every report all scores,
the guard's figures, the predictions and the accuracy on the target's test split are kept, so that
the choice can be made again by each score, without labels, and its regret be told. `SCORE, student`
is the consensus student of the best trials by that score, which starts from the very best by it.
The second table is over the checkpoints of one trial. The last line names the default that the
*other* tasks would have chosen for each task, by their mean regret, so that no default is judged on
what it was chosen from.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tables import parser, spread, stamp

from gam_ray.config import SearchSpace, StudentConfig, TrialConfig, apply_settings
from gam_ray.selection.consensus import agreements
from gam_ray.selection.guard import guard_causes

STREETS = {"source": "streets", "target": "camvid", "network": "erfnet-encoder", "size": [120, 160]}
TASKS: dict[str, dict[str, Any]] = {
    "fonts": {"source": "rendered-digits", "target": "handwritten-digits", "network": "lenet"},
    "M→U": {"source": "mnist", "target": "usps", "network": "lenet"},
    "U→M": {"source": "usps", "target": "mnist", "network": "lenet"},
    "M→U even": {"source": "mnist", "target": "usps-even", "network": "lenet"},
    "M→U odd": {"source": "mnist", "target": "usps-odd", "network": "lenet"},
    "M even→U": {"source": "mnist-even", "target": "usps", "network": "lenet"},
    "M odd→U": {"source": "mnist-odd", "target": "usps", "network": "lenet"},
    "streets": STREETS,
}
DIGITS = {
    "pretraining": {"steps": 2000, "batch_size": 64},
    "steps": 450,
    "batch_size": 64,
    "report_every": 150,
}
LENGTHS: dict[str, dict[str, Any]] = {
    "streets": {
        "pretraining": {"steps": 400, "batch_size": 6, "learning_rate": 5e-4, "schedule": "poly"},
        "steps": 100,
        "batch_size": 4,
        "report_every": 25,
    }
}
# Wide on purpose: a search must be able to collapse, or choosing would be easy.
SPACE = {
    "adaptation.weight": {"log": [0.1, 1000]},
    "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
    "adaptation.adversary": {"choice": ["gan", "inverted", "lsgan"]},
    "adaptation.gaussian": {"choice": [True, False]},
    "optimizer.target_lr": {"log": [1e-5, 3e-3]},
    "optimizer.discriminator_lr": {"log": [1e-5, 3e-3]},
}
STREETS_SPACE = {
    **SPACE,
    "adaptation.layers": {"subset": ["layer4", "layer8", "layer12", "layer17"], "min": 1},
}
LABEL_SHIFT = 0.65
TEACHERS = 6
# Scores whose best trials teach a student.
TEACHING = ("ensv", "information_maximisation", "class_ami")

Array = NDArray[np.float64]


def main() -> None:
    """Run what is not done, print both tables, write JSON."""
    options = parser(__doc__.splitlines()[0], seeds=[0])
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options.add_argument("--trials", type=int, default=40, help="random proposals of a task")
    given = options.parse_args()
    found = {task: run_task(task, given) for task in given.tasks}
    over_trials = {
        task: judge([trial[-1] for trial in trials]) | students(trials, given)
        for task, trials in found.items()
    }
    over_steps = {task: judge_steps(trials) for task, trials in found.items()}
    print(markdown(over_trials))
    print(markdown(over_steps))
    print(json.dumps(defaults(over_trials), ensure_ascii=False))
    if given.json:
        content = {
            **stamp(),
            "seeds": given.seeds,
            "trials": given.trials,
            "over_trials": over_trials,
            "over_checkpoints": over_steps,
            "left_one_out": defaults(over_trials),
        }
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def proposals(task: str, count: int, seed: int) -> list[TrialConfig]:
    """The two baselines and so many random trials."""
    import optuna

    from gam_ray.study.search import DefineByRun

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = TrialConfig.from_mapping(
        {"task": TASKS[task], **LENGTHS.get(task, DIGITS), "seed": seed}
    )
    space = SearchSpace.model_validate_json(
        json.dumps(STREETS_SPACE if task == "streets" else SPACE)
    )
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study, propose = optuna.create_study(sampler=sampler), DefineByRun(space, base)
    settings = [{"adaptation.kind": "none"}, {"adaptation.kind": "gaussian"}]
    settings += [propose(study.ask())["settings"] for _ in range(count)]
    return [apply_settings(base, each) for each in settings]


def run_task(task: str, options: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """The reports of each trial; a trial that diverged has none and is left out."""
    configs = [config for seed in options.seeds for config in proposals(task, options.trials, seed)]
    started, done = time.monotonic(), 0
    with ProcessPoolExecutor(options.processes) as pool:
        waiting = [
            pool.submit(run, config, options.folder, options.data_root) for config in configs
        ]
        for _ in as_completed(waiting):
            done += 1
            minutes = (time.monotonic() - started) / 60
            print(f"{task}: {done}/{len(configs)} after {minutes:.0f} min", file=sys.stderr)
    return [reports for future in waiting if (reports := future.result())]


def run(config: TrialConfig, folder: Path, data_root: Path | None) -> list[dict[str, Any]]:
    """One trial's reports, with `accuracy` and the file of `predictions`; read if it is done."""
    import torch

    from gam_ray.training.data import load_target_labels, load_task
    from gam_ray.training.evaluation import quality
    from gam_ray.training.reports import DivergedError, Report, Verdict
    from gam_ray.training.trial import Place, load_adapted, run_trial

    here = (folder / "selection" / config.key()).absolute()
    result = here / "reports.json"
    if result.exists():
        read: list[dict[str, Any]] = json.loads(result.read_text())
        return read
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    test = load_target_labels(config.task, data_root)["test"]
    names = load_task(config.task, data_root).class_names
    reports: dict[int, dict[str, Any]] = {}

    class Keeper:
        def report(self, report: Report) -> Verdict:
            right = quality(load_adapted(config, report.checkpoint, device), test, names)[""]
            file = here / f"predictions-{report.step}.npy"
            np.save(file, report.predictions.astype(np.float16))
            reports[report.step] = {
                "key": config.key(),
                "step": report.step,
                "accuracy": right,
                "predictions": str(file),
                "metrics": report.metrics,
                "is_source": config.adaptation.kind == "none" and not config.student,
            }
            return Verdict(go_on=True)

        def progress(self, stage: str, done: int, total: int) -> None:
            pass

    try:
        place = Place(here, folder.absolute() / ".sources", data_root, device)
        run_trial(config, place, Keeper())
    except DivergedError:
        reports.clear()
    here.mkdir(parents=True, exist_ok=True)
    (here / "trial.json").write_text(json.dumps(config.to_mapping()))
    result.write_text(json.dumps(list(reports.values())))
    return list(reports.values())


def judge(candidates: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Score → regret, weighted Spearman, accuracy chosen and so on, in points of accuracy."""
    accuracy = np.array([100 * each["accuracy"] for each in candidates])
    none = [100 * each["accuracy"] for each in candidates if each["is_source"]]
    trusted = np.array([is_trusted(each) for each in candidates])
    found = {}
    for name, values in score_values(candidates, trusted).items():
        chosen = accuracy[int(np.argmax(np.where(trusted, values, -np.inf)))]
        found[name] = {
            "chosen": float(chosen),
            "regret": float(accuracy.max() - chosen),
            "spearman": weighted_spearman(values, accuracy),
            "best": float(accuracy.max()),
            **({"above_none": float(chosen - none[0])} if none else {}),
        }
    return found


def students(
    trials: Sequence[Sequence[Mapping[str, Any]]], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Score and student → what came of teaching one from the best trials by that score."""
    last = [reports[-1] for reports in trials]
    accuracy = np.array([100 * each["accuracy"] for each in last])
    none = next(100 * each["accuracy"] for each in last if each["is_source"])
    trusted = np.array([is_trusted(each) for each in last])
    values = score_values(last, trusted)
    found = {}
    for name in TEACHING:
        order = np.argsort(-np.where(trusted, values[name], -np.inf), kind="stable")
        teachers = [last[int(n)]["key"] for n in order[: min(TEACHERS, trusted.sum())]]
        config = TrialConfig.from_mapping(trial_of(options.folder, teachers[0])).baseline("none")
        config = config.model_copy(update={"student": StudentConfig(teachers=tuple(teachers))})
        (report,) = run(config, options.folder, options.data_root)
        chosen = 100 * report["accuracy"]
        found[f"{name}, student"] = {
            "chosen": chosen,
            "regret": float(accuracy.max() - chosen),
            "best": float(accuracy.max()),
            "above_none": float(chosen - none),
            "above_first_teacher": float(chosen - accuracy[order[0]]),
        }
    return found


def trial_of(folder: Path, key: str) -> dict[str, Any]:
    """The configuration of a trial that was run."""
    read: dict[str, Any] = json.loads((folder / "selection" / key / "trial.json").read_text())
    return read


def is_trusted(report: Mapping[str, Any]) -> bool:
    """As a study has it: the source network itself always is."""
    causes = guard_causes(report["metrics"], label_shift=LABEL_SHIFT)
    return bool(report["is_source"]) or not causes


def score_values(
    candidates: Sequence[Mapping[str, Any]], trusted: NDArray[np.bool_]
) -> dict[str, Array]:
    """Score → its value of each candidate; ``ensv`` over all of them at once."""
    metrics = [each["metrics"] for each in candidates]
    names = [name for name in metrics[0] if name.startswith("score/")]
    values = {
        name.removeprefix("score/"): np.array([each[name] for each in metrics]) for name in names
    }
    crowd = {str(n): np.load(each["predictions"]) for n, each in enumerate(candidates)}
    out = {str(n) for n, is_in in enumerate(trusted) if not is_in}
    ensv = agreements({n: p.astype(np.float32) for n, p in crowd.items()}, untrusted=out)
    return {"ensv": np.array([ensv[str(n)] for n in range(len(candidates))]), **values}


def weighted_spearman(values: Array, accuracy: Array) -> float:
    """Rank correlation in which a candidate weighs as much as its accuracy's rank, squared.

    Which of the bad ones is worse matters little. 0 where a score says the same of all.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values), rankdata(accuracy)
    weights = ranks[1] ** 2 / (ranks[1] ** 2).sum()
    centred = [each - (weights * each).sum() for each in ranks]
    variances = [(weights * each**2).sum() for each in centred]
    if min(variances) == 0:
        return 0.0
    return float((weights * centred[0] * centred[1]).sum() / np.sqrt(variances[0] * variances[1]))


def judge_steps(trials: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """As `judge`, over the checkpoints of one trial, the mean of all trials that have several."""
    judged = [judge(reports) for reports in trials if len(reports) > 1]
    return {
        name: {
            figure: spread([each[name][figure] for each in judged])["mean"]
            for figure in judged[0][name]
        }
        for name in (judged[0] if judged else {})
    }


def defaults(tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Task → the score with the least mean regret on the other tasks, and its regret here."""
    found = {}
    for task, scores in tasks.items():
        others = [judged for name, judged in tasks.items() if name != task]
        common = [name for name in scores if all(name in other for other in others)]
        if others:
            best = min(common, key=lambda n: sum(other[n]["regret"] for other in others))
            found[task] = {"score": best, "regret": scores[best]["regret"]}
    return found


def cell(judged: Mapping[str, float]) -> str:
    """`regret / weighted Spearman`; of a student, which ranks nothing, the regret."""
    rank = f" / {judged['spearman']:.2f}" if "spearman" in judged else ""
    return f"{judged['regret']:.1f}{rank}"


def markdown(tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Scores × tasks, `regret / weighted Spearman`, and over the tasks mean and worst regret."""
    names = list(dict.fromkeys(name for scores in tasks.values() for name in scores))
    lines = [
        f"| score | {' | '.join(tasks)} | mean regret | worst |",
        "|---" * (len(tasks) + 3) + "|",
    ]
    for name in names:
        judged = [scores.get(name) for scores in tasks.values()]
        cells = [cell(each) if each else "" for each in judged]
        regrets = [each["regret"] for each in judged if each]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {np.mean(regrets):.1f} | {max(regrets):.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
