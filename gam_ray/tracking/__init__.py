"""Tracking: what happens in a study reaches MLflow, each step once, whatever MLflow does.

A study appends events to a `TrackingQueue`, which is a file; an `MLflowSink` carries them on in a
thread of its own. Importing this does not import mlflow.
"""

from gam_ray.tracking.events import (
    ArtifactReady,
    Event,
    MetricsReported,
    RunStatus,
    StudyEnded,
    StudyStarted,
    TagsSet,
    TrialEnded,
    TrialStarted,
    event_from_json,
)
from gam_ray.tracking.failures import mask_credentials, without_credentials
from gam_ray.tracking.health import TrackingStatus, read_status
from gam_ray.tracking.progress import read_run_ids
from gam_ray.tracking.queue import TrackingQueue
from gam_ray.tracking.sink import MLflowSink, SinkStatus
from gam_ray.tracking.view import RunsView

__all__ = [
    "ArtifactReady",
    "Event",
    "MLflowSink",
    "MetricsReported",
    "RunStatus",
    "RunsView",
    "SinkStatus",
    "StudyEnded",
    "StudyStarted",
    "TagsSet",
    "TrackingQueue",
    "TrackingStatus",
    "TrialEnded",
    "TrialStarted",
    "event_from_json",
    "mask_credentials",
    "read_run_ids",
    "read_status",
    "without_credentials",
]
