"""What can be told of a study from its storage: its status, and its choice.

The mappings that `status` and `best` give are a contract for scripts; keys are added, never
renamed or removed.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gam_ray.config import Constraints, ObjectiveConfig, ResourcesConfig, SearchConfig
from gam_ray.report import Overview, TrialCurve
from gam_ray.selection.reliability import reliability
from gam_ray.study.choosing import Choice, Ended, choose_trial, ended_trials
from gam_ray.study.constraints import figures, without_effect
from gam_ray.study.lease import is_alive
from gam_ray.study.objectives import lane_gpus, trial_cost
from gam_ray.study.store import EndRecord, ReportRecord, StudyStore, TrialRecord
from gam_ray.study.watch import BEAT_TIMEOUT_S
from gam_ray.tracking import read_run_ids, read_status

STATES = ("finished", "pruned", "failed", "running", "planned")

DO_NOT_ADAPT = "No trial that can be trusted scores higher than the source network: do not adapt."
"""The answer of a study whose choice is the source network as it is."""


def best(store: StudyStore) -> dict[str, Any]:
    """The choice of a study so far, as a contract for scripts.

    Returns:
        ``study``, ``state``, ``adapt`` (False: the answer is "do not adapt"), ``by_oracle``
        (whether target labels chose, because the study's file asks for it), ``trial`` {key,
        number, name, role, steps, kept_step: of the report that counts}, ``config``,
        ``settings``, ``score`` {name, metric: its name among a report's scores, value,
        percentile: share of the trusted trials in % that score lower}, ``seeds`` {runs: [keys],
        mean, std or None, oracle: {split: {mean, std or None}} or None} of its setting,
        ``reliability`` of the score on tasks where labels are known, or None,
        ``oracle`` {split: accuracy in [0, 1]} or None, ``regret`` {split: how much better the
        study's best trial by the oracle is, in [0, 1]} or None, ``no_adaptation`` {score, oracle},
        ``distrusted`` [{trial, name, causes}]: what the guard or a constraint leaves out,
        ``constraints`` {bounds: {metric: {min, max}}, without_effect: [why]: of metrics that no
        trial reported}, ``pareto`` [{trial, name, score, cost, unit}]: of the trials that may win
        those that no other beats in score and cost, cheapest first, ``checkpoint``,
        ``mlflow_run_id`` or None.

    Raises:
        ValueError: If there is no such study, or no trial of it ended in order yet.
    """
    config, objective, constraints = _study(store)["config"], _objective(store), _constraints(store)
    trials = ended_trials(store, objective, constraints)
    if not trials:
        raise ValueError(f"no trial of {config['name']} has ended in order yet")
    choice = choose_trial(trials, by_oracle=objective.is_oracle)
    files = store.trial(choice.key)
    record, end, kept = files.record(), files.end(), files.kept()
    assert end is not None
    assert kept is not None
    return {
        "study": config["name"],
        "state": status(store)["state"],
        "adapt": record.role != "no adaptation",
        "by_oracle": objective.is_oracle,
        "trial": {
            "key": record.key,
            "number": record.number,
            "name": record.name,
            "role": record.role,
            "steps": end.step,
            "kept_step": kept.step,
        },
        "config": record.config.to_mapping(),
        "settings": record.settings,
        "score": {
            "name": objective.name,
            "metric": objective.metric,
            "value": choice.score,
            "percentile": _percentile(choice.score, trials),
        },
        "seeds": {
            "runs": list(choice.runs),
            "mean": choice.mean,
            "std": choice.std,
            "oracle": _oracle_over(store, choice),
        },
        "reliability": reliability(objective.name),
        "oracle": end.oracle,
        "regret": _regret(store, end),
        "no_adaptation": _no_adaptation(store, trials),
        "distrusted": [
            {"trial": trial.record.key, "name": trial.record.name, "causes": list(trial.left_out)}
            for trial in trials
            if trial.left_out
        ],
        "constraints": {
            "bounds": {metric: bounds.to_mapping() for metric, bounds in constraints.items()},
            "without_effect": list(without_effect(constraints, _figures(store))),
        },
        "pareto": pareto(trials, ResourcesConfig.from_mapping(config["resources"])),
        "checkpoint": str(files.adapted),
        "mlflow_run_id": read_run_ids(store.tracking).get(record.key),
    }


def pareto(trials: list[Ended], resources: ResourcesConfig) -> list[dict[str, Any]]:
    """The trials that no other beats in score and cost, whatever the sampler, cheapest first.

    The cost is what the trial took: seconds of its lane or, where it has GPUs, seconds × GPUs; of
    one that goes on from another, what that one took as well. Students are none of them: their
    scores are no measure of them, and they cost their teachers.

    Args:
        trials: Those that ended in order; what the guard or a constraint leaves out is left out.
        resources: The study's.

    Returns:
        Of each ``trial`` (key), ``name``, ``score``, ``cost`` and its ``unit``: ``seconds`` or
        ``gpu_seconds``.
    """
    unit = "gpu_seconds" if lane_gpus(resources) else "seconds"
    able = [trial for trial in trials if not trial.left_out and trial.record.role != "student"]
    took = _with_forerunners({trial.record.key: trial for trial in trials})
    front: list[dict[str, Any]] = []
    for trial in sorted(able, key=lambda trial: (took[trial.record.key], -trial.score)):
        if not front or trial.score > front[-1]["score"]:
            front.append(
                {
                    "trial": trial.record.key,
                    "name": trial.record.name,
                    "score": trial.score,
                    "cost": trial_cost(took[trial.record.key], resources),
                    "unit": unit,
                }
            )
    return front


def _with_forerunners(trials: Mapping[str, Ended]) -> dict[str, float]:
    """Key → seconds of a trial and of those that it goes on from, one after another."""
    found: dict[str, float] = {}
    for key, trial in trials.items():  # by number: a trial comes after what it goes on from
        before = trial.record.config.continues
        found[key] = trial.seconds + (found.get(before, 0.0) if before else 0.0)
    return found


def _percentile(score: float, trials: list[Ended]) -> float:
    trusted = [trial.score for trial in trials if not trial.causes]
    return 100 * sum(each < score for each in trusted) / len(trusted)


def _regret(store: StudyStore, chosen: EndRecord) -> dict[str, float] | None:
    """Target split → the best reading of all trials less the chosen one's. Shown, never used."""
    if not chosen.oracle:
        return None
    ends = [files.end() for files in store.trials()]
    readings = [end.oracle for end in ends if end and end.oracle]
    splits = [split for split in chosen.oracle if "/" not in split]
    return {
        split: max(reading[split] for reading in readings) - chosen.oracle[split]
        for split in splits
    }


def _oracle_over(store: StudyStore, choice: Choice) -> dict[str, Any] | None:
    """Target split → mean and standard deviation over the runs of the chosen setting."""
    ends = [store.trial(key).end() for key in choice.runs]
    readings = [end.oracle for end in ends if end and end.oracle]
    if not readings:
        return None
    found = {}
    for split in readings[0]:
        values = [reading[split] for reading in readings]
        std = statistics.stdev(values) if len(values) > 1 else None
        found[split] = {"mean": statistics.fmean(values), "std": std}
    return found


def _no_adaptation(store: StudyStore, trials: list[Ended]) -> dict[str, Any]:
    for trial in trials:
        if trial.record.role == "no adaptation":
            end = store.trial(trial.record.key).end()
            return {"score": trial.score, "oracle": end.oracle if end else None}
    return {"score": None, "oracle": None}


def status(store: StudyStore) -> dict[str, Any]:
    """Where a study is, as a contract for scripts.

    Returns:
        ``study``, ``state`` (running, finished, failed, interrupted, stopped), ``error`` or None,
        ``trials`` {finished, pruned, failed, running, planned}, ``best`` {trial, score} or None,
        ``started`` (seconds since the epoch), ``elapsed_s``, ``tracking`` (the fields of
        `TrackingStatus`).

    Raises:
        ValueError: If there is no such study.
    """
    study, state = _study(store), store.read("state") or {}
    trials = store.trials()
    states = [files.state() for files in trials]
    counts = {name: sum(state == name for state in states) for name in STATES}
    # A finished study plans no more, even where fewer than planned could be finalists.
    if state.get("state") != "finished":
        counts["planned"] += max(0, study["trials"] - len(trials))
    ended = state.get("ended")
    return {
        "study": study["config"]["name"],
        "state": _state(state),
        "error": state.get("error"),
        "trials": counts,
        "best": _best_so_far(store),
        "started": state.get("started"),
        "elapsed_s": (ended or time.time()) - state.get("started", time.time()),
        "tracking": asdict(read_status(store.tracking)),
    }


def state_of(store: StudyStore) -> str:
    """The state alone, as `status` has it, without reading the trials."""
    return _state(store.read("state") or {})


def all_studies(storage: Path) -> list[dict[str, Any]]:
    """`status` of every study in a folder of studies, by start.

    One that cannot be read has the state ``unreadable``, its ``error``, and None for the rest.

    Raises:
        ValueError: If there is no such folder.
    """
    if not storage.is_dir():
        raise ValueError(f"no folder {storage}; give that of the studies with --storage")
    found = [_status_or_error(file.parent) for file in storage.glob("*/study.json")]
    return sorted(found, key=lambda study: (study["started"] or 0, study["study"]))


def _status_or_error(folder: Path) -> dict[str, Any]:
    try:
        return status(StudyStore(folder))
    except (ValueError, KeyError, TypeError, OSError) as error:
        nothing = dict.fromkeys(("trials", "best", "started", "elapsed_s"))
        return {"study": folder.name, "state": "unreadable", "error": str(error), **nothing}


def _best_so_far(store: StudyStore) -> dict[str, Any] | None:
    objective = _objective(store)
    trials = ended_trials(store, objective, _constraints(store))
    if all(trial.left_out for trial in trials):
        return None
    choice = choose_trial(trials, by_oracle=objective.is_oracle)
    return {"trial": choice.key, "score": {"name": objective.name, "value": choice.score}}


def _state(state: Mapping[str, Any]) -> str:
    """The study's state; ``interrupted`` if its process is gone without a word."""
    name = str(state.get("state", "interrupted"))
    if name != "running":
        return name
    here = state.get("host") == socket.gethostname()
    is_silent = time.time() - state.get("beat", time.time()) > BEAT_TIMEOUT_S
    return "interrupted" if is_silent or (here and not is_alive(state["pid"])) else name


def _study(store: StudyStore) -> dict[str, Any]:
    study = store.read("study")
    if study is None:
        raise ValueError(
            f"no study in {store.folder}; give the study's folder, its name with --storage, or "
            "its file"
        )
    return study


def _objective(store: StudyStore) -> ObjectiveConfig:
    return ObjectiveConfig.from_mapping(_study(store)["config"]["objective"])


def _constraints(store: StudyStore) -> Constraints:
    search = _study(store)["config"]["search"]
    return SearchConfig.from_mapping(search).constraints


def _figures(store: StudyStore) -> list[dict[str, float]]:
    """What constraints look at, of every trial that ended in order."""
    ended = [(files, files.end()) for files in store.trials()]
    return [figures(files.kept(), end) for files, end in ended if end and end.state != "failed"]


def trial_table(store: StudyStore) -> list[tuple[TrialRecord, ReportRecord | None, EndRecord]]:
    """(what, newest report, how it ended) of every trial that is over, by number."""
    rows = []
    for files in store.trials():
        end, reports = files.end(), files.reports()
        if end:
            rows.append((files.record(), reports[-1] if reports else None, end))
    return rows


def overview(store: StudyStore) -> Overview:
    """A study as its picture shows it."""
    study = _study(store)
    config, objective = study["config"], _objective(store)
    ended = ended_trials(store, objective, _constraints(store))
    scores = {trial.record.key: trial.score for trial in ended}
    chosen = choose_trial(ended, by_oracle=objective.is_oracle).key
    trials = []
    for files in store.trials():
        record, end, reports = files.record(), files.end(), files.reports()
        trials.append(
            TrialCurve(
                name=record.name,
                role=record.role,
                steps=tuple(report.step for report in reports),
                scores=tuple(report.metrics[f"score/{objective.metric}"] for report in reports),
                final_score=scores.get(record.key),
                oracle=(end.oracle or {}).get("test") if end else None,
                chosen=record.key == chosen,
            )
        )
    task = config["trial"]["task"]
    title = f"{config['name']}: {task['source']} → {task['target']}"
    return Overview(
        title=title,
        score=objective.name,
        by_oracle=objective.is_oracle,
        trials=tuple(trials),
    )
