"""Pictures of trials, drawn while a study runs and told to MLflow.

Of what trials have left on the storage, in a thread of the study's process: lanes have nothing to
do with it. One trial is drawn at a time, a while after it ended, so that neither Tune nor the lanes
that it serves wait for it. A failure costs the pictures of one trial and is logged.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gam_ray.config import TaskConfig
from gam_ray.export.colours import class_colours
from gam_ray.report.plots import ORACLE
from gam_ray.report.sheets import (
    Distance,
    Segmented,
    Shown,
    draw_counts,
    draw_distances,
    draw_masks,
    draw_samples,
)
from gam_ray.study.store import StudyStore, TrialFiles, TrialRecord
from gam_ray.tracking import ArtifactReady, Event, MetricsReported, TrackingQueue
from gam_ray.training.exhibits import Exhibits

logger = logging.getLogger(__name__)

# A trial is drawn at each look. No thread of lower priority: one that holds Python's lock and is
# not given the processor would stop the whole process.
LOOK_EVERY_S = 2.0
# Until then its lane is given the next trial.
REST_S = 1.0
LINES = 1000
MOST_SURE = 16
PICTURES = "pictures"
"""Folder in MLflow of what needs no target label; what does is in `report.plots.ORACLE`."""
SAMPLES, CHANGED, MOMENTS, CONFUSION = (
    "samples.png", "changed.png", "moments.png", "oracle_confusion.png",
)  # fmt: skip
# Told last of a trial's pictures: where it is, all are.
_LAST = SAMPLES

Track = Callable[[list[Event]], None]


@dataclass(frozen=True)
class Target:
    """The held-out target, which trials predict.

    Attributes:
        images: uint8 [N, C, H, W].
        names: Of the classes.
        labels: int64 [M], of every prediction: an image, or a sampled pixel; None where there are
            none. For the oracle's pictures alone.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None

    @classmethod
    def load(cls, task: TaskConfig, data_root: Path | None) -> Target:
        """That of a task.

        Raises:
            DataMissingError: If its files are not there.
            ValueError: If its domains do not go together.
        """
        from gam_ray.training.data import load_held_out_labels, load_held_out_target
        from gam_ray.training.evaluation import labels_at_predictions

        held_out, names = load_held_out_target(task, data_root)
        labels = load_held_out_labels(task, data_root)
        told = None if labels is None else labels_at_predictions(held_out.images, labels).numpy()
        return cls(held_out.images.numpy(), names, told)


class Illustrator:
    """Draws what has ended, and tells MLflow, until it is closed.

    Args:
        store: Of the study.
        task: Of all its trials.
        data_root: Folder of data sets.
        track: Queues events for MLflow.
    """

    def __init__(
        self, store: StudyStore, task: TaskConfig, *, data_root: Path | None, track: Track
    ) -> None:
        self._store = store
        self._task = task
        self._data_root = data_root
        self._track = track
        self._lines = TrackingQueue(store.tracking).lines
        self._offset = 0
        self._waiting: list[str] = []
        self._told: set[str] = set()
        self._before: NDArray[np.float32] | None = None
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Let it draw what is left for so many seconds at most; returns at once, see `join`."""
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()

    def join(self) -> None:
        """Wait for the end of a thread that `finish` has told to end."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + LOOK_EVERY_S)

    @cached_property
    def _target(self) -> Target:
        return Target.load(self._task, self._data_root)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self._look()
            self._draw_next()
        self._look()
        while self._waiting and time.monotonic() < self._deadline:
            self._draw_next(is_last_chance=True)
        if self._waiting:
            logger.info("%d trials are without pictures; resume draws them", len(self._waiting))

    def _look(self) -> None:
        """Learn from the queue which trials have ended, and whose pictures were told."""
        try:
            while lines := self._lines.read(self._offset, LINES):
                for _, line in lines:
                    self._hear(line)
                self._offset = lines[-1][0]
        except OSError as error:
            logger.debug("the queue cannot be read: %s", error)

    def _hear(self, line: bytes) -> None:
        if b'"trial_ended"' in line:
            key = json.loads(line)["trial"]
            if key not in self._waiting:
                self._waiting.append(key)
        elif b'"artifact_ready"' in line:
            event = json.loads(line)
            if event["folder"] == PICTURES and event["path"].endswith(_LAST):
                self._told.add(event["trial"])

    def _draw_next(self, *, is_last_chance: bool = False) -> None:
        """Draw the first trial that waits."""
        while self._waiting and not self._is_to_draw(self._waiting[0]):
            del self._waiting[0]
        if not self._waiting:
            return
        if self._before is None:
            self._before = self._unadapted()
        if is_last_chance or (self._before is not None and self._has_rested(self._waiting[0])):
            self._draw(self._store.trial(self._waiting.pop(0)))

    def _has_rested(self, key: str) -> bool:
        end = self._store.trial(key).end()
        return end is not None and time.time() - end.time >= REST_S

    def _is_to_draw(self, key: str) -> bool:
        end = None if key in self._told else self._store.trial(key).end()
        return end is not None and end.state != "failed"  # without an end it is paused

    def _unadapted(self) -> NDArray[np.float32] | None:
        """What the source network predicts, once its own trial has ended."""
        for files in self._store.trials():
            if files.record().role == "no adaptation" and files.end():
                return files.predictions()
        return None

    def _draw(self, files: TrialFiles) -> None:
        record, end = files.record(), files.end()
        assert end is not None
        try:
            exhibits = Exhibits.read(files.exhibits)
            predictions = files.predictions()
            assert predictions is not None
            drawn = draw_trial(record, self._target, predictions, self._before, exhibits)
            folder = self._store.pictures / record.key
            events: list[Event] = []
            if exhibits is not None:
                figures = moment_figures(record, exhibits)
                events.append(MetricsReported(record.key, end.step, figures, int(end.time * 1000)))
            events += save_pictures(folder, record.key, drawn)
            self._track(events)
        except Exception as error:  # whatever it is: pictures are worth less than the study
            logger.warning("no pictures of trial %s: %s", record.name, error)
            logger.debug("in drawing", exc_info=True)


def draw_trial(
    record: TrialRecord,
    target: Target,
    predictions: NDArray[np.float32],
    before: NDArray[np.float32] | None,
    exhibits: Exhibits | None,
) -> dict[str, Image.Image]:
    """File name → picture of a trial; `SAMPLES` comes last.

    Args:
        record: The trial.
        target: What it predicts.
        predictions: Softmax [M, C], as the trial kept it.
        before: That of the source network; None while it is not known.
        exhibits: What the trial has left, if it did.

    Raises:
        ValueError: If the target's files are not those that were predicted.
    """
    count, classes = predictions.shape
    if len(target.names) != classes or count % len(target.images):
        raise ValueError(
            f"it predicted {count} rows of {classes} classes, but the held-out target has "
            f"{len(target.images)} images of {len(target.names)} classes here"
        )
    now, name = predictions.argmax(1), record.name
    drawn = {}
    if target.labels is not None:
        drawn[CONFUSION] = draw_counts(
            f"{name}: confusion matrix, by TARGET LABELS (oracle)",
            counts(target.labels, now, classes),
            target.names,
            rows="label",
            columns="prediction",
        )
    if before is not None and before.shape == predictions.shape:
        drawn[CHANGED] = draw_counts(
            f"{name}: what adaptation changed (no label is looked at)",
            counts(before.argmax(1), now, classes),
            target.names,
            rows="source network's prediction",
            columns="this network's",
        )
    if exhibits is not None and exhibits.layers:
        title = f"{name}: distance of activation moments, source to target"
        drawn[MOMENTS] = draw_distances(title, _distances(record, exhibits))
    if exhibits is not None and len(exhibits.frames):
        drawn[SAMPLES] = _masks(name, target, exhibits)
    elif count == len(target.images):
        drawn[SAMPLES] = _samples(name, target, predictions)
    return drawn


def counts(rows: NDArray[np.int64], columns: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """[C, C], how often each pair of classes [M] is; rows of no class are left out."""
    known = (rows >= 0) & (rows < classes)
    flat = rows[known] * classes + columns[known]
    found: NDArray[np.int64] = np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    return found


def moment_figures(record: TrialRecord, exhibits: Exhibits) -> dict[str, float]:
    """``moments/LAYER/before`` and ``…/after``, see `training.exhibits.moment_distance`.

    Of the layers with a discriminator, whose distance the trial set out to lower; of trials
    without one, of all. A chart of one layer over all runs then has both baselines in it, and a
    network of 23 layers does not fill the run's page.
    """
    return {
        f"moments/{each.layer}/{when}": value
        for each in _distances(record, exhibits)
        if each.is_matched or record.config.adaptation.kind != "general"
        for when, value in (("before", each.before), ("after", each.after))
    }


def save_pictures(folder: Path, key: str, drawn: dict[str, Image.Image]) -> list[Event]:
    """Write a trial's pictures; the events that tell MLflow of them.

    Raises:
        OSError: If the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    events: list[Event] = []
    for name, picture in drawn.items():
        draft = folder / f".{name}"
        picture.save(draft, "PNG")
        draft.replace(folder / name)
        where = ORACLE if name == CONFUSION else PICTURES
        events.append(ArtifactReady(key, str(folder / name), where))
    return events


def _distances(record: TrialRecord, exhibits: Exhibits) -> list[Distance]:
    adaptation = record.config.adaptation
    matched = adaptation.layers if adaptation.kind == "general" else ()
    rows = zip(exhibits.layers, exhibits.before, exhibits.after, strict=True)
    return [Distance(name, float(b), float(a), name in matched) for name, b, a in rows]


def _samples(name: str, target: Target, predictions: NDArray[np.float32]) -> Image.Image:
    sure = predictions.max(1)
    order = np.argsort(-sure, kind="stable")
    # The surest of each class, then the second: all of them may be of one class that is easy.
    place_in_class = np.empty(len(order), np.int64)
    classes = predictions.argmax(1)
    for each in np.unique(classes):
        rows = order[classes[order] == each]
        place_in_class[rows] = np.arange(len(rows))
    by_class = order[np.argsort(place_in_class[order], kind="stable")]

    def shown(rows: NDArray[np.int64]) -> list[Shown]:
        said = ((row, target.names[int(predictions[row].argmax())]) for row in rows)
        return [Shown(target.images[row], f"{word}\n{100 * sure[row]:.1f} %") for row, word in said]

    groups = [
        ("surest of each class", shown(by_class[:MOST_SURE])),
        ("least sure", shown(order[::-1][:MOST_SURE])),
    ]
    return draw_samples(f"{name}: predictions of held-out target images", groups)


def _masks(name: str, target: Target, exhibits: Exhibits) -> Image.Image:
    rows = zip(exhibits.frames, exhibits.masks, exhibits.confidence, strict=True)
    frames = [Segmented(target.images[row], mask, sure) for row, mask, sure in rows]
    title = f"{name}: predictions of held-out target images"
    return draw_masks(title, frames, target.names, class_colours(target.names))
