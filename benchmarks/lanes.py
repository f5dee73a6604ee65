"""What lanes cost: a study of gam_ray, its trials alone, and a Ray Train group for every trial.

    python benchmarks/lanes.py --json benchmarks/results/lanes.json

The same twelve digits trials three times, two at a time, from one source network that is trained
before: as a gam_ray study, which adds its two baselines; in plain processes that import everything
once and run nothing but these trials; and, with `--plain`, without the baselines, as Ray's
documentation has it, Tune starting a Train group of one worker for every trial. Then a study of
trials of one step, which cost what a trial costs beside its steps. On two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tables import stamp

from gam_ray import Study
from gam_ray.config import StudyConfig, TrialConfig, apply_settings
from gam_ray.study.store import StudyStore

TRIAL: dict[str, Any] = {
    "task": {"source": "rendered-digits", "target": "handwritten-digits", "network": "lenet"},
    "pretraining": {"steps": 300, "batch_size": 64},
    "steps": 300,
    "batch_size": 64,
}
REPORTS = 3
SPACE = {"adaptation.weight": {"log": [1, 10]}}
SLOTS = 2


def main() -> None:
    """Measure, print, write JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--trials", type=int, default=12)
    options.add_argument("--steps", type=int, default=TRIAL["steps"], help="of a trial")
    options.add_argument("--plain", action="store_true", help="also a Train group for every trial")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    trial = {**TRIAL, "steps": given.steps, "report_every": given.steps // REPORTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_alone(TrialConfig.from_mapping({**TRIAL, "steps": 1}), folder / ".sources", folder)
        found: dict[str, Any] = {"study": study("study", trial, given.trials, folder)}
        configs = searched(folder / "study")
        found["alone"] = alone(configs, folder)
        if given.plain:
            found["a group for every trial"] = grouped(
                trial, [each for each in configs if is_adapting(each)], folder
            )
        found["between trials"] = between(configs, folder)
        one_step = {**TRIAL, "steps": 1, "report_every": 1}
        found["one step"] = study("one-step", one_step, 2 * given.trials, folder)
    each_s = found["alone"]["each_s"]
    found["wall ÷ (Σ trials ÷ slots)"] = found["study"]["trials_s"] / (sum(each_s) / SLOTS)
    adapting_s = [s for s, each in zip(each_s, configs, strict=True) if is_adapting(each)]
    found["the same from the first step on"] = found["study"]["adapting_s"] / (
        sum(adapting_s) / SLOTS
    )
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if given.json:
        content = {**stamp(), "trials": given.trials, "steps": given.steps, **found}
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def study(name: str, trial: Mapping[str, Any], trials: int, folder: Path) -> dict[str, float]:
    """Seconds of a study: in all, of its start-up, and from there to its last end.

    Start-up is until the first trial begins, a baseline, or until the first one that has steps.
    """
    config = StudyConfig.from_mapping(
        {
            "name": name,
            "trial": trial,
            "space": SPACE,
            "search": {"sampler": "random", "trials": trials},
            "objective": {"finalists": 1, "seeds": 1},
            "student": None,
            "resources": {"workers": 1, "max_lanes": SLOTS},
            "storage": str(folder),
        }
    )
    began = time.time()
    Study(config).run()
    ended = time.time()
    files = StudyStore(folder / name).trials()
    first, adapting = (
        min((each.folder / "started").stat().st_mtime for each in some)
        for some in (files, [each for each in files if is_adapting(each.record().config)])
    )
    last = max((each.folder / "end.json").stat().st_mtime for each in files)
    return {
        "all_s": ended - began,
        "until_first_trial_s": first - began,
        "until_first_step_s": adapting - began,
        "trials_s": last - first,
        "adapting_s": last - adapting,
        "a_trial_s": SLOTS * (last - first) / len(files),
    }


def is_adapting(config: TrialConfig) -> bool:
    """Whether a trial has steps; the baselines have none."""
    return config.adaptation.kind == "general"


def searched(folder: Path) -> list[TrialConfig]:
    """The trials that a study ran, its baselines among them."""
    return [each.record().config for each in StudyStore(folder).trials()]


def alone(configs: list[TrialConfig], folder: Path) -> dict[str, Any]:
    """Seconds of each trial in processes that do nothing else."""
    with ProcessPoolExecutor(SLOTS) as pool:
        # Imports and data, which a lane has done before its first trial ends, too.
        warm = [TrialConfig.from_mapping({**TRIAL, "steps": 1, "seed": n}) for n in range(SLOTS)]
        list(pool.map(run_alone, warm, *repeated(folder, len(warm))))
        began = time.time()
        each = list(pool.map(run_alone, configs, *repeated(folder, len(configs))))
    return {"all_s": time.time() - began, "each_s": each}


def between(configs: list[TrialConfig], folder: Path) -> dict[str, float]:
    """Median seconds from one trial's last step to the next one's first, and of their parts.

    In a process that runs one after another, as a lane's worker does: the last report (predictions,
    scores, checkpoints), what the oracle reads after it, and the rest, which is building networks,
    optimizers and streams and reading the next trial's data and source network.
    """
    with ProcessPoolExecutor(1) as pool:
        gaps = pool.submit(_gaps, configs, folder).result()
    return {name: statistics.median(gap[name] for gap in gaps) for name in gaps[0]}


def _gaps(configs: list[TrialConfig], folder: Path) -> list[dict[str, float]]:
    from gam_ray.adaptation import GeneralMatching
    from gam_ray.training import trial
    from gam_ray.training.adapting import Run

    spans: list[tuple[str, float, float]] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                spans.append((name, began, time.perf_counter()))

        return call

    GeneralMatching.step = timed("step", GeneralMatching.step)  # type: ignore[method-assign]
    Run.report = timed("last report", Run.report)  # type: ignore[method-assign]
    trial.oracle_reading = timed("oracle", trial.oracle_reading)
    ends = []
    for config in filter(is_adapting, configs):
        run_alone(config, folder / ".sources", Path(tempfile.mkdtemp(dir=folder)))
        ends.append(len(spans))
    return [_gap(spans, end) for end in ends[1:-1]]  # the first trial of a process imports


def _gap(spans: list[tuple[str, float, float]], end: int) -> dict[str, float]:
    """Where the time went from the last step before `spans[end]` to the first one from there on."""
    last = max(place for place in range(end) if spans[place][0] == "step")
    first = next(place for place in range(end, len(spans)) if spans[place][0] == "step")
    parts = {name: ended - began for name, began, ended in spans[last + 1 : end]}
    whole = spans[first][1] - spans[last][2]
    return {"all": whole, **parts, "the rest": whole - sum(parts.values())}


def repeated(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Where sources are, and a folder for each trial's files."""
    return [folder / ".sources"] * count, [Path(tempfile.mkdtemp(dir=folder))] * count


def run_alone(config: TrialConfig, sources: Path, folder: Path) -> float:
    """Run one trial on one thread; its seconds."""
    import torch
    from threadpoolctl import threadpool_limits

    from gam_ray.training.reports import Report, Verdict
    from gam_ray.training.trial import Place, run_trial

    class Quiet:
        def report(self, report: Report) -> Verdict:  # noqa: ARG002
            return Verdict(go_on=True)

        def progress(self, stage: str, done: int, total: int) -> None:
            pass

        def is_to_pause(self) -> bool:
            return False

    torch.set_num_threads(1)
    place = Place(folder / config.key(), sources, None, torch.device("cpu"))
    began = time.monotonic()
    with threadpool_limits(1):  # of scikit-learn, as in a lane's worker, whose CPU is one
        run_trial(config, place, Quiet())
    return time.monotonic() - began


def grouped(trial: Mapping[str, Any], configs: list[TrialConfig], folder: Path) -> dict[str, float]:
    """Seconds of the same trials by Tune, each in a Train group of its own."""
    os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import tune

    began = time.time()
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=SLOTS)
    trainable = tune.with_resources(in_a_group, {"memory": 400e6})
    space = {
        "trial": trial,
        "weight": tune.grid_search([config.adaptation.weight for config in configs]),
        "folder": str(folder),
    }
    config = tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=SLOTS)
    place = tune.RunConfig(storage_path=str(folder / "tune"), verbose=0)
    tune.Tuner(trainable, param_space=space, tune_config=config, run_config=place).fit()
    ray.shutdown()
    return {"all_s": time.time() - began, "a_trial_s": SLOTS * (time.time() - began) / len(configs)}


def in_a_group(settings: dict[str, Any]) -> None:
    """Tune's trial: a Train group that runs it."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        train_loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=Path(tempfile.mkdtemp(dir=settings["folder"])).name,
            storage_path=f"{settings['folder']}/train",
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def train_loop(settings: dict[str, Any]) -> None:
    """What the group's worker runs: the same trial, reports and all."""
    import torch
    from ray import train

    from gam_ray.training.reports import Report, Verdict
    from gam_ray.training.trial import Place, run_trial

    class ToTrain:
        def report(self, report: Report) -> Verdict:
            train.report({"score": report.metrics["score/class_ami"], "step": report.step})
            return Verdict(go_on=True)

        def progress(self, stage: str, done: int, total: int) -> None:
            pass

        def is_to_pause(self) -> bool:
            return False

    torch.set_num_threads(1)
    folder = Path(settings["folder"])
    config = TrialConfig.from_mapping(settings["trial"])
    config = apply_settings(config, {"adaptation.weight": settings["weight"]})
    here = Path(tempfile.mkdtemp(dir=folder))
    run_trial(config, Place(here, folder / ".sources", None, torch.device("cpu")), ToTrain())


if __name__ == "__main__":
    main()
