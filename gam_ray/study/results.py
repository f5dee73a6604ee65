"""What can be told of a study from its storage: its status, and its choice.

The mappings that `status` and `best` give are a contract for scripts; keys are added, never
renamed or removed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from gam_ray.report import Overview, TrialCurve
from gam_ray.selection.choice import Candidate, choose
from gam_ray.selection.consensus import agreements
from gam_ray.study.store import EndRecord, ReportRecord, StudyStore, TrialFiles, TrialRecord
from gam_ray.study.trust import distrust
from gam_ray.tracking import read_run_ids

STATES = ("finished", "pruned", "failed", "running", "planned")


def final_scores(store: StudyStore, score: str) -> dict[str, float]:
    """Trial key → score of each trial that ended in order, over the whole crowd.

    For ``ensv`` the consensus is taken anew, of the newest predictions of all these trials that
    the guard trusts; other scores are those of the newest report.

    Args:
        store: The study's.
        score: Name of a label-free score.
    """
    ended = {files.record().key: files for files in store.trials() if _ended_well(files)}
    if score == "ensv":
        predictions = {key: files.predictions() for key, files in ended.items()}
        voted = {key: p for key, p in predictions.items() if p is not None}
        return agreements(voted, untrusted=distrusted(store).keys())
    return {key: files.reports()[-1].metrics[f"score/{score}"] for key, files in ended.items()}


def distrusted(store: StudyStore) -> dict[str, tuple[str, ...]]:
    """Trial key → why, of each trial that ended in order and that the guard distrusts."""
    label_shift = _study(store)["config"]["objective"]["label_shift"]
    found = {}
    for files in store.trials():
        reports = files.reports()
        if reports and _ended_well(files):
            record = files.record()
            found[record.key] = distrust(record, reports[-1].metrics, label_shift=label_shift)
    return {key: causes for key, causes in found.items() if causes}


def _winner(store: StudyStore, scores: Mapping[str, float]) -> Candidate:
    """The trusted trial with the highest final score; no target label is looked at."""
    out = distrusted(store)
    trusted = [Candidate(key, value) for key, value in scores.items() if key not in out]
    if not trusted:
        key, causes = next(iter(out.items()))
        raise ValueError(
            f"the guard distrusts all {len(out)} trials, so there is nothing to choose; of "
            f"{store.trial(key).record().name}: {'; '.join(causes)}"
        )
    return choose(trusted)


def best(store: StudyStore) -> dict[str, Any]:
    """The choice of a study so far, as a contract for scripts.

    Returns:
        ``study``, ``state``, ``trial`` {key, number, name, steps}, ``config``, ``settings``,
        ``score`` {name, value}, ``oracle`` {split: accuracy in [0, 1]} or None,
        ``no_adaptation`` {score, oracle}, ``distrusted`` [{trial, name, causes}],
        ``checkpoint``, ``mlflow_run_id`` or None.

    Raises:
        ValueError: If there is no such study, or no trial of it ended in order yet.
    """
    study = _study(store)
    score = study["config"]["objective"]["score"]
    scores = final_scores(store, score)
    if not scores:
        raise ValueError(f"no trial of {study['config']['name']} has ended in order yet")
    key = _winner(store, scores).name
    files = store.trial(key)
    record, end = files.record(), files.end()
    assert end is not None
    return {
        "study": study["config"]["name"],
        "state": status(store)["state"],
        "trial": {
            "key": key,
            "number": record.number,
            "name": record.name,
            "role": record.role,
            "steps": end.step,
        },
        "config": record.config.to_mapping(),
        "settings": record.settings,
        "score": {"name": score, "value": scores[key]},
        "oracle": end.oracle,
        "no_adaptation": _no_adaptation(store, scores),
        "distrusted": [
            {"trial": out, "name": store.trial(out).record().name, "causes": list(causes)}
            for out, causes in distrusted(store).items()
        ],
        "checkpoint": str(files.checkpoint),
        "mlflow_run_id": read_run_ids(store.tracking).get(key),
    }


def _no_adaptation(store: StudyStore, scores: Mapping[str, float]) -> dict[str, Any]:
    for files in store.trials():
        record, end = files.record(), files.end()
        if record.role == "no adaptation" and end:
            return {"score": scores.get(record.key), "oracle": end.oracle}
    return {"score": None, "oracle": None}


def status(store: StudyStore) -> dict[str, Any]:
    """Where a study is, as a contract for scripts.

    Returns:
        ``study``, ``state`` (running, finished, failed, interrupted), ``error`` or None,
        ``trials`` {finished, pruned, failed, running, planned}, ``best`` {trial, score} or None,
        ``started`` (seconds since the epoch), ``elapsed_s``.

    Raises:
        ValueError: If there is no such study.
    """
    study, state = _study(store), store.read("state") or {}
    trials = store.trials()
    states = [files.state() for files in trials]
    counts = {name: sum(state == name for state in states) for name in STATES}
    counts["planned"] += max(0, study["trials"] - len(trials))
    ended = state.get("ended")
    return {
        "study": study["config"]["name"],
        "state": _state(state),
        "error": state.get("error"),
        "trials": counts,
        "best": _best_so_far(store, study["config"]["objective"]["score"]),
        "started": state.get("started"),
        "elapsed_s": (ended or time.time()) - state.get("started", time.time()),
    }


def _best_so_far(store: StudyStore, score: str) -> dict[str, Any] | None:
    scores = final_scores(store, score)
    if not scores:
        return None
    winner = _winner(store, scores)
    return {"trial": winner.name, "score": {"name": score, "value": winner.score}}


def _state(state: Mapping[str, Any]) -> str:
    """The study's state; ``interrupted`` if its process is gone without a word."""
    name = str(state.get("state", "interrupted"))
    here = state.get("host") == socket.gethostname()
    return "interrupted" if name == "running" and here and not _is_alive(state["pid"]) else name


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _study(store: StudyStore) -> dict[str, Any]:
    study = store.read("study")
    if study is None:
        raise ValueError(
            f"no study in {store.folder}; give the study's folder, its name with --storage, or "
            "its file"
        )
    return study


def _ended_well(files: TrialFiles) -> bool:
    end = files.end()
    return end is not None and end.state in ("finished", "pruned")


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
    config, score = study["config"], study["config"]["objective"]["score"]
    scores = final_scores(store, score)
    chosen = _winner(store, scores).name
    trials = []
    for files in store.trials():
        record, end, reports = files.record(), files.end(), files.reports()
        trials.append(
            TrialCurve(
                name=record.name,
                role=record.role,
                steps=tuple(report.step for report in reports),
                scores=tuple(report.metrics[f"score/{score}"] for report in reports),
                final_score=scores.get(record.key),
                oracle=(end.oracle or {}).get("test") if end else None,
                chosen=record.key == chosen,
            )
        )
    task = config["trial"]["task"]
    title = f"{config['name']}: {task['source']} → {task['target']}"
    return Overview(title=title, score=score, trials=tuple(trials))
