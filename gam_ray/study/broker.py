"""The broker between Ray Tune, which proposes trials, and lanes, which run them.

Relays (Tune's trainables) submit trials and wait for their events; lanes (Ray Train's worker
groups) take trials and send reports. The broker stores every report before it counts, keeps
the crowd that scores by consensus, and hands a trial again to a lane that lost its workers.
It is plain asyncio: Ray makes an actor of it, tests call it directly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gam_ray.config import StudentConfig, StudyConfig, TrialConfig, apply_settings
from gam_ray.selection.standings import MEAN_RANK, Standings
from gam_ray.study.store import (
    EndRecord,
    EndState,
    ReportRecord,
    Role,
    StudyStore,
    TrialFiles,
    TrialRecord,
    TrialState,
)
from gam_ray.study.trust import distrust
from gam_ray.tracking import (
    ArtifactReady,
    MetricsReported,
    TagsSet,
    TrackingQueue,
    TrialEnded,
    TrialStarted,
)
from gam_ray.training.reports import Verdict

logger = logging.getLogger(__name__)

# What the search hears of a trial that the guard distrusts: less than any score of the others.
UNTRUSTED_SCORE = -1e6

# A trial whose lane dies more often than this has failed; the next one gets the lane.
MAX_ATTEMPTS = 3
# Longest wait for the schedule's decision on a report; then the trial goes on.
DECISION_TIMEOUT_S = 60.0
RUN_STATUS: dict[str, Literal["FINISHED", "KILLED", "FAILED"]] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
}


@dataclass(frozen=True)
class Assignment:
    """A trial for a lane: its key and configuration, and where its files are."""

    key: str
    config: TrialConfig
    folder: Path


@dataclass(frozen=True)
class Event:
    """What a relay hears of its trial.

    Attributes:
        kind: ``report``, ``end`` or ``failed``.
        step: Adaptation steps done.
        score: The objective's value.
        last: Whether the trial did all its steps.
        error: Why it failed.
    """

    kind: Literal["report", "end", "failed"]
    step: int
    score: float
    last: bool = False
    error: str | None = None


@dataclass
class _Trial:
    """A trial in the broker's hands.

    `distrust` is of the report that is kept; `idle_reports` came after it, and were no better.
    """

    record: TrialRecord
    files: TrialFiles
    state: TrialState = "planned"
    events: list[Event] = field(default_factory=list)
    attempts: int = 0
    cause: str | None = None
    lane: str | None = None
    started: float = 0.0
    steps_seen: set[int] = field(default_factory=set)
    decisions: dict[int, bool] = field(default_factory=dict)
    stopped: bool = False
    distrust: tuple[str, ...] = ()
    kept: ReportRecord | None = None
    idle_reports: int = 0

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "pruned", "failed")

    @property
    def has_vote(self) -> bool:
        return self.record.has_vote and not self.distrust


class Broker:
    """Holds a study's trials from proposal to end.

    Args:
        config: The study.
        rungs: Steps at which the schedule decides; a report there waits for the decision.
    """

    def __init__(self, config: StudyConfig, rungs: tuple[int, ...]) -> None:
        self._config = config
        self._rungs = frozenset(rungs)
        self._store = StudyStore(config.folder)
        self._store.tracking.mkdir(parents=True, exist_ok=True)
        self._queue = TrackingQueue(self._store.tracking)
        self._trials: dict[str, _Trial] = {}
        self._waiting: list[str] = []
        self._standings = Standings(config.objective.score, config.objective.checkpoint_scores)
        self._changed = asyncio.Condition()
        self._closed: str | None = None
        self._lane_seen: dict[str, float] = {}
        self._progress: tuple[str, int, int] | None = None
        for files in self._store.trials():
            self._recover(files)

    # What relays and the study call

    async def submit(self, settings: dict[str, Any], role: Role = "search") -> str:
        """Plan the trial with these settings; one that is known already is not run again.

        Args:
            settings: Dotted path → value, on top of the study's trial; of a student, its
                `StudentConfig` under ``student``.
            role: What the trial is for.

        Returns:
            The trial's key.

        Raises:
            ValueError: If a setting is refused.
        """
        config = _trial_config(self._config.trial, settings, role)
        key = config.key()
        if key not in self._trials:
            record = TrialRecord(key, len(self._trials), role, settings, config)
            files = self._store.trial(key)
            files.create(record)
            self._trials[key] = _Trial(record, files)
            self._queue.append(_started(record, self._config))
        trial = self._trials[key]
        if self._closed and not trial.is_over:
            self._give_up(trial, self._closed)
        elif not trial.is_over and trial.lane is None and key not in self._waiting:
            self._waiting.append(key)
        await self._notify()
        return key

    async def next_event(self, key: str, seen: int, wait_s: float) -> Event | None:
        """The event after the first `seen` ones of a trial, or None after `wait_s` seconds."""
        trial = self._trials[key]
        await self._wait_for(lambda: len(trial.events) > seen, wait_s)
        await self._check_lanes()
        return trial.events[seen] if len(trial.events) > seen else None

    async def decide(self, key: str, step: int, *, go_on: bool) -> None:
        """What the schedule says to the report of `step`."""
        trial = self._trials[key]
        trial.decisions[step] = go_on
        trial.stopped = trial.stopped or not go_on
        await self._notify()

    async def wait_until_idle(self, wait_s: float) -> bool:
        """Whether every trial is over, waiting up to `wait_s` seconds for it."""
        await self._wait_for(lambda: all(t.is_over for t in self._trials.values()), wait_s)
        await self._check_lanes()
        return all(trial.is_over for trial in self._trials.values())

    async def snapshot(self) -> dict[str, Any]:
        """Counts, the best trial so far and the current stage, for a progress display."""
        states = [trial.state for trial in self._trials.values()]
        over = [t for t in self._trials.values() if t.state in ("finished", "pruned")]
        best = max(over, key=self._score_now, default=None)
        return {
            "trials": {state: states.count(state) for state in set(states)},
            "best": {"name": best.record.name, "score": self._score_now(best)} if best else None,
            "stage": self._progress,
        }

    async def close(self, error: str | None = None) -> None:
        """Let every lane end when it asks next; with an error, trials that are left fail.

        They fail for now: nothing of it is stored, so that the study can be taken up again.
        """
        self._closed = self._closed or error or ""
        if error is not None:
            for trial in self._trials.values():
                if not trial.is_over:
                    self._give_up(trial, error)
        await self._notify()

    async def error(self) -> str | None:
        """Why the study was closed before its end, or None."""
        return self._closed or None

    # What lanes call

    async def next_trial(self, lane: str, wait_s: float) -> Assignment | Literal["close"] | None:
        """The next trial for a lane, or None after `wait_s` seconds, or ``close``.

        A lane that asks while it holds a trial has lost its workers: it gets the trial again,
        which goes on from its own checkpoint, `MAX_ATTEMPTS` times in all.
        """
        self._lane_seen[lane] = time.monotonic()
        for trial in self._trials.values():
            if trial.lane == lane and not trial.is_over:
                if trial.attempts < MAX_ATTEMPTS:
                    return self._assign(trial, lane)
                cause = trial.cause or "its workers died"
                error = f"the trial ended its lane {trial.attempts} times: {cause}"
                self._end(trial, EndRecord("failed", _last_step(trial), 0.0, error=error))
                await self._notify()
        await self._wait_for(lambda: bool(self._waiting) or self._closed is not None, wait_s)
        self._lane_seen[lane] = time.monotonic()
        if self._waiting:
            return self._assign(self._trials[self._waiting.pop(0)], lane)
        return "close" if self._closed is not None else None

    async def report(
        self,
        lane: str,
        key: str,
        step: int,
        metrics: dict[str, float],
        predictions: NDArray[np.float32],
    ) -> Verdict:
        """Store a report, score it, and answer whether the trial goes on and keeps it.

        A report whose step is known (its worker died after sending it) changes nothing.
        """
        self._lane_seen[lane] = time.monotonic()
        trial = self._trials[key]
        if trial.is_over:
            return Verdict(go_on=False, keep=False)
        if step not in trial.steps_seen:
            self._count(trial, step, metrics, predictions)
            await self._notify()
        last = self._is_last(trial, step)
        if step in self._rungs and not last and trial.record.role == "search":
            await self._wait_for(lambda: step in trial.decisions, DECISION_TIMEOUT_S)
        assert trial.kept is not None
        return Verdict(go_on=not (last or trial.stopped), keep=trial.kept.step == step)

    async def progress(self, lane: str, stage: str, done: int, total: int) -> None:
        """A lane's sign of life."""
        self._lane_seen[lane] = time.monotonic()
        self._progress = (stage, done, total)

    async def finish(
        self, lane: str, key: str, *, step: int, oracle: dict[str, float] | None
    ) -> None:
        """A trial did all its steps, or was stopped before."""
        self._lane_seen[lane] = time.monotonic()
        trial = self._trials[key]
        if trial.is_over:
            return
        pruned = not self._is_last(trial, step)
        seconds = time.time() - trial.started
        self._end(trial, EndRecord("pruned" if pruned else "finished", step, seconds, None, oracle))
        await self._notify()

    async def fail(self, lane: str, key: str, error: str, *, final: bool) -> None:
        """A trial raised an error.

        Args:
            lane: Which lane.
            key: Which trial.
            error: What it raised.
            final: Whether the trial is over; else its workers end, and it is tried again.
        """
        self._lane_seen[lane] = time.monotonic()
        trial = self._trials[key]
        trial.cause = error
        if final and not trial.is_over:
            seconds = time.time() - trial.started
            self._end(trial, EndRecord("failed", _last_step(trial), seconds, error=error))
        await self._notify()

    # Inside

    def _recover(self, files: TrialFiles) -> None:
        """Take up a trial that an earlier life of this study left on the storage."""
        record, end = files.record(), files.end()
        trial = _Trial(record, files, state=end.state if end else "planned")
        for report in files.reports():
            self._take(trial, report)
            trial.events.append(
                self._report_event(trial, report.step, report.metrics[self._metric])
            )
        predictions = files.predictions()
        if trial.kept is not None and predictions is not None:
            self._standings.put(
                record.key, trial.kept.metrics, predictions, has_vote=trial.has_vote
            )
        if end:
            trial.events.append(_end_event(trial, end))
        self._trials[record.key] = trial

    def _assign(self, trial: _Trial, lane: str) -> Assignment:
        trial.lane = lane
        trial.attempts += 1
        trial.state = "running"
        trial.started = trial.started or time.time()
        trial.files.mark_started()
        return Assignment(trial.record.key, trial.record.config, trial.files.folder)

    def _count(
        self,
        trial: _Trial,
        step: int,
        metrics: dict[str, float],
        predictions: NDArray[np.float32],
    ) -> None:
        key = trial.record.key
        keep = self._is_no_worse(trial, metrics, predictions)
        has_vote = trial.record.has_vote and not self._distrust(trial, metrics)
        self._standings.put(key, metrics, predictions, has_vote=has_vote)
        crowd = self._standings.crowd_scores(key)
        metrics = {**metrics, **{f"score/{name}": value for name, value in crowd.items()}}
        if self._metric == f"score/{MEAN_RANK}":
            metrics[self._metric] = self._standings.value(key)
        report = ReportRecord(step=step, metrics=metrics, time=time.time(), kept=keep)
        trial.files.append_report(report, predictions)
        self._take(trial, report)
        if not keep:  # what is on storage is still the report before
            before = trial.files.predictions()
            assert trial.kept is not None
            assert before is not None
            self._standings.put(key, trial.kept.metrics, before, has_vote=trial.has_vote)
        self._queue.append(MetricsReported(key, step, metrics, int(report.time * 1000)))
        trial.events.append(self._report_event(trial, step, self._standings.value(key)))

    def _is_no_worse(
        self, trial: _Trial, metrics: dict[str, float], predictions: NDArray[np.float32]
    ) -> bool:
        """Whether a report is to be kept: it is trusted rather than the one before, or as good."""
        if trial.kept is None:
            return True
        trusted, was_trusted = not self._distrust(trial, metrics), not trial.distrust
        if trusted != was_trusted:
            return trusted
        return self._standings.is_no_worse(trial.record.key, metrics, predictions)

    def _take(self, trial: _Trial, report: ReportRecord) -> None:
        """Remember a report that is on storage."""
        trial.steps_seen.add(report.step)
        trial.idle_reports += 1
        if report.kept:
            trial.kept, trial.idle_reports = report, 0
            trial.distrust = self._distrust(trial, report.metrics)

    def _is_last(self, trial: _Trial, step: int) -> bool:
        """Whether a trial is over after its report of `step`, the newest: all done, or idle."""
        patience = self._config.objective.patience
        idle = patience is not None and trial.idle_reports >= patience
        return idle or step >= trial.record.config.last_step

    @property
    def _metric(self) -> str:
        return f"score/{self._config.objective.metric}"

    def _distrust(self, trial: _Trial, metrics: dict[str, float]) -> tuple[str, ...]:
        return distrust(trial.record, metrics, label_shift=self._config.objective.label_shift)

    def _report_event(self, trial: _Trial, step: int, score: float) -> Event:
        if trial.distrust:
            score = UNTRUSTED_SCORE
        return Event("report", step, score, last=self._is_last(trial, step))

    def _end(self, trial: _Trial, end: EndRecord) -> None:
        trial.files.write_end(end)
        self._release(trial, end.state)
        trial.events.append(_end_event(trial, end))
        for event in _ended(trial, end):
            self._queue.append(event)

    def _release(self, trial: _Trial, state: EndState) -> None:
        """Take a trial that is over from its lane, or from those that wait."""
        trial.state = state
        trial.lane = None
        if trial.record.key in self._waiting:
            self._waiting.remove(trial.record.key)

    def _give_up(self, trial: _Trial, error: str) -> None:
        self._release(trial, "failed")
        trial.events.append(Event("failed", _last_step(trial), float("nan"), error=error))

    def _score_now(self, trial: _Trial) -> float:
        """The objective's value of a trial against today's crowd."""
        if trial.distrust:
            return UNTRUSTED_SCORE
        return self._standings.value(trial.record.key)

    async def _check_lanes(self) -> None:
        """Close the study if no lane has given a sign of life for too long."""
        limit = self._config.resources.report_timeout_s
        seen = max(self._lane_seen.values(), default=None)
        if self._closed is None and seen is not None and time.monotonic() - seen > limit:
            await self.close(
                f"no lane gave a sign of life for {limit:g} s (resources.report_timeout_s); "
                "look at the workers' logs, or raise the limit if a report takes longer"
            )

    async def _wait_for(self, predicate: Any, wait_s: float) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(predicate), wait_s)
            except TimeoutError:
                return

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _trial_config(base: TrialConfig, settings: dict[str, Any], role: Role) -> TrialConfig:
    if role in ("search", "again"):
        return apply_settings(base, settings)
    if role == "student":
        student = StudentConfig.from_mapping(settings["student"])
        update = {"student": student, "fine_tuning": None, "batch_size": base.batch_size}
        return base.baseline("none").model_copy(update=update)
    return base.baseline("none" if role == "no adaptation" else "gaussian")


def _last_step(trial: _Trial) -> int:
    return max(trial.steps_seen, default=0)


def _end_event(trial: _Trial, end: EndRecord) -> Event:
    if end.state == "failed":
        return Event("failed", end.step, float("nan"), error=end.error)
    return Event("end", end.step, trial.events[-1].score if trial.events else float("nan"))


def _started(record: TrialRecord, config: StudyConfig) -> TrialStarted:
    """The tracking event of a trial's start, with its searched settings as parameters."""
    params: dict[str, Any] = {}
    for path, value in _flat(record.settings).items():
        params[path] = "+".join(value) if isinstance(value, list | tuple) else value
    params |= {"steps": record.config.last_step, "batch_size": record.config.batch_size}
    tags = {
        "gam_ray.role": record.role,
        "gam_ray.objective": config.objective.name,
        "gam_ray.task": f"{record.config.task.source} → {record.config.task.target}",
    }
    return TrialStarted(record.key, record.name, params, tags, int(time.time() * 1000))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted path, those of a student as well."""
    flat = {path: value for path, value in settings.items() if not isinstance(value, Mapping)}
    for path, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{path}.{name}": inner for name, inner in _flat(value).items()}
    return flat


def _ended(
    trial: _Trial, end: EndRecord
) -> list[MetricsReported | TagsSet | ArtifactReady | TrialEnded]:
    key, now = trial.record.key, int(time.time() * 1000)
    events: list[MetricsReported | TagsSet | ArtifactReady | TrialEnded] = [
        MetricsReported(key, end.step, {"seconds": end.seconds}, now)
    ]
    if end.oracle:
        values = {f"oracle/{split}": value for split, value in end.oracle.items()}
        events.append(MetricsReported(key, end.step, values, now))
    if end.error:
        events.append(TagsSet(key, {"gam_ray.error": end.error}))
    else:
        events.append(TagsSet(key, {"gam_ray.guard": "; ".join(trial.distrust) or "ok"}))
    files = (trial.files.folder / "trial.json", trial.files.adapted)
    events += [ArtifactReady(key, str(file)) for file in files if file.exists()]
    events.append(TrialEnded(key, RUN_STATUS[end.state], now))
    return events
