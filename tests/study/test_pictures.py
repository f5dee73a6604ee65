"""Pictures of trials: drawn from a study's folder, told once, and never in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_records import METRICS, votes

from gam_ray.config import StudyConfig, TrialConfig, apply_settings
from gam_ray.domains import UnlabelledImages
from gam_ray.study import pictures
from gam_ray.study.pictures import Illustrator, Target, counts, draw_trial, moment_figures
from gam_ray.study.store import EndRecord, ReportRecord, Role, StudyStore, TrialRecord
from gam_ray.tracking import ArtifactReady, Event, MetricsReported, TrackingQueue, TrialEnded
from gam_ray.training.exhibits import Exhibits

MakeConfig = Callable[..., StudyConfig]
NOTHING = np.zeros((0, 8, 8), np.uint8)
LABELS = torch.tensor([0, 1, 2])
TRIAL = TrialConfig.from_mapping(
    {"task": {"source": "rendered-digits", "target": "handwritten-digits"}}
)


def exhibits(frames: int = 0) -> Exhibits:
    masks = np.zeros((frames, 8, 8), np.uint8)
    return Exhibits(
        ("conv1", "fc3"), np.array([0.5, 1.5]), np.array([0.25, 0.75]),
        np.arange(frames), masks, masks,
    )  # fmt: skip


class Folder:
    """A study's folder, with the queue that a broker writes."""

    def __init__(self, config: StudyConfig) -> None:
        self.config, self.store = config, StudyStore(config.folder)
        self.queue = TrackingQueue(self.store.tracking)

    def end(self, *classes: int, role: Role = "search", state: Any = "finished") -> str:
        """A trial that ends now."""
        number = len(self.store.trials())
        config = self.config.trial.baseline("none")
        if role == "search":
            layers = {"adaptation.layers": ("fc3",), "adaptation.weight": number}
            config = apply_settings(self.config.trial, layers)
        files, key = self.store.trial(config.key()), config.key()
        files.create(TrialRecord(key, number, role, {}, config))
        if state != "paused":
            files.append_report(ReportRecord(40, METRICS, 1.0), votes(*classes))
            np.savez(files.exhibits, **{**vars(exhibits()), "layers": np.array(["conv1", "fc3"])})
            files.write_end(EndRecord(state, 40, 2.0, None, None, 12.5))
        self.queue.append(TrialEnded(key, "FINISHED", 12500))
        return key

    def drawn(self, *, wait_s: float = 20.0, track: Any = None) -> list[Event]:
        """What an illustrator tells in its life, which is over at once."""
        told: list[Event] = []

        def queue(events: list[Event]) -> None:
            for event in events:
                self.queue.append(event)
            told.extend(events)

        task = self.config.trial.task
        illustrator = Illustrator(self.store, task, data_root=None, track=track or queue)
        illustrator.start()
        illustrator.finish(wait_s)
        illustrator.join()
        return told


@pytest.fixture
def folder(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A study whose target has three images."""
    from gam_ray.training import data

    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)
    monkeypatch.setattr(
        data, "load_held_out_target", lambda *_: (UnlabelledImages(images), ("a", "b", "c"))
    )
    monkeypatch.setattr(data, "load_held_out_labels", lambda *_: LABELS)
    monkeypatch.setattr(pictures, "LOOK_EVERY_S", 0.05)
    return Folder(make_config())


def names(events: list[Event], key: str) -> list[tuple[str, str]]:
    found = [event for event in events if isinstance(event, ArtifactReady) and event.trial == key]
    assert all(Path(event.path).read_bytes().startswith(b"\x89PNG") for event in found)
    return [(event.folder, Path(event.path).name) for event in found]


def test_a_trial_that_ended_is_drawn_and_what_needs_labels_is_apart(folder: Folder) -> None:
    unadapted = folder.end(0, 0, 0, role="no adaptation")
    key = folder.end(0, 1, 2)
    told = folder.drawn()
    expected = [
        ("oracle", "oracle_confusion.png"),
        ("pictures", "changed.png"),
        ("pictures", "moments.png"),
        ("pictures", "samples.png"),
    ]
    assert names(told, key) == names(told, unadapted) == expected
    figures = {e.trial: e for e in told if isinstance(e, MetricsReported)}
    assert figures[key].values == {"moments/fc3/before": 1.5, "moments/fc3/after": 0.75}
    assert (figures[key].step, figures[key].time_ms) == (40, 12500)
    assert len(figures[unadapted].values) == 4


def test_what_was_told_is_not_drawn_again_and_what_was_cut_off_is(folder: Folder) -> None:
    folder.end(0, 0, 0, role="no adaptation")
    first = folder.end(0, 1, 2)
    assert folder.drawn()
    assert folder.drawn() == []
    second = folder.end(2, 1, 2)

    def cut_off(events: list[Event]) -> None:
        folder.queue.append(events[0])
        raise OSError(28, "No space left on device")

    folder.drawn(track=cut_off)
    told = folder.drawn()
    assert {event.trial for event in told if isinstance(event, ArtifactReady)} == {second}
    assert first not in {getattr(event, "trial", None) for event in told}


def test_without_labels_there_is_no_oracle(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from gam_ray.training import data

    monkeypatch.setattr(data, "load_held_out_labels", lambda *_: None)
    folder.end(0, 0, 0, role="no adaptation")
    key = folder.end(0, 1, 2, state="pruned")
    assert [name for name in names(folder.drawn(), key) if "oracle" in "".join(name)] == []


def test_failed_and_paused_trials_have_no_pictures(folder: Folder) -> None:
    folder.end(0, 0, 0, role="no adaptation", state="failed")
    folder.end(role="search", state="paused")
    assert folder.drawn() == []


def test_trials_wait_for_the_source_network_but_not_for_ever(folder: Folder) -> None:
    key = folder.end(0, 1, 2)
    told: list[Event] = []
    illustrator = Illustrator(
        folder.store, folder.config.trial.task, data_root=None, track=told.extend
    )
    illustrator.start()
    time.sleep(0.3)
    assert told == []
    folder.end(0, 0, 0, role="no adaptation")
    deadline = time.monotonic() + 20
    while len(names(told, key)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ("pictures", "changed.png") in names(told, key)
    illustrator.finish(5)
    illustrator.join()


def test_without_the_source_networks_trial_the_rest_is_drawn_at_the_end(folder: Folder) -> None:
    key = folder.end(0, 1, 2)
    assert ("pictures", "samples.png") in names(told := folder.drawn(), key)
    assert ("pictures", "changed.png") not in names(told, key)


def test_a_failure_costs_one_trial_its_pictures(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.end(0, 0, 0, role="no adaptation")
    bad, good = folder.end(0, 1, 2, 0, 0), folder.end(0, 1, 2)
    told = folder.drawn()
    assert (len(names(told, bad)), len(names(told, good))) == (0, 4)
    assert "no pictures of trial 01" in caplog.text
    assert "predicted 5 rows" in caplog.text


def test_the_end_is_bounded(folder: Folder) -> None:
    held = threading.Event()
    for number in range(3):
        folder.end(0, number, 0)
    told: list[Event] = []

    def track(events: list[Event]) -> None:
        held.wait(30)
        told.extend(events)

    illustrator = Illustrator(folder.store, folder.config.trial.task, data_root=None, track=track)
    illustrator.start()
    began = time.monotonic()
    illustrator.finish(0.3)
    illustrator.join()
    assert time.monotonic() - began < 5
    held.set()
    illustrator._thread.join(20)
    assert len({event.trial for event in told if isinstance(event, ArtifactReady)}) == 1


def test_counts_leave_out_what_has_no_class() -> None:
    rows, columns = np.array([0, 0, 1, 255, 2]), np.array([0, 1, 1, 1, 0])
    np.testing.assert_array_equal(counts(rows, columns, 3), [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_the_surest_of_each_class_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[str]] = {}

    def draw(_: str, groups: Any) -> None:
        shown.update({name: [each.caption for each in images] for name, images in groups})

    monkeypatch.setattr(pictures, "draw_samples", draw)
    monkeypatch.setattr(pictures, "MOST_SURE", 3)
    said = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.4, 0.6], [0.3, 0.7]], np.float32)
    target = Target(np.zeros((5, 1, 8, 8), np.uint8), ("a", "b"), None)
    record = TrialRecord("key", 1, "search", {}, TRIAL)
    draw_trial(record, target, said, None, None)
    assert shown == {
        "surest of each class": ["a\n95.0 %", "b\n70.0 %", "a\n90.0 %"],
        "least sure": ["b\n60.0 %", "b\n70.0 %", "a\n80.0 %"],
    }


def test_segmentation_shows_masks_and_counts_labels_where_pixels_were_sampled() -> None:
    from gam_ray.training.evaluation import labels_at_predictions

    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    labels = torch.arange(128, dtype=torch.uint8).reshape(2, 8, 8)
    told = labels_at_predictions(images, labels)
    assert len(told) % 2 == 0
    assert set(told[: len(told) // 2].tolist()) <= set(range(64))
    assert set(told[len(told) // 2 :].tolist()) <= set(range(64, 128))
    target = Target(images.numpy(), ("a", "b", "c"), told.numpy() % 3)
    predictions = votes(*(told % 3).tolist())
    record = TrialRecord("key", 1, "search", {}, TRIAL)
    drawn = draw_trial(record, target, predictions, predictions, exhibits(frames=2))
    assert list(drawn) == ["oracle_confusion.png", "changed.png", "moments.png", "samples.png"]
    assert drawn["samples.png"].width > 900  # three frames side by side


def test_a_trial_without_discriminators_tells_of_all_layers() -> None:
    general = TrialRecord("key", 1, "search", {}, TRIAL)
    layers = general.config.adaptation.layers
    student = TrialRecord("key", 1, "student", {}, TRIAL.baseline("none"))
    found = Exhibits(
        ("conv1", *layers), np.ones(1 + len(layers)), np.ones(1 + len(layers)),
        np.zeros(0, np.int64), NOTHING, NOTHING,
    )  # fmt: skip
    assert "moments/conv1/after" in moment_figures(student, found)
    assert set(moment_figures(general, found)) == {
        f"moments/{layer}/{when}" for layer in layers for when in ("before", "after")
    }
