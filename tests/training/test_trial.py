"""Whole trials on tiny domains."""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tiny_task import (
    BASE,
    Failing,
    Pausing,
    PowerCutError,
    Recorder,
    Target,
    assert_same,
    differing,
    draw,
    place,
    start_workers,
    trial,
)
from torch import nn

from gam_ray.adaptation import layer_moments, match_network, rank
from gam_ray.config import TrialConfig
from gam_ray.config.trial import FORMS
from gam_ray.domains import LabelledImages
from gam_ray.networks import LeNet, base
from gam_ray.selection.scores import known_scores
from gam_ray.training import evaluation
from gam_ray.training.data import load_target_labels, load_task, to_float
from gam_ray.training.evaluation import predict
from gam_ray.training.pretraining import SourceCache
from gam_ray.training.reports import DivergedError, Report, TrialPausedError, Verdict
from gam_ray.training.trial import TrialOutcome, check_trial, load_adapted, run_trial

CPU = torch.device("cpu")
STEPS = [3, 6, 7]
RUNNING = {"adaptation__moments__kind": "running", "adaptation__moments__momentum": 0.3}
CONFIGS = {
    "running": trial(**RUNNING),
    "initial": trial(adaptation__moments__kind="initial", adaptation__adversary="lsgan"),
    "unmatched": trial(adaptation__gaussian=False, adaptation__drift=0.0),
    "noisy": trial(task__network="noisy"),
    "release": trial(**{f"adaptation__{name}": value for name, value in FORMS["release"].items()}),
    "bn-running": trial(task__network="lenet-bn", **RUNNING),
    "bn-initial": trial(task__network="lenet-bn", adaptation__moments__kind="initial"),
    "bn-source": trial(task__network="lenet-bn", adaptation__gaussian=False),
}


class Noise(nn.Module):
    """Not a dropout, which adaptation switches off."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * (torch.rand_like(values) + 0.5) if self.training else values


class Noisy(LeNet):
    """LeNet with noise in training, which it draws from torch's generator."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes)
        self.fc3.append(Noise())


@pytest.fixture(scope="module", autouse=True)
def _noisy_is_a_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base._BUILDERS, "noisy", Noisy)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trials of this module share their source networks."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, tuple[TrialOutcome, list[Report], dict[str, Any]]]:
    """Outcome, reports and last checkpoint of each configuration, run through."""
    found = {}
    for name, config in CONFIGS.items():
        reporter, there = Recorder(), place(folder, f"whole-{name}")
        outcome = run_trial(config, there, reporter)
        found[name] = outcome, reporter.reports, torch.load(there.checkpoint)
    return found


@pytest.fixture
def _progress_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gam_ray.training.adapting.PROGRESS_EVERY", 1)


def predictions(network: nn.Module, images: torch.Tensor) -> Any:
    with torch.no_grad():
        return network.eval()(to_float(images)).softmax(1).numpy()


HEALTH_OF_LAYERS = (
    "loss/discriminator",
    "loss/adversarial",
    "loss_ratio",
    "gradient_norm",
    "accuracy/source",
    "accuracy/target",
)


def health_of(config: TrialConfig) -> set[str]:
    """Names of what the steps of a trial see."""
    layers = config.adaptation.layers
    of_layers = {f"{kind}/{layer}" for kind in HEALTH_OF_LAYERS for layer in layers}
    guard = {"guard/class_shift", "guard/agreement", "guard/feature_rank"}
    return of_layers | guard | {"loss/target", "loss/drift", "gradient_norm/target"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_trial_reports_at_its_steps_and_at_the_last(name: str, whole: dict[str, Any]) -> None:
    outcome, reports, saved = whole[name]
    assert [report.step for report in reports] == STEPS
    assert (outcome.step, outcome.stopped, saved["step"]) == (7, False, 7)
    for report in reports:
        assert report.predictions.shape == (64, 10)
        assert report.predictions.dtype == np.float32
        np.testing.assert_allclose(report.predictions.sum(1), 1, rtol=1e-5)
        scores = {name for name in report.metrics if name.startswith("score/")}
        assert scores == {f"score/{name}" for name in known_scores()}
        assert report.metrics.keys() - scores == health_of(CONFIGS[name])
        for layer in CONFIGS[name].adaptation.layers:
            seen = {kind: report.metrics[f"{kind}/{layer}"] for kind in HEALTH_OF_LAYERS}
            assert seen["gradient_norm"] > 0
            assert 0 <= seen["accuracy/source"] <= 1
            assert 0 <= seen["accuracy/target"] <= 1
            ratio = seen["loss/adversarial"] / seen["loss/discriminator"]
            assert seen["loss_ratio"] == pytest.approx(ratio)
    assert reports[0].metrics["loss/target"] != reports[1].metrics["loss/target"]


def test_equal_settings_give_equal_numbers(whole: dict[str, Any], tmp_path: Path) -> None:
    """From the start: with a source network of its own."""
    torch.manual_seed(99)
    reporter, there = Recorder(), place(tmp_path)
    outcome = run_trial(CONFIGS["running"], there, reporter)
    expected_outcome, expected, saved = whole["running"]
    assert outcome == expected_outcome
    for one, other in zip(reporter.reports, expected, strict=True):
        assert_same(one, other)
    assert differing(torch.load(there.checkpoint), saved) == []


def test_another_seed_gives_other_numbers(folder: Path, whole: dict[str, Any]) -> None:
    reporter = Recorder()
    run_trial(trial(seed=1, **RUNNING), place(folder, "seed"), reporter)
    assert reporter.reports[-1].metrics != whole["running"][1][-1].metrics


@pytest.mark.parametrize(
    ("name", "cut", "told"),
    [
        ("running", ("after the report", 3), ([3], [3, 6, 7])),
        ("running", ("before the report", 6), ([3], [6, 7])),
        ("running", ("before the report", 7), ([3, 6], [7])),
        ("running", ("between reports", 5), ([3], [3, 6, 7])),
        ("running", ("between reports", 2), ([], [3, 6, 7])),
        ("noisy", ("between reports", 5), ([3], [3, 6, 7])),
        ("bn-running", ("between reports", 5), ([3], [3, 6, 7])),
    ],
)
@pytest.mark.usefixtures("_progress_at_every_step")
def test_a_trial_that_was_cut_off_ends_as_one_that_ran_through(
    name: str,
    cut: tuple[str, int],
    told: tuple[list[int], list[int]],
    whole: dict[str, Any],
    tmp_path: Path,
) -> None:
    there = place(tmp_path)
    first, second = Failing(*cut), Recorder()
    with pytest.raises(PowerCutError):
        run_trial(CONFIGS[name], there, first)
    torch.manual_seed(99)
    outcome = run_trial(CONFIGS[name], there, second)
    expected_outcome, expected, saved = whole[name]
    assert outcome == expected_outcome
    assert (first.steps, second.steps) == told
    by_step = {report.step: report for report in expected}
    for report in first.reports + second.reports:
        assert_same(report, by_step[report.step])
    assert differing(torch.load(there.checkpoint), saved) == []


@pytest.mark.usefixtures("_progress_at_every_step")
def test_a_trial_whose_checkpoints_are_damaged_begins_anew_and_ends_the_same(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    there, again = place(tmp_path), Recorder()
    with pytest.raises(PowerCutError):
        run_trial(CONFIGS["running"], there, Failing("between reports", 5))
    there.checkpoint.write_bytes(there.checkpoint.read_bytes()[:100])
    assert run_trial(CONFIGS["running"], there, again) == whole["running"][0]
    assert again.steps == STEPS
    for report, expected in zip(again.reports, whole["running"][1], strict=True):
        assert_same(report, expected)
    assert differing(torch.load(there.checkpoint), whole["running"][2]) == []


@pytest.mark.parametrize("name", ["running", "unmatched", "release", "bn-running"])
def test_a_trial_that_goes_on_from_another_as_it_was_ends_as_one_that_ran_through(
    name: str, tmp_path: Path
) -> None:
    whole = trial(CONFIGS[name], steps=6)
    half = trial(whole, steps=3)
    onward = trial(whole, continues=half.key())
    run_trial(whole, place(tmp_path, "whole"), through := Recorder())
    run_trial(half, place(tmp_path, half.key()), Recorder())
    outcome = run_trial(onward, place(tmp_path, "onward"), second := Recorder())
    assert (outcome.step, outcome.stopped) == (6, False)
    assert second.steps == [6]
    assert_same(second.reports[-1], through.reports[-1])
    states = (torch.load(place(tmp_path, each).checkpoint) for each in ("whole", "onward"))
    assert differing(*states) == []


def test_a_trial_goes_on_with_its_own_settings(tmp_path: Path) -> None:
    half = trial(CONFIGS["running"], steps=3)
    onward = trial(
        half,
        steps=6,
        continues=half.key(),
        optimizer__target_lr=1e-12,
        optimizer__discriminator_lr=1e-12,
    )
    run_trial(half, place(tmp_path, half.key()), Recorder())
    run_trial(onward, place(tmp_path, "onward"), Recorder())
    before, after = (
        torch.load(place(tmp_path, each).checkpoint) for each in (half.key(), "onward")
    )
    torch.testing.assert_close(
        after["target"]["fc3.1.weight"], before["target"]["fc3.1.weight"], rtol=0, atol=1e-9
    )
    assert after["target_optimizer"]["param_groups"][0]["lr"] == 1e-12


def test_a_trial_whose_forerunner_left_nothing_says_so(tmp_path: Path) -> None:
    lost = trial(CONFIGS["running"], continues="nobody")
    with pytest.raises(FileNotFoundError, match=r"has left no checkpoint in .*nobody"):
        run_trial(lost, place(tmp_path), Recorder())


@pytest.mark.parametrize("name", ["running", "initial", "unmatched", "release", "bn-running"])
@pytest.mark.parametrize(("question", "told"), [(1, []), (2, []), (4, [3])])
def test_a_trial_that_was_paused_ends_as_one_that_ran_through(  # noqa: PLR0917
    name: str,
    question: int,
    told: list[int],
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gam_ray.training.adapting.PAUSE_EVERY", 1)
    there = place(tmp_path)
    first, second = Pausing(question), Recorder()
    with pytest.raises(TrialPausedError):
        run_trial(CONFIGS[name], there, first)
    assert run_trial(CONFIGS[name], there, second) == whole[name][0]
    assert (first.steps, second.steps) == (told, STEPS[len(told) :])
    by_step = {report.step: report for report in whole[name][1]}
    for report in first.reports + second.reports:
        assert_same(report, by_step[report.step])
    assert differing(torch.load(there.checkpoint), whole[name][2]) == []


@pytest.mark.parametrize("name", ["initial", "unmatched", "release", "bn-initial", "bn-source"])
def test_other_kinds_of_trial_go_on_as_well(name: str, folder: Path, whole: dict[str, Any]) -> None:
    there = place(folder, f"cut-{name}")
    with pytest.raises(PowerCutError):
        run_trial(CONFIGS[name], there, Failing("before the report", 6))
    run_trial(CONFIGS[name], there, Recorder())
    assert differing(torch.load(there.checkpoint), whole[name][2]) == []


def test_a_trial_that_is_over_reports_its_last_step_again(
    folder: Path, whole: dict[str, Any]
) -> None:
    reporter = Recorder()
    outcome = run_trial(CONFIGS["running"], place(folder, "whole-running"), reporter)
    assert outcome == whole["running"][0]
    (report,) = reporter.reports
    assert_same(report, whole["running"][1][-1])


@pytest.mark.parametrize(("stop_at", "stopped"), [(3, True), (6, True), (7, False)])
def test_the_reporter_stops_a_trial(stop_at: int, stopped: bool, folder: Path) -> None:
    there = place(folder, f"stop-{stop_at}")
    reporter = Recorder(stop_at)
    outcome = run_trial(BASE, there, reporter)
    assert (outcome.step, outcome.stopped) == (stop_at, stopped)
    assert reporter.steps == [step for step in STEPS if step <= stop_at]
    again = Recorder(stop_at)
    assert run_trial(BASE, there, again) == outcome
    assert again.steps == [stop_at]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer__target_lr": 1e20}, "not finite by step 3: .*loss/target.*learning rates"),
        (
            {"optimizer__discriminator_lr": 1e30, "steps": 99, "report_every": 99, "batch_size": 2},
            "not finite by step 50: .*loss/discriminator/conv2.*learning rates",
        ),
        (
            {"optimizer__target_lr": 1e15, "report_every": 1, "adaptation__gaussian": False},
            "the target network's predictions are not finite; lower the learning rates",
        ),
        ({"adaptation__weight": 1e300}, "not finite by step 3: .*or adaptation.weight"),
        ({"pretraining__learning_rate": 1e20}, r"source network.*lower pretraining\.learning_rate"),
    ],
)
def test_a_trial_that_diverged_says_what_is_not_finite(
    settings: dict[str, Any], message: str, folder: Path
) -> None:
    there, reporter = place(folder, f"diverged-{len(message)}"), Recorder()
    with pytest.raises(DivergedError, match=message):
        run_trial(trial(**settings), there, reporter)
    assert reporter.reports == []
    assert not there.checkpoint.exists()


def test_a_batch_is_a_multiple_of_the_workers() -> None:
    check_trial(BASE, workers=4)
    with pytest.raises(ValueError, match=r"^batch_size must be a multiple .* got 16 and 3"):
        check_trial(BASE, workers=3)
    with pytest.raises(ValueError, match=r"^pretraining\.batch_size must be .* got 10 and 4"):
        check_trial(trial(pretraining__batch_size=10), workers=4)


def test_layers_are_looked_up_where_discriminators_look() -> None:
    for kind in ("none", "gaussian"):
        check_trial(trial(adaptation__kind=kind, adaptation__layers=["layer4"]), workers=1)
    with pytest.raises(ValueError, match="no layer 'layer4'; its layers: conv1, conv2, fc3, fc4"):
        check_trial(trial(adaptation__layers=["layer4"]), workers=1)
    # A layer that is not chosen may have a weight of its own.
    check_trial(trial(adaptation__layer_weights={"fc4": 3.0}), workers=1)
    with pytest.raises(ValueError, match="no layer 'fc5'; its layers: conv1"):
        check_trial(trial(adaptation__layer_weights={"fc4": 3.0, "fc5": 1.0}), workers=1)


def test_settings_that_do_not_go_together_are_refused_before_training(tmp_path: Path) -> None:
    for settings, message in (
        ({"adaptation__layers": ["fc9"]}, "no layer 'fc9'"),
        ({"task__network": "lennet"}, "did you mean 'lenet'"),
        ({"task__target": "tiny-taget"}, "mean 'tiny-target'"),
    ):
        with pytest.raises(ValueError, match=message):
            run_trial(trial(**settings), place(tmp_path), Recorder())
    assert list(tmp_path.iterdir()) == []


def baseline(kind: str, folder: Path) -> tuple[Report, nn.Module]:
    """The report of a baseline, and the source network it comes from."""
    config, there, reporter = trial(adaptation__kind=kind), place(folder, kind), Recorder()
    outcome = run_trial(config, there, reporter)
    assert (outcome.step, outcome.stopped, reporter.steps) == (0, False, [0])
    again = Recorder()
    assert run_trial(config, there, again) == outcome
    assert_same(again.reports[0], reporter.reports[0])
    return reporter.reports[0], source_of(config, folder)


def test_without_adaptation_the_source_network_is_reported(folder: Path) -> None:
    report, source = baseline("none", folder)
    expected = predictions(source, draw("held_out", brightness=60, seed=100).images)
    np.testing.assert_allclose(report.predictions, expected, atol=1e-6)


def test_gaussian_matching_alone_is_the_matched_source_network(folder: Path) -> None:
    report, source = baseline("gaussian", folder)
    target, data = deepcopy(source), load_task(BASE.task, folder)
    plain = predictions(source, data.target_held_out.images)
    moments = layer_moments(source, source.layers, [to_float(data.source_train.images)])
    images = to_float(data.target_train.images)
    match_network(target, target.layers, moments, lambda: images.split(20))
    expected = predictions(target, data.target_held_out.images)
    np.testing.assert_allclose(report.predictions, expected, atol=1e-5)
    assert np.abs(expected - plain).max() > 0.01


def test_the_source_network_is_matched_once_for_all_trials_of_a_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline("gaussian", folder)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("matched again")

    monkeypatch.setattr("gam_ray.training.trial.match_network", again)
    run_trial(trial(adaptation__gaussian=True, seed=7), place(folder, "other"), Recorder())
    with pytest.raises(AssertionError, match="matched again"):
        run_trial(
            trial(adaptation__gaussian=True, task__target="tiny-source"),
            place(folder, "elsewhere"),
            Recorder(),
        )


def test_the_source_network_predicts_once_for_all_trials_of_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = []

    def counted(network: nn.Module, *rest: Any) -> Any:
        learning.append(any(each.requires_grad for each in network.parameters()))
        return predict(network, *rest)

    monkeypatch.setattr(evaluation, "predict", counted)
    config, other = trial(seed=11), trial(seed=11, pretraining__seed=3)
    for name, each, passes in (
        ("first", config, 1),
        ("next", trial(seed=12), 0),
        ("new", other, 1),
    ):
        run_trial(each, place(tmp_path, f"predicts-{name}"), Recorder())
        assert learning.count(False) == passes, name
        learning.clear()
    for each in (config, other):
        reporter = Recorder()
        run_trial(each.baseline("none"), place(tmp_path, each.key()), reporter)
        assert reporter.reports[-1].metrics["guard/agreement"] == 1


def test_adaptation_starts_from_the_matched_network_and_drifts_from_it(
    whole: dict[str, Any],
) -> None:
    assert any(name.startswith("matching.") for name in whole["initial"][2]["target"])
    for name in ("unmatched", "release", "bn-source"):
        assert not any(key.startswith("matching.") for key in whole[name][2]["target"])
    assert all(whole[name][1][-1].metrics["loss/drift"] > 0 for name in CONFIGS)


def source_of(config: TrialConfig, folder: Path) -> nn.Module:
    """The source network of a trial that has run."""
    return SourceCache(folder / "sources").get(
        config.task,
        config.pretraining,
        load_task(config.task, folder),
        device=CPU,
        progress=lambda *_: pytest.fail("the source network was trained again"),
    )


def test_batch_norm_keeps_the_sources_statistics_without_gaussian_matching(
    folder: Path, whole: dict[str, Any]
) -> None:
    source = source_of(CONFIGS["bn-source"], folder).state_dict()
    statistics = [name for name in source if "running_" in name or "tracked" in name]
    assert len(statistics) == 9
    found = {name: whole[f"bn-{name}"][2]["target"] for name in ("source", "initial", "running")}
    for name in statistics:
        assert torch.equal(found["source"][name], source[name])
        if "running_" in name:
            assert len({tensor[name].sum().item() for tensor in found.values()}) == 3
    moved = [name for name in source if not torch.equal(found["source"][name], source[name])]
    # What is behind the last chosen layer is drawn to the source, where it is.
    assert set(moved) == source.keys() - set(statistics) - {"fc4.weight", "fc4.bias"}


def test_what_batch_norm_keeps_is_of_the_target_and_by_running_moments_of_the_weights_now(
    folder: Path, whole: dict[str, Any]
) -> None:
    """The first BatchNorm's statistics over all target images, written out."""
    weights = {
        "bn-running": whole["bn-running"][2]["target"],
        "bn-initial": source_of(CONFIGS["bn-initial"], folder).state_dict(),
    }
    images = to_float(draw("train", brightness=60, seed=100).images)
    for name, state in weights.items():
        kept = whole[name][2]["target"]
        before = nn.functional.conv2d(images, state["conv1.0.weight"], state["conv1.0.bias"])
        values = before.movedim(1, -1).flatten(0, 2)
        torch.testing.assert_close(kept["conv1.1.running_mean"], values.mean(0))
        torch.testing.assert_close(kept["conv1.1.running_var"], values.var(0), rtol=1e-4, atol=1e-6)
        assert "matching.fc4.target_mean" in kept
        assert not any(key.startswith(("matching.conv", "matching.fc3")) for key in kept)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_makes_the_network_that_was_reported(
    name: str, folder: Path, whole: dict[str, Any]
) -> None:
    checkpoint = place(folder, f"whole-{name}").checkpoint
    network = load_adapted(CONFIGS[name], checkpoint, CPU)
    assert not network.training
    found = predictions(network, draw("held_out", brightness=60, seed=100).images)
    np.testing.assert_allclose(found, whole[name][1][-1].predictions, atol=1e-6)


class Keeping(Recorder):
    """Keeps the report of one step alone."""

    def __init__(self, step: int, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        self._kept = step

    def report(self, report: Report) -> Verdict:
        go_on = super().report(report).go_on
        return Verdict(go_on=go_on, keep=report.step == self._kept)


def test_a_trial_ends_with_the_network_of_the_report_that_is_kept(folder: Path) -> None:
    config, there = CONFIGS["running"], place(folder, "keeping")
    reporter = Keeping(step=3)
    outcome = run_trial(config, there, reporter)
    assert reporter.steps == [3, 6, 7]
    network = load_adapted(config, there.adapted, CPU)
    images = draw("held_out", brightness=60, seed=100).images
    found = predictions(network, images)
    np.testing.assert_allclose(found, reporter.reports[0].predictions, atol=1e-6)
    assert not np.allclose(found, reporter.reports[-1].predictions, atol=1e-6)
    # The oracle reads that network, and what goes on from the checkpoint is not changed.
    test = draw("test", brightness=60, seed=100)
    right = (predictions(network, test.images).argmax(1) == test.labels.numpy()).mean()
    assert outcome.oracle is not None
    assert outcome.oracle.to_mapping()["test"] == right


def test_what_was_kept_survives_a_stop(folder: Path, whole: dict[str, Any]) -> None:
    config, there = CONFIGS["running"], place(folder, "keeping-stopped")
    run_trial(config, there, Keeping(step=3, stop_at=6))
    again = Keeping(step=3)
    run_trial(config, there, again)
    assert again.steps == [6, 7]
    assert torch.load(there.adapted)["step"] == 3
    assert differing(torch.load(there.checkpoint), whole["running"][2]) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_by_default_the_newest_network_is_kept(
    name: str, folder: Path, whole: dict[str, Any]
) -> None:
    kept = torch.load(place(folder, f"whole-{name}").adapted)
    assert kept["step"] == 7
    assert differing(kept["target"], whole[name][2]["target"]) == []
    assert set(kept) == {"step", "in_channels", "classes", "target"}


# Target labels


def test_reports_have_the_oracle_only_if_it_is_asked_for(
    folder: Path, whole: dict[str, Any]
) -> None:
    reporter = Recorder()
    config = trial(steps=6, **RUNNING)
    outcome = run_trial(config, place(folder, "asked"), reporter, oracle_at_reports=True)
    assert all(report.oracle is None for report in whole["running"][1])
    readings = [report.oracle for report in reporter.reports]
    assert readings[-1] == outcome.oracle
    assert all(reading is not None for reading in readings)
    # It is read beside, and moves nothing.
    for one, other in zip(reporter.reports, whole["running"][1], strict=False):
        assert one.metrics == other.metrics


def test_the_oracle_is_the_accuracy_on_both_splits(folder: Path) -> None:
    config, there = trial(adaptation__kind="none", pretraining__steps=8), place(folder, "oracle")
    oracle = run_trial(config, there, Recorder()).oracle
    network = load_adapted(config, there.checkpoint, CPU)
    right = {}
    for split in ("train", "test"):
        part = draw(split, brightness=60, seed=100)
        right[split] = (predictions(network, part.images).argmax(1) == part.labels.numpy()).mean()
    assert oracle is not None
    assert oracle.to_mapping() == right
    assert 0 < right["train"] < 1
    assert right["train"] != right["test"]


def test_a_target_without_labels_has_no_oracle_and_the_same_reports(
    folder: Path, whole: dict[str, Any]
) -> None:
    reporter = Recorder()
    config = trial(task__target="tiny-unlabelled", **RUNNING)
    outcome = run_trial(config, place(folder, "unlabelled"), reporter)
    assert outcome.oracle is None
    for one, other in zip(reporter.reports, whole["running"][1], strict=True):
        assert_same(one, other)


def test_wrong_target_labels_change_the_oracle_alone(folder: Path, whole: dict[str, Any]) -> None:
    reporter, there = Recorder(), place(folder, "mislabelled")
    config = trial(task__target="tiny-mislabelled", **RUNNING)
    outcome = run_trial(config, there, reporter)
    assert outcome.oracle != whole["running"][0].oracle
    for one, other in zip(reporter.reports, whole["running"][1], strict=True):
        assert_same(one, other)
    assert differing(torch.load(there.checkpoint), whole["running"][2]) == []


def test_target_labels_are_asked_for_after_the_last_report_and_not_of_the_held_out_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    labelled = Target.labelled

    def watched(self: Target, split: Any) -> LabelledImages:
        events.append(split)
        return labelled(self, split)

    class Watching(Recorder):
        def report(self, report: Report) -> Verdict:
            events.append("report")
            return super().report(report)

    monkeypatch.setattr(Target, "labelled", watched)
    monkeypatch.setattr(Target, "unlabelled", lambda s, split: labelled(s, split).without_labels())
    load_task.cache_clear()
    load_target_labels.cache_clear()
    run_trial(BASE, place(folder, "watched"), Watching())
    assert events == ["report"] * 3 + ["train", "test"]


# Workers


def in_two_parts(folder: Path, config: TrialConfig) -> None:
    """A trial that is stopped and goes on, with all workers of a group; each leaves reports."""
    reports = []
    for reporter in (Recorder(stop_at=3), Recorder()):
        run_trial(config, place(folder), reporter)
        reports += reporter.reports
    found = [(report.step, report.metrics, report.predictions.tolist()) for report in reports]
    torch.save(found, folder / f"{rank()}.pt")


def test_two_workers_do_what_one_does_and_the_first_reports(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    start_workers(in_two_parts, 2, tmp_path, CONFIGS["initial"])
    expected = {report.step: report for report in whole["initial"][1]}
    found = torch.load(tmp_path / "0.pt")
    assert [step for step, _, _ in found] == [3, 3, 6, 7]
    for step, metrics, probabilities in found:
        assert metrics == pytest.approx(expected[step].metrics, rel=1e-3, abs=1e-4)
        np.testing.assert_allclose(probabilities, expected[step].predictions, atol=1e-4)
    assert torch.load(tmp_path / "1.pt") == []


def paused_in_two_parts(folder: Path, config: TrialConfig) -> None:
    """The first worker alone is asked whether to pause."""
    with mock.patch("gam_ray.training.adapting.PAUSE_EVERY", 1):
        with pytest.raises(TrialPausedError):
            run_trial(config, place(folder), Pausing(2) if rank() == 0 else Recorder())
        last = Recorder()
        run_trial(config, place(folder), last)
    torch.save([(report.step, report.metrics) for report in last.reports], folder / f"{rank()}.pt")


def test_all_workers_pause_together(whole: dict[str, Any], tmp_path: Path) -> None:
    start_workers(paused_in_two_parts, 2, tmp_path, CONFIGS["initial"])
    expected = {report.step: report for report in whole["initial"][1]}
    found = torch.load(tmp_path / "0.pt")
    assert [step for step, _ in found] == STEPS
    for step, metrics in found:
        assert metrics == pytest.approx(expected[step].metrics, rel=1e-3, abs=1e-4)


def whole_trials(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        reporter = Recorder()
        run_trial(CONFIGS[name], place(folder, name), reporter)
        found = [(r.step, r.metrics, r.predictions.tolist()) for r in reporter.reports]
        torch.save(found, folder / f"{name}-{rank()}.pt")


def test_two_workers_normalise_batches_as_one_does(
    folder: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """From one source network: of a bias before BatchNorm, Adam makes noise larger."""
    names = ("bn-running", "bn-initial", "bn-source", "release")
    shutil.copytree(folder / "sources", tmp_path / "sources")
    start_workers(whole_trials, 2, tmp_path, names)
    for name in names:
        found = torch.load(tmp_path / f"{name}-0.pt")
        for (step, metrics, probabilities), report in zip(found, whole[name][1], strict=True):
            assert step == report.step
            assert metrics == pytest.approx(report.metrics, rel=1e-3, abs=1e-4)
            np.testing.assert_allclose(probabilities, report.predictions, atol=1e-4)
