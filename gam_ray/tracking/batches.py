"""What waits for one run, gathered from its events into as few requests as possible."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gam_ray.tracking.events import (
    Event,
    MetricsReported,
    Params,
    RunStatus,
    StudyEnded,
    StudyStarted,
    Tags,
    TagsSet,
    TrialEnded,
    TrialStarted,
    run_of,
)
from gam_ray.tracking.naming import PARAM_LENGTH, TAG_LENGTH, clean_key, clean_text


class MetricRow(NamedTuple):
    """One number of one run, in the order in which MLflow's `Metric` takes it."""

    key: str
    value: float
    time_ms: int
    step: int


class Ending(NamedTuple):
    """How and when a run ended."""

    status: RunStatus
    time_ms: int


class Content(NamedTuple):
    """What one `log_batch` call takes. Params keep doubles, which MLflow judges."""

    params: list[tuple[str, str]]
    tags: Tags
    metrics: list[MetricRow]


@dataclass
class RunBatch:
    """What waits for one run.

    Attributes:
        name: The run's name, if it started among these events.
        start_ms: When it started, if it did, in milliseconds since the epoch.
        ending: How it ended; None if it did not, or started again since.
        content: Params, tags and metrics.
    """

    name: str | None = None
    start_ms: int | None = None
    ending: Ending | None = None
    content: Content = field(default_factory=lambda: Content([], {}, []))

    def add(self, event: Event) -> None:
        """Add an event of this run; files are not part of a batch."""
        match event:
            case StudyStarted():
                self._start(event.study, event)
            case TrialStarted():
                self._start(event.name, event)
            case MetricsReported():
                self._report(event)
            case TagsSet():
                self._tag(event.tags)
            case StudyEnded() | TrialEnded():
                self.ending = Ending(event.status, event.time_ms)

    def parts(self) -> list[Content]:
        """Return the content as three requests, so that a refused one does not hold the others."""
        params, tags, metrics = self.content
        return [Content([], tags, []), Content(params, {}, []), Content([], {}, metrics)]

    def _start(self, name: str, event: StudyStarted | TrialStarted) -> None:
        self.name, self.start_ms, self.ending = name, event.time_ms, None
        self._tag(event.tags)
        known = self.content.params
        known.extend(pair for pair in _pairs(event.params) if pair not in known)

    def _tag(self, tags: Tags) -> None:
        for key, value in tags.items():
            self.content.tags[clean_key(key)] = clean_text(value, TAG_LENGTH)

    def _report(self, event: MetricsReported) -> None:
        for key, value in event.values.items():
            if math.isfinite(value):
                row = MetricRow(clean_key(key), value, event.time_ms, event.step)
                self.content.metrics.append(row)
            else:  # stores turn infinities into the largest float, and charts break on both
                self._tag({f"gam_ray.nonfinite.{key}": f"{value} at step {event.step}"})


def gather(events: Iterable[Event]) -> dict[str, RunBatch]:
    """Gather events by run, in the order in which the runs first appear."""
    batches: dict[str, RunBatch] = {}
    for event in events:
        batches.setdefault(run_of(event), RunBatch()).add(event)
    return batches


def _pairs(params: Params) -> list[tuple[str, str]]:
    return [(clean_key(key), clean_text(str(value), PARAM_LENGTH)) for key, value in params.items()]
