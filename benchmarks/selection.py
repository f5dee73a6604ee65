"""How well scores choose: random search, every score at every checkpoint, held against the oracle.

    python benchmarks/selection.py --json benchmarks/results/selection.json

Each task has the baselines and `--trials` random proposals (half as many of streets), short ones.
Of every report all scores, the guard's figures, the predictions and the accuracy on the target's
test split are kept, so that the choice can be made again by each objective, without labels, and
its regret be told. `OBJECTIVE, student` is the consensus student of the best trials by that
objective; `OBJECTIVE, study` is what a study ends with: the student if it follows its teachers as
well as the best trial does, else that trial. The second table is over the checkpoints of one trial,
held against the last ones of the others. The last line names the default that the *other* tasks
would have chosen for each task, by their mean regret, so that no default is judged on what it was
chosen from. `--record` writes what `gam-ray best` says of an objective's reliability.

Of tasks that are not named, the figures that stand in the JSON file stay, each with its own stamp.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tables import parser, spread, stamp

from gam_ray.config import (
    ObjectiveConfig,
    SearchSpace,
    StudentConfig,
    TrialConfig,
    apply_settings,
)
from gam_ray.config.study import LabelFreeScore
from gam_ray.selection.consensus import Crowd
from gam_ray.selection.guard import guard_causes
from gam_ray.selection.standings import CONFIDENT_ENSV, ENSV, Standings

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
# As many images as its teachers saw in two trials; of digits, the default.
STUDENTS: dict[str, dict[str, Any]] = {"streets": {"steps": 200}}
LABEL_SHIFT = 0.65
TEACHERS = 6
DEFAULT = ObjectiveConfig()
# Beside every score alone.
AGGREGATES = (
    DEFAULT.score,
    ("confident_ensv", "class_ami"),
    ("confident_ensv", "entropy"),
    ("ensv", "class_ami", "entropy"),
    ("entropy", "class_ami", "mixval"),
    ("entropy", "snd", "class_ami", "mixval"),
)
# Objectives whose best trials teach a student.
TEACHING = (DEFAULT.score, ("ensv",))
RECORD = Path("gam_ray") / "selection" / "reliability.json"

Array = NDArray[np.float64]


def main() -> None:
    """Run what is not done, print both tables, write JSON."""
    options = parser(__doc__.splitlines()[0], seeds=[0])
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options.add_argument("--trials", type=int, default=40, help="random proposals of a task")
    options.add_argument("--record", action="store_true", help=f"write {RECORD}")
    given = options.parse_args()
    found = {task: run_task(task, given) for task in given.tasks}
    with ProcessPoolExecutor(given.processes) as pool:
        taught = {
            task: pool.submit(
                students, trials, STUDENTS.get(task, {}), given.folder, given.data_root
            )
            for task, trials in found.items()
        }
        over_steps = {
            task: pool.submit(judge_steps, trials, given.folder) for task, trials in found.items()
        }
        over_trials = {
            task: judge(last_of(trials), given.folder) | taught[task].result()
            for task, trials in found.items()
        }
        over_checkpoints = {task: future.result() for task, future in over_steps.items()}
    content = merged(given, {task: len(trials) for task, trials in found.items()})
    content["over_trials"] |= over_trials
    content["over_checkpoints"] |= over_checkpoints
    content["left_one_out"] = defaults(content["over_trials"])
    print(markdown(content["over_trials"]))
    print(markdown(content["over_checkpoints"]))
    print(json.dumps(content["left_one_out"], ensure_ascii=False))
    if given.json:
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if given.record:
        RECORD.write_text(json.dumps(reliabilities(content["over_trials"]), indent=1) + "\n")


def merged(given: argparse.Namespace, trials: Mapping[str, int]) -> dict[str, Any]:
    """What the JSON file has of other tasks, with the runs of these tasks noted in it."""
    known = given.json and given.json.exists()
    content: dict[str, Any] = json.loads(given.json.read_text()) if known else {"runs": {}}
    run = {**stamp(), "seeds": given.seeds}
    content["runs"] |= {task: {**run, "trials": count} for task, count in trials.items()}
    return {"over_trials": {}, "over_checkpoints": {}, **content}


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
    count //= 2 if task == "streets" else 1
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
    """One trial's reports, with `accuracy`; read if it is done."""
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
            np.save(here / predictions_file(report.step), report.predictions.astype(np.float16))
            reports[report.step] = {
                "key": config.key(),
                "step": report.step,
                "accuracy": right,
                "metrics": report.metrics,
                "is_source": config.adaptation.kind == "none" and not config.student,
            }
            return Verdict(go_on=True)

        def progress(self, stage: str, done: int, total: int) -> None:
            pass

        def is_to_pause(self) -> bool:
            return False

    try:
        place = Place(here, folder.absolute() / ".sources", data_root, device)
        run_trial(config, place, Keeper())
    except DivergedError:
        reports.clear()
    here.mkdir(parents=True, exist_ok=True)
    (here / "trial.json").write_text(json.dumps(config.to_mapping()))
    result.write_text(json.dumps(list(reports.values())))
    return list(reports.values())


def last_of(trials: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The last report of each trial."""
    return [reports[-1] for reports in trials]


def judge(candidates: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, dict[str, float]]:
    """Objective → regret, weighted Spearman, accuracy chosen and so on, in points of accuracy."""
    crowd = {each["key"]: each for each in candidates}
    return {
        name_of(scores): verdict(candidates, values_by(scores, crowd, folder))
        for scores in objectives(candidates)
    }


def verdict(candidates: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """What choosing by these values came to."""
    accuracy = np.array([100 * each["accuracy"] for each in candidates])
    none = [100 * each["accuracy"] for each in candidates if each["is_source"]]
    trusted = np.array([is_trusted(each) for each in candidates])
    chosen = accuracy[int(np.argmax(np.where(trusted, values, -np.inf)))]
    return {
        "chosen": float(chosen),
        "regret": float(accuracy.max() - chosen),
        "spearman": weighted_spearman(np.array(values), accuracy),
        "best": float(accuracy.max()),
        **({"above_none": float(chosen - none[0])} if none else {}),
    }


def objectives(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Every score alone, and the aggregates."""
    reported = candidates[0]["metrics"]
    names = [name for name in get_args(LabelFreeScore) if f"score/{name}" in reported]
    return [(ENSV,), (CONFIDENT_ENSV,), *((name,) for name in names), *AGGREGATES]


def name_of(scores: Sequence[str]) -> str:
    """As a study names it."""
    return ObjectiveConfig.from_mapping({"score": list(scores)}).name


def values_by(
    scores: Sequence[str], crowd: Mapping[str, Mapping[str, Any]], folder: Path
) -> list[float]:
    """The objective's value of each report of a crowd, each held against the others."""
    # Before their odds were bounded, IWCV and DEV overflowed in three reports.
    metrics = {
        key: {n: v if np.isfinite(v) else -np.inf for n, v in report["metrics"].items()}
        for key, report in crowd.items()
    }
    if len(scores) == 1 and scores[0] not in (ENSV, CONFIDENT_ENSV):
        return [each[f"score/{scores[0]}"] for each in metrics.values()]
    standings = Standings(scores)
    for key, report in crowd.items():
        predictions = predicted(folder, key, report["step"])
        standings.put(key, metrics[key], predictions, has_vote=is_trusted(report))
    return list(standings.values().values())


def predictions_file(step: int) -> str:
    """Name of a file in a trial's folder."""
    return f"predictions-{step}.npy"


@lru_cache(maxsize=1000)
def predicted(folder: Path, key: str, step: int) -> Array:
    """What a trial predicted on the held-out target at a report, [N, C]."""
    found: Array = np.load(folder / "selection" / key / predictions_file(step)).astype(np.float64)
    return found / found.sum(1, keepdims=True)


def students(
    trials: Sequence[Sequence[dict[str, Any]]],
    settings: Mapping[str, Any],
    folder: Path,
    data_root: Path | None,
) -> dict[str, dict[str, float]]:
    """What came of teaching a student from the best trials by an objective, and of a study."""
    last = last_of(trials)
    crowd = {each["key"]: each for each in last}
    accuracy = np.array([100 * each["accuracy"] for each in last])
    none = next(100 * each["accuracy"] for each in last if each["is_source"])
    trusted = np.array([is_trusted(each) for each in last])
    found = {}
    for scores in TEACHING:
        values = np.array(values_by(scores, crowd, folder))
        order = np.argsort(-np.where(trusted, values, -np.inf), kind="stable")
        teachers = [last[int(n)] for n in order[: min(TEACHERS, trusted.sum())]]
        first = teachers[0]
        base = TrialConfig.from_mapping(trial_of(folder, first["key"]))
        keys = tuple(each["key"] for each in teachers)
        taught = {
            "student": StudentConfig(teachers=keys, **settings),
            "batch_size": base.batch_size,
        }
        config = base.baseline("none").model_copy(update=taught)
        (student,) = run(config, folder, data_root)
        replaces = not first["is_source"] and follows(student, first, teachers, folder)
        for name, end in (("student", student), ("study", student if replaces else first)):
            chosen = 100 * end["accuracy"]
            found[f"{name_of(scores)}, {name}"] = {
                "chosen": chosen,
                "regret": float(accuracy.max() - chosen),
                "best": float(accuracy.max()),
                "above_none": float(chosen - none),
                "above_first_teacher": float(chosen - accuracy[order[0]]),
            }
    return found


def follows(
    student: Mapping[str, Any],
    first: Mapping[str, Any],
    teachers: Sequence[Mapping[str, Any]],
    folder: Path,
) -> bool:
    """Whether a study would choose the student and not its first teacher."""
    crowd = Crowd()
    for each in (*teachers, student):
        crowd.vote(each["key"], predicted(folder, each["key"], each["step"]))
    voters = [each["key"] for each in teachers]
    agreement = [crowd.agreement_with(voters, each["key"]) for each in (student, first)]
    return is_trusted(student) and agreement[0] >= agreement[1]


def trial_of(folder: Path, key: str) -> dict[str, Any]:
    """The configuration of a trial that was run."""
    read: dict[str, Any] = json.loads((folder / "selection" / key / "trial.json").read_text())
    return read


def is_trusted(report: Mapping[str, Any]) -> bool:
    """As a study has it: the source network itself always is."""
    causes = guard_causes(report["metrics"], label_shift=LABEL_SHIFT)
    return bool(report["is_source"]) or not causes


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


def judge_steps(
    trials: Sequence[Sequence[dict[str, Any]]], folder: Path
) -> dict[str, dict[str, float]]:
    """As `judge`, over the checkpoints of one trial, the mean of all trials that have several.

    Each is held against the last ones of the other trials, as a study would.
    """
    last = {each["key"]: each for each in last_of(trials)}
    judged: dict[str, list[dict[str, float]]] = {}
    for reports in (reports for reports in trials if len(reports) > 1):
        key = reports[0]["key"]
        place = list(last).index(key)
        for scores in objectives(reports):
            values = [values_by(scores, {**last, key: report}, folder)[place] for report in reports]
            judged.setdefault(name_of(scores), []).append(verdict(reports, values))
        newest = [float(report["step"]) for report in reports]
        judged.setdefault("the last", []).append(verdict(reports, newest))
    return {
        name: {figure: spread([each[figure] for each in found])["mean"] for figure in found[0]}
        for name, found in judged.items()
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


def reliabilities(
    tasks: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Objective → what `gam_ray.selection.reliability` tells of it; of a study, if it is known."""
    names = dict.fromkeys(name for scores in tasks.values() for name in scores)
    found = {}
    for name in (n for n in names if not n.endswith((", student", ", study"))):
        alone = [scores[name] for scores in tasks.values() if name in scores]
        ends = [scores.get(f"{name}, study", scores.get(name)) for scores in tasks.values()]
        regrets = [end["regret"] for end in ends if end]
        found[name] = {
            "tasks": len(alone),
            "mean_regret": round(float(np.mean(regrets)), 2),
            "worst_regret": round(max(regrets), 2),
            "mean_spearman": round(float(np.mean([each["spearman"] for each in alone])), 3),
        }
    return found


def cell(judged: Mapping[str, float]) -> str:
    """`regret / weighted Spearman`; of a student, which ranks nothing, the regret."""
    rank = f" / {judged['spearman']:.2f}" if "spearman" in judged else ""
    return f"{judged['regret']:.1f}{rank}"


def markdown(tasks: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Scores × tasks, `regret / weighted Spearman`, and over the tasks mean and worst regret."""
    names = list(dict.fromkeys(name for scores in tasks.values() for name in scores))
    lines = [
        f"| objective | {' | '.join(tasks)} | mean regret | worst | below none |",
        "|---" * (len(tasks) + 4) + "|",
    ]
    for name in names:
        judged = [scores.get(name) for scores in tasks.values()]
        cells = [cell(each) if each else "" for each in judged]
        regrets = [each["regret"] for each in judged if each]
        harmed = sum(each.get("above_none", 0) < 0 for each in judged if each)
        summary = f"{np.mean(regrets):.1f} | {max(regrets):.1f} | {harmed}"
        lines.append(f"| {name} | {' | '.join(cells)} | {summary} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
