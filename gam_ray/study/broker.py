"""The broker between Ray Tune, which proposes trials, and lanes, which run them.

Relays (Tune's trainables) submit trials and wait for their events; lanes (Ray Train's worker
groups) take trials and send reports. The broker stores every report before it counts, keeps
the crowd that scores by consensus, and hands a trial again to a lane that lost its workers.
It is plain asyncio: Ray makes an actor of it, tests call it directly.

It may die at any moment. What it holds is on the study's storage, in `broker.json` what is neither
a trial's nor a report's; a broker of the same life of the study takes that up, and calls that were
under way are made again: a known trial, report or end changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gam_ray.config import StudentConfig, StudyConfig, TrialConfig, apply_settings
from gam_ray.selection.standings import MEAN_RANK, Standings
from gam_ray.study.constraints import figures, violations
from gam_ray.study.errors import STORAGE_FAILED
from gam_ray.study.store import (
    WITH_SETTINGS,
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
from gam_ray.tracking import Event as TrackedEvent
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
        kind: ``report``, ``end``, ``failed``, or ``paused``: the study stops before its end.
        step: Adaptation steps done.
        score: The objective's value.
        last: Whether the trial did all its steps.
        error: Why it failed.
    """

    kind: Literal["report", "end", "failed", "paused"]
    step: int
    score: float
    last: bool = False
    error: str | None = None


@dataclass(frozen=True)
class LaneState:
    """What is known of a lane whose workers have started.

    Attributes:
        nodes: Ids of the nodes that they are on.
        silent_s: Seconds since its last sign of life.
    """

    nodes: tuple[str, ...]
    silent_s: float


@dataclass(frozen=True)
class LanesState:
    """What the broker knows of lanes.

    Attributes:
        lanes: By name, those whose workers have started.
        reports: Reports taken so far, from all of them.
        closed: Whether lanes are to end.
    """

    lanes: dict[str, LaneState]
    reports: int
    closed: bool


@dataclass
class _Trial:
    """A trial in the broker's hands.

    `distrust` is of the report that is kept; `idle_reports` came after it, and were no better;
    `violations` are of the constraints, known at the trial's end.
    `is_of_earlier_life`: it was found on the storage, and no lane of this life had it yet.
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
    distrust: tuple[str, ...] = ()
    kept: ReportRecord | None = None
    idle_reports: int = 0
    is_of_earlier_life: bool = False
    violations: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "pruned", "failed")

    @property
    def stopped(self) -> bool:
        return not all(self.decisions.values())

    @property
    def has_vote(self) -> bool:
        return self.record.has_vote and not self.distrust


class Broker:
    """Holds a study's trials from proposal to end.

    Args:
        config: The study.
        rungs: Steps at which the schedule decides; a report there waits for the decision.
        life: Names this life of the study: one run of its process. None remembers nothing.
    """

    def __init__(
        self, config: StudyConfig, rungs: tuple[int, ...], life: str | None = None
    ) -> None:
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
        self._stopping = False
        self._lane_seen: dict[str, float] = {}
        self._lanes: dict[str, tuple[str, ...]] = {}
        self._lost: set[str] = set()
        self._progress: tuple[str, int, int] | None = None
        self._life = life
        told = _told(self._queue)
        for files in self._store.trials():
            self._recover(files, told)
        self._recall()

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
            self._queue.append(_started(record, self._config))
            files.create(record)
            self._trials[key] = _Trial(record, files)
        trial = self._trials[key]
        self._let_go_if_ending(trial)
        is_held = trial.lane is not None or key in self._waiting
        if not (self._closed or self._stopping or trial.is_over or is_held):
            self._waiting.append(key)
            self._remember()
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
        self._remember()
        await self._notify()

    async def wait_until_idle(self, wait_s: float) -> bool:
        """Whether no trial runs or waits, waiting up to `wait_s` seconds for it."""
        await self._wait_for(self._is_idle, wait_s)
        await self._check_lanes()
        return self._is_idle()

    async def stop(self, *, at_once: bool = False) -> None:
        """Let no trial start, and those that run pause; what is left goes on in another life.

        Args:
            at_once: Do not wait for those that run, which go on from the checkpoint they have.
        """
        first, self._stopping = not self._stopping, True
        for trial in self._trials.values():
            if not trial.is_over and (first if trial.lane is None else at_once):
                self._pause(trial)
        self._remember()
        await self._notify()

    async def track(self, events: list[TrackedEvent]) -> None:
        """Queue what the study's process has for MLflow; the queue has one writer, this one.

        Raises:
            OSError: If the disk refuses.
        """
        for event in events:
            self._queue.append(event)

    async def snapshot(self) -> dict[str, Any]:
        """Counts, the best trial so far and the current stage, for a progress display."""
        states = [trial.state for trial in self._trials.values()]
        ended = [t for t in self._trials.values() if t.state in ("finished", "pruned")]
        over = [trial for trial in ended if not trial.violations]
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
        self._remember()
        if error is not None:
            for trial in self._trials.values():
                if not trial.is_over:
                    self._give_up(trial, error)
        await self._notify()

    async def error(self) -> str | None:
        """Why the study was closed before its end, or None."""
        return self._closed or None

    async def lanes(self) -> LanesState:
        """What is known of the lanes."""
        now = time.monotonic()
        lanes = {
            name: LaneState(nodes, now - self._lane_seen[name])
            for name, nodes in self._lanes.items()
        }
        reports = sum(len(trial.steps_seen) for trial in self._trials.values())
        closed = self._closed is not None or self._stopping
        return LanesState(lanes, reports, closed=closed)

    async def lane_lost(self, lane: str, *, blame: bool = True) -> None:
        """A lane is gone for good: its trial is the next one's.

        Args:
            lane: Which; what is left of it gets no trial any more.
            blame: Whether its trial may have ended it.
        """
        self._lost.add(lane)
        self._lanes.pop(lane, None)
        self._lane_seen.pop(lane, None)
        for trial in self._trials.values():
            if trial.lane == lane and not trial.is_over:
                self._release(trial, "planned")
                trial.attempts -= not blame
                if self._stopping:
                    self._pause(trial)
                elif trial.attempts < MAX_ATTEMPTS:
                    self._waiting.insert(0, trial.record.key)
                else:
                    self._fail_by_its_lanes(trial)
        self._remember()
        await self._notify()

    # What lanes call

    async def lane_started(self, lane: str, nodes: tuple[str, ...]) -> None:
        """The workers of a lane are there, for the first time or again."""
        if lane not in self._lost:
            self._lanes[lane] = nodes
            self._lane_seen[lane] = time.monotonic()
            self._remember()

    async def is_to_pause(self, lane: str, key: str) -> bool:
        """Whether a lane is to pause its trial: the study stops, or another lane has the trial."""
        return self._stopping or self._trials[key].lane != lane

    async def storage_failed(self, error: str) -> None:
        """A worker could not write; no trial is to blame, and none can go on."""
        await self.close(STORAGE_FAILED.format(error=error))

    async def paused(self, lane: str, key: str) -> None:
        """A trial has left its checkpoint."""
        trial = self._trials[key]
        if trial.lane == lane and not trial.is_over:
            self._pause(trial)
            self._remember()
        await self._notify()

    async def next_trial(self, lane: str, wait_s: float) -> Assignment | Literal["close"] | None:
        """The next trial for a lane, or None after `wait_s` seconds, or ``close``.

        A lane that asks while it holds a trial has lost its workers: it gets the trial again,
        which goes on from its own checkpoint, `MAX_ATTEMPTS` times in all.
        """
        if self._stopping or lane in self._lost:
            return "close"
        self._lane_seen[lane] = time.monotonic()
        for trial in self._trials.values():
            if trial.lane == lane and not trial.is_over:
                if trial.attempts < MAX_ATTEMPTS:
                    return await self._assign_or_close(trial, lane)
                self._fail_by_its_lanes(trial)
                await self._notify()
        await self._wait_for(self._has_news_for_lanes, wait_s)
        if lane in self._lost:
            return "close"
        self._lane_seen[lane] = time.monotonic()
        if self._waiting:
            return await self._assign_or_close(self._trials[self._waiting.pop(0)], lane)
        return "close" if self._closed is not None or self._stopping else None

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
        if trial.is_over or trial.lane != lane:
            return Verdict(go_on=False, keep=False)
        if step not in trial.steps_seen:
            try:
                self._count(trial, step, metrics, predictions)
            except OSError as error:
                await self.storage_failed(str(error))
                return Verdict(go_on=False, keep=False)
            await self._notify()
        last = self._is_last(trial, step)
        if step in self._rungs and not last and trial.record.role == "search":
            decided = partial(self._is_decided, trial, step)
            await self._wait_for(decided, DECISION_TIMEOUT_S)
        assert trial.kept is not None
        return Verdict(go_on=not (last or trial.stopped), keep=trial.kept.step == step)

    async def progress(self, lane: str, stage: str, done: int, total: int) -> None:
        """A lane's sign of life."""
        if lane in self._lost:
            return
        self._lane_seen[lane] = time.monotonic()
        self._progress = (stage, done, total)

    async def finish(
        self, lane: str, key: str, *, step: int, oracle: dict[str, float] | None
    ) -> None:
        """A trial did all its steps, or was stopped before."""
        self._lane_seen[lane] = time.monotonic()
        trial = self._trials[key]
        if trial.is_over or trial.lane != lane:
            return
        pruned = not self._is_last(trial, step)
        seconds = time.time() - trial.started
        state: EndState = "pruned" if pruned else "finished"
        try:
            self._end(trial, EndRecord(state, step, seconds, None, oracle, time.time()))
        except OSError as error:
            await self.storage_failed(str(error))
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
        if final and not trial.is_over and trial.lane == lane:
            self._fail(trial, error)
        await self._notify()

    # Inside

    def _recover(self, files: TrialFiles, told: _Told) -> None:
        """Take up a trial that an earlier life of this study left on the storage.

        Tracking hears what it was not told before that life ended. Rows carry their own times, so
        that none of them can stand twice.
        """
        record, end = files.record(), files.end()
        trial = _Trial(record, files, state=end.state if end else "planned")
        trial.is_of_earlier_life = True
        for report in files.reports():
            self._take(trial, report)
            assert trial.kept is not None
            heard = trial.kept.metrics[self._metric]
            trial.events.append(self._report_event(trial, report.step, heard))
            if (record.key, report.step) not in told.reports:
                self._queue.append(_reported(record.key, report))
        predictions = files.predictions()
        if trial.kept is not None and predictions is not None:
            self._standings.put(
                record.key, trial.kept.metrics, predictions, has_vote=trial.has_vote
            )
        if end:
            self._hold_to_constraints(trial, end)
            trial.events.append(_end_event(trial, end))
            if record.key not in told.ended:
                self._tell_end(trial, end)
        self._trials[record.key] = trial

    def _recall(self) -> None:
        """Take up what an earlier broker of this life held."""
        known = self._store.read("broker") if self._life else None
        if not known or known["life"] != self._life:
            return
        self._closed, self._stopping = known["closed"], known["stopping"]
        self._waiting = [key for key in known["waiting"] if not self._trials[key].is_over]
        self._lost = set(known["lost"])
        for lane, nodes in known["lanes"].items():
            self._lanes[lane] = tuple(nodes)
            self._lane_seen[lane] = time.monotonic()
        for key, held in known["held"].items():
            trial = self._trials[key]
            trial.decisions = {int(step): go_on for step, go_on in held["decisions"].items()}
            if not trial.is_over:
                trial.lane, trial.attempts = held["lane"], held["attempts"]
                trial.started, trial.state = held["started"], "running"
                trial.is_of_earlier_life = False
        for trial in self._trials.values():
            self._let_go_if_ending(trial)

    def _let_go_if_ending(self, trial: _Trial) -> None:
        """Tell a trial's relay that nothing comes any more, where the study was closed or stops."""
        if trial.is_over:
            return
        if self._closed:
            self._give_up(trial, self._closed)
        elif self._stopping and trial.lane is None:
            self._pause(trial)

    def _remember(self) -> None:
        """Keep what `_recall` needs."""
        if self._life is None:
            return
        held = {
            key: {
                "lane": trial.lane,
                "attempts": trial.attempts,
                "started": trial.started,
                "decisions": trial.decisions,
            }
            for key, trial in self._trials.items()
            if trial.lane
        }
        content = {
            "life": self._life,
            "closed": self._closed,
            "stopping": self._stopping,
            "waiting": self._waiting,
            "held": held,
            "lanes": self._lanes,
            "lost": sorted(self._lost),
        }
        try:
            self._store.write("broker", content)
        except OSError as error:  # worth less than to go on, and trials meet it as well
            logger.warning("the broker's journal cannot be written: %s", error)

    def _has_news_for_lanes(self) -> bool:
        return bool(self._waiting) or self._closed is not None or self._stopping

    def _is_idle(self) -> bool:
        # What an earlier life has left open counts once it is asked for: by a later stage, perhaps.
        waits = bool(self._waiting) and not self._stopping
        return not waits and not any(trial.lane for trial in self._trials.values())

    def _is_decided(self, trial: _Trial, step: int) -> bool:
        return step in trial.decisions or self._stopping

    def _pause(self, trial: _Trial) -> None:
        """Let a trial's relay go; it is planned for another life of the study."""
        self._release(trial, "planned")
        trial.events.append(Event("paused", _last_step(trial), float("nan")))
        self._queue.append(TrialEnded(trial.record.key, "KILLED", _now_ms()))

    def _fail_by_its_lanes(self, trial: _Trial) -> None:
        cause = trial.cause or "its workers died"
        self._fail(trial, f"the trial ended its lane {trial.attempts} times: {cause}")

    def _fail(self, trial: _Trial, error: str) -> None:
        seconds = time.time() - trial.started
        self._end(trial, EndRecord("failed", _last_step(trial), seconds, error, time=time.time()))

    async def _assign_or_close(self, trial: _Trial, lane: str) -> Assignment | Literal["close"]:
        try:
            return self._assign(trial, lane)
        except OSError as error:
            await self.storage_failed(str(error))
            return "close"

    def _assign(self, trial: _Trial, lane: str) -> Assignment:
        if trial.is_of_earlier_life:  # its run has ended since
            self._queue.append(_started(trial.record, self._config))
            trial.is_of_earlier_life = False
        trial.files.mark_started()
        trial.lane = lane
        trial.attempts += 1
        trial.state = "running"
        trial.started = trial.started or time.time()
        self._remember()
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
        trial.attempts = 1  # it got on: what ends its lane from now on is counted anew
        report = ReportRecord(step=step, metrics=metrics, time=time.time(), kept=keep)
        trial.files.append_report(report, predictions)
        self._take(trial, report)
        if not keep:  # what is on storage is still the report before
            before = trial.files.predictions()
            assert trial.kept is not None
            assert before is not None
            self._standings.put(key, trial.kept.metrics, before, has_vote=trial.has_vote)
        self._queue.append(_reported(key, report))
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
        self._hold_to_constraints(trial, end)
        self._release(trial, end.state)
        trial.events.append(_end_event(trial, end))
        self._tell_end(trial, end)
        self._remember()

    def _tell_end(self, trial: _Trial, end: EndRecord) -> None:
        for event in _ended(trial, end):
            self._queue.append(event)

    def _hold_to_constraints(self, trial: _Trial, end: EndRecord) -> None:
        constraints = self._config.search.constraints
        trial.violations = violations(trial.record, constraints, figures(trial.kept, end))

    def _release(self, trial: _Trial, state: TrialState) -> None:
        """Take a trial from its lane, or from those that wait."""
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
    if role in WITH_SETTINGS:
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
    return TrialStarted(record.key, record.name, params, tags, _now_ms())


class _Told(NamedTuple):
    """What was queued: reports by trial and step, and trials whose newest news is their end."""

    reports: set[tuple[str | None, int]]
    ended: set[str]


def _told(queue: TrackingQueue) -> _Told:
    told = _Told(set(), set())
    reports, ended = told
    for _, event in queue.read():
        match event:
            case MetricsReported() if any(name.startswith("score/") for name in event.values):
                reports.add((event.trial, event.step))  # not the seconds of its end
            case TrialStarted():
                ended.discard(event.trial)
            case TrialEnded():
                ended.add(event.trial)
    return told


def _reported(key: str, report: ReportRecord) -> MetricsReported:
    return MetricsReported(key, report.step, report.metrics, int(report.time * 1000))


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
    key, now = trial.record.key, int(end.time * 1000)
    events: list[MetricsReported | TagsSet | ArtifactReady | TrialEnded] = [
        MetricsReported(key, end.step, {"seconds": end.seconds}, now)
    ]
    if end.oracle:
        values = {f"oracle/{split}": value for split, value in end.oracle.items()}
        events.append(MetricsReported(key, end.step, values, now))
    # MLflow shows what the schedule stopped by the same red cross as what failed.
    tags = {"gam_ray.state": str(end.state)}
    if end.error:
        tags["gam_ray.error"] = end.error
    else:
        tags["gam_ray.guard"] = "; ".join(trial.distrust) or "ok"
        if trial.violations:
            tags["gam_ray.constraints"] = "; ".join(trial.violations)
    events.append(TagsSet(key, tags))
    files = (trial.files.folder / "trial.json", trial.files.adapted)
    events += [ArtifactReady(key, str(file)) for file in files if file.exists()]
    events.append(TrialEnded(key, RUN_STATUS[end.state], now))
    return events


def _now_ms() -> int:
    return int(time.time() * 1000)
