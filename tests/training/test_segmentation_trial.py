"""Whole trials on tiny streets, pixel by pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import (
    SIDE,
    STREET,
    STREETS,
    Failing,
    Night,
    PowerCutError,
    Recorder,
    assert_same,
    differing,
    draw_streets,
    figures_by_counting,
    place,
    start_workers,
    trial,
)

from gam_ray.adaptation import rank
from gam_ray.domains import VOID, LabelledImages, Split
from gam_ray.selection.scores import known_scores
from gam_ray.training.data import load_target_labels, load_task
from gam_ray.training.reports import Report
from gam_ray.training.trial import TrialOutcome, load_adapted, run_trial

CPU = torch.device("cpu")
CLASSES = ("wall", "road", "car")
CONFIGS = {
    "plain": STREET,
    "augmented": trial(
        STREET,
        pretraining__schedule="poly",
        pretraining__augmentation={"flip": True, "crop": [24, 28]},
        augmentation={"flip": True, "crop": [16, 24]},
        adaptation__moments__kind="initial",
    ),
    "erfnet": trial(
        STREET,
        task__network="erfnet-encoder",
        adaptation__layers=["layer8", "layer17"],
        pretraining__steps=3,
        steps=2,
        report_every=1,
    ),
}

Found = tuple[TrialOutcome, list[Report], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trials of this module share their source networks."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Found]:
    """Outcome, reports and last checkpoint of each configuration, run through."""
    found = {}
    for name, config in CONFIGS.items():
        reporter, there = Recorder(), place(folder, f"whole-{name}")
        outcome = run_trial(config, there, reporter)
        found[name] = outcome, reporter.reports, torch.load(there.checkpoint)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trial_reports_pixels_and_their_scores(name: str, whole: dict[str, Found]) -> None:
    outcome, reports, _ = whole[name]
    config = CONFIGS[name]
    assert [report.step for report in reports] == [config.report_every, config.steps]
    assert (outcome.step, outcome.stopped) == (config.steps, False)
    for report in reports:
        assert report.predictions.shape == (STREETS * SIDE * SIDE, 3)
        np.testing.assert_allclose(report.predictions.sum(1), 1, rtol=1e-5)
        assert {key for key in report.metrics if key.startswith("score/")} == {
            "score/source_iou",
            *(f"score/{name}" for name in known_scores()),
        }
        assert all(np.isfinite(value) for value in report.metrics.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_figures_are_what_counting_pixels_says(
    name: str, folder: Path, whole: dict[str, Found]
) -> None:
    outcome, reports, _ = whole[name]
    network = load_adapted(CONFIGS[name], place(folder, f"whole-{name}").checkpoint, CPU)
    expected = {}
    for split in ("train", "test"):
        part = draw_streets(split, brightness=90, seed=100)
        for figure, value in figures_by_counting(network, part, CLASSES).items():
            expected[f"{split}/{figure}" if figure else split] = value
    assert outcome.oracle is not None
    assert outcome.oracle.to_mapping() == pytest.approx(expected, abs=1e-6)
    source = draw_streets("held_out", brightness=200, seed=0)
    counted = figures_by_counting(network, source, CLASSES)
    assert reports[-1].metrics["score/source_iou"] == pytest.approx(counted[""], abs=1e-6)


def test_a_source_network_learns_its_streets(folder: Path) -> None:
    config = trial(STREET, adaptation__kind="none", pretraining__steps=60)
    reporter = Recorder()
    run_trial(config, place(folder, "learns"), reporter)
    assert reporter.reports[0].metrics["score/source_accuracy"] > 0.8


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trial_that_was_cut_off_ends_as_one_that_ran_through(
    name: str, folder: Path, whole: dict[str, Found]
) -> None:
    there, first = place(folder, f"cut-{name}"), CONFIGS[name].report_every
    with pytest.raises(PowerCutError):
        run_trial(CONFIGS[name], there, Failing("after the report", first))
    torch.manual_seed(99)
    reporter = Recorder()
    assert run_trial(CONFIGS[name], there, reporter) == whole[name][0]
    for one, other in zip(reporter.reports, whole[name][1], strict=True):
        assert_same(one, other)
    assert differing(torch.load(there.checkpoint), whole[name][2]) == []


def test_target_labels_change_the_oracle_alone(
    folder: Path, whole: dict[str, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = Night.labelled

    def mislabelled(self: Night, split: Split) -> LabelledImages:
        part = labelled(self, split)
        return LabelledImages(part.images, torch.where(part.labels == 1, VOID, part.labels))

    monkeypatch.setattr(Night, "labelled", mislabelled)
    load_task.cache_clear()
    load_target_labels.cache_clear()
    reporter, there = Recorder(), place(folder, "mislabelled")
    outcome = run_trial(STREET, there, reporter)
    load_task.cache_clear()
    load_target_labels.cache_clear()
    assert outcome.oracle != whole["plain"][0].oracle
    for one, other in zip(reporter.reports, whole["plain"][1], strict=True):
        assert_same(one, other)
    assert differing(torch.load(there.checkpoint), whole["plain"][2]) == []


def leave_reports(folder: Path) -> None:
    for name in ("plain", "augmented"):
        reporter = Recorder()
        outcome = run_trial(CONFIGS[name], place(folder, name), reporter)
        assert outcome.oracle is not None
        found = [(r.step, r.metrics, r.predictions.tolist()) for r in reporter.reports]
        torch.save((outcome.oracle.to_mapping(), found), folder / f"{name}-{rank()}.pt")


def test_two_workers_do_what_one_does(whole: dict[str, Found], tmp_path: Path) -> None:
    start_workers(leave_reports, 2, tmp_path)
    for name in ("plain", "augmented"):
        outcome, reports, _ = whole[name]
        (oracle, found), (same, none) = (
            torch.load(tmp_path / f"{name}-{number}.pt") for number in range(2)
        )
        assert none == []
        assert oracle == same
        assert outcome.oracle is not None
        assert oracle == pytest.approx(outcome.oracle.to_mapping(), abs=1e-3)
        for (step, metrics, probabilities), report in zip(found, reports, strict=True):
            assert step == report.step
            np.testing.assert_allclose(probabilities, report.predictions, atol=1e-3)
            assert metrics == pytest.approx(report.metrics, rel=1e-2, abs=1e-3)
