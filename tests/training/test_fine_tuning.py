"""The last stage: a few labelled target images, and no others."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny_task import (
    STREET,
    Failing,
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
from torch import Tensor, nn

from gam_ray.adaptation import rank
from gam_ray.config import TrialConfig
from gam_ray.domains import LabelledImages, Split
from gam_ray.networks import LeNet, base
from gam_ray.training.data import load_target_labels, to_float
from gam_ray.training.fine_tuning import few_labelled
from gam_ray.training.reports import DivergedError, Report, Verdict
from gam_ray.training.trial import TrialOutcome, check_trial, load_adapted, run_trial

CPU = torch.device("cpu")
FEW = {"images": 12, "steps": 8, "batch_size": 4, "learning_rate": 1e-3}
TUNED = trial(steps=2, report_every=1, fine_tuning=FEW)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", ".target_", ".source_")
KINDS = {
    "general": TUNED,
    "none": trial(adaptation__kind="none", fine_tuning=FEW),
    "gaussian": trial(adaptation__kind="gaussian", task__network="lenet-bn", fine_tuning=FEW),
    "batch_norm": trial(TUNED, task__network="lenet-bn", adaptation__layers=["fc3"]),
    "streets": trial(STREET, steps=2, fine_tuning=FEW),
}

Found = tuple[TrialOutcome, list[Report], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trials of this module share their source networks."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Found]:
    """Outcome, reports and last checkpoint of each kind of trial, run through."""
    return {name: run(config, folder, f"whole-{name}") for name, config in KINDS.items()}


def run(config: TrialConfig, folder: Path, name: str) -> Found:
    reporter, there = Recorder(), place(folder, name)
    outcome = run_trial(config, there, reporter)
    return outcome, reporter.reports, torch.load(there.checkpoint)


def places(images: Tensor, among: Tensor) -> list[int]:
    """Where each image is in `among`."""
    return [int((among == image).flatten(1).all(1).nonzero()) for image in images]


@pytest.mark.parametrize("name", KINDS)
def test_the_last_report_is_after_fine_tuning(name: str, whole: dict[str, Found]) -> None:
    outcome, reports, saved = whole[name]
    adapted = KINDS[name].adaptation_steps
    assert adapted == (0 if name in {"none", "gaussian"} else 2)
    assert [report.step for report in reports][-2:] == [adapted, adapted + 8]
    assert (outcome.step, outcome.stopped, saved["step"]) == (adapted + 8, False, adapted + 8)
    assert reports[-1].metrics["loss/fine_tuning"] > 0
    assert all("loss/fine_tuning" not in report.metrics for report in reports[:-1])


def test_a_loss_that_is_not_finite_names_the_stage_and_what_to_lower(folder: Path) -> None:
    wild = trial(KINDS["none"], fine_tuning=FEW | {"learning_rate": 1e38})
    with pytest.raises(DivergedError, match=r"after 8 steps; lower fine_tuning\.learning_rate$"):
        run_trial(wild, place(folder, "wild"), Recorder())


# Which images


def test_the_few_are_images_of_the_training_split_drawn_from_the_seed() -> None:
    train = draw("train", brightness=60, seed=100)
    chosen = {}
    for seed in range(3):
        few = few_labelled(trial(TUNED, seed=seed), None)
        where = places(few.images, train.images)
        assert few.labels.tolist() == train.labels[where].tolist()
        assert len(set(where)) == len(where) == 12
        chosen[seed] = where
        assert places(few_labelled(trial(TUNED, seed=seed), None).images, train.images) == where
    assert len({tuple(sorted(where)) for where in chosen.values()}) == 3


def test_a_larger_few_has_the_smaller_one_in_it() -> None:
    few, more = (few_labelled(trial(TUNED, fine_tuning=FEW | {"images": k}), None) for k in (5, 64))
    assert torch.equal(few.images, more.images[:5])
    assert len(set(places(more.images, draw("train", brightness=60, seed=100).images))) == 64


@pytest.mark.parametrize("wrong", ["all others", "one of them"])
def test_no_labels_but_those_of_the_few_change_the_network(
    wrong: str, folder: Path, whole: dict[str, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = Target.labelled
    train = draw("train", brightness=60, seed=100)
    few = places(few_labelled(TUNED, None).images, train.images)

    def mislabelled(self: Target, split: Split) -> LabelledImages:
        part = labelled(self, split)
        labels = (part.labels + 1) % 10
        if wrong == "one of them":
            labels = part.labels.clone()
            labels[few[0]] += 1
        elif split == "train":
            labels[few] = part.labels[few]
        return LabelledImages(part.images, labels)

    monkeypatch.setattr(Target, "labelled", mislabelled)
    load_target_labels.cache_clear()
    outcome, reports, saved = run(TUNED, folder, f"wrong-{wrong}")
    load_target_labels.cache_clear()
    expected = whole["general"]
    assert outcome != expected[0] or wrong == "one of them"
    assert_same(reports[-2], expected[1][-2])
    changed = {name for name in differing(saved, expected[2]) if name.startswith(".target.")}
    assert bool(changed) == (wrong == "one of them")


def test_without_fine_tuning_no_label_is_asked_for_before_the_last_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    ask = load_target_labels.__wrapped__

    def watched(*arguments: Any) -> dict[Split, LabelledImages]:
        events.append("labels")
        return ask(*arguments)

    class Watching(Recorder):
        def report(self, report: Report) -> Verdict:
            events.append(f"step {report.step}")
            return super().report(report)

    monkeypatch.setattr("gam_ray.training.adapting.load_target_labels", watched)
    monkeypatch.setattr("gam_ray.training.fine_tuning.load_target_labels", watched)
    plain = trial(steps=2, report_every=1)
    run_trial(plain, place(folder, "plain"), Watching())
    assert events == ["step 1", "step 2", "labels"]
    events.clear()
    run_trial(trial(plain, fine_tuning=FEW), place(folder, "plain-tuned"), Watching())
    assert events == ["labels", "step 1", "step 2", "step 10", "labels"]


# What it does


@pytest.mark.parametrize("name", KINDS)
def test_the_few_are_told_better_and_all_parameters_move(
    name: str, folder: Path, whole: dict[str, Found]
) -> None:
    config = trial(KINDS[name], fine_tuning__steps=60, fine_tuning__learning_rate=3e-3)
    few = few_labelled(config, None)
    before = load_adapted(config, checkpoint_of_adaptation(config, folder, name), CPU)
    run_trial(config, place(folder, f"long-{name}"), Recorder())
    after = load_adapted(config, place(folder, f"long-{name}").checkpoint, CPU)
    assert loss(after, few) < 0.7 * loss(before, few)
    old = before.state_dict()
    still = {key for key, value in after.state_dict().items() if torch.equal(value, old[key])}
    assert still == {key for key in old if any(part in key for part in STATISTICS)}
    assert bool(still) == (name != "none")
    assert whole[name][2]["target"].keys() == old.keys()


class Dropping(LeNet):
    """LeNet with dropout, which notes the stages in which it drops."""

    dropped: ClassVar[list[bool]] = []

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes)
        self.fc3.append(nn.Dropout(0.3))
        self.fc3.register_forward_hook(lambda fc3, *_: self.dropped.append(fc3[-1].training))


def test_dropout_drops_while_labels_are_learned_and_from_the_trials_seed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(base._BUILDERS, "dropping", Dropping)
    config = trial(KINDS["none"], task__network="dropping")
    found = []
    for seed in (1, 2):
        Dropping.dropped.clear()
        torch.manual_seed(seed)
        found.append(run(config, folder, f"dropping-{seed}"))
        # The second time there is no pretraining.
        assert Dropping.dropped.count(True) == 8 + (20 if seed == 1 else 0)
    assert differing(found[0][2], found[1][2]) == []
    Dropping.dropped.clear()
    run(trial(task__network="dropping", steps=2, report_every=1), folder, "dropping-adapted")
    assert len(Dropping.dropped) > 4
    assert not any(Dropping.dropped)


def checkpoint_of_adaptation(config: TrialConfig, folder: Path, name: str) -> Path:
    """Of the trial cut off before its fine-tuning."""
    there = place(folder, f"long-{name}")
    with pytest.raises(PowerCutError):
        run_trial(config, there, Failing("after the report", config.adaptation_steps))
    kept = there.folder / "adapted.pt"
    kept.write_bytes(there.checkpoint.read_bytes())
    return kept


def loss(network: torch.nn.Module, part: LabelledImages) -> float:
    with torch.no_grad():
        logits = network(to_float(part.images))
    labels = part.labels.long()
    if labels.dim() == 3:
        logits = torch.nn.functional.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=255).item()


@pytest.mark.parametrize(("when", "step"), [("after", 1), ("after", 2), ("before", 10)])
def test_a_trial_that_was_cut_off_ends_with_the_same_network(
    when: str, step: int, folder: Path, whole: dict[str, Found]
) -> None:
    there = place(folder, f"cut-{when}-{step}")
    with pytest.raises(PowerCutError):
        run_trial(TUNED, there, Failing(f"{when} the report", step))
    torch.manual_seed(99)
    reporter = Recorder()
    outcome = run_trial(TUNED, there, reporter)
    expected = whole["general"]
    assert outcome == expected[0]
    by_step = {report.step: report for report in expected[1]}
    assert reporter.steps == [at for at in by_step if at >= step]
    for report in reporter.reports:
        assert_same(report, by_step[report.step])
    assert differing(torch.load(there.checkpoint), expected[2]) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_trial_that_is_over_stays_as_it_is(
    name: str, folder: Path, whole: dict[str, Found]
) -> None:
    outcome, reports, saved = run(KINDS[name], folder, f"whole-{name}")
    assert outcome == whole[name][0]
    (report,) = reports
    assert_same(report, whole[name][1][-1])
    assert differing(saved, whole[name][2]) == []


@pytest.mark.parametrize("name", ["none", "batch_norm"])
def test_other_kinds_go_on_from_the_end_of_adaptation(
    name: str, folder: Path, whole: dict[str, Found]
) -> None:
    there = place(folder, f"cut-{name}")
    step = KINDS[name].adaptation_steps
    with pytest.raises(PowerCutError):
        run_trial(KINDS[name], there, Failing("after the report", step))
    run_trial(KINDS[name], there, Recorder())
    assert differing(torch.load(there.checkpoint), whole[name][2]) == []


@pytest.mark.parametrize(("name", "step"), [("general", 1), ("general", 2), ("none", 0)])
def test_a_trial_that_is_stopped_is_not_fine_tuned(name: str, step: int, folder: Path) -> None:
    for _ in range(2):
        reporter = Recorder(stop_at=step)
        outcome = run_trial(KINDS[name], place(folder, f"stopped-{name}-{step}"), reporter)
        assert (outcome.step, outcome.stopped, reporter.steps[-1]) == (step, True, step)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"task__target": "tiny-unlabelled"},
            "needs labelled target images, but tiny-unlabelled has no labels .* leave fine_tuning",
        ),
        ({"task__target": "tiny-tested"}, "tiny-tested has no labels in its training split"),
        (
            {"fine_tuning__images": 65},
            "^fine_tuning.images must be at most the 64 training images of tiny-target, but got 65",
        ),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused_before_training(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    reporter = Recorder()
    with pytest.raises(ValueError, match=message):
        run_trial(trial(TUNED, **settings), place(tmp_path), reporter)
    assert reporter.reports == []
    assert not list(tmp_path.rglob("*.pt"))


def test_a_batch_is_a_multiple_of_the_workers() -> None:
    check_trial(TUNED, workers=4)
    with pytest.raises(ValueError, match=r"^fine_tuning\.batch_size must be .* got 4 and 8"):
        check_trial(TUNED, workers=8)


def test_a_target_with_test_labels_alone_has_an_oracle_of_them(folder: Path) -> None:
    config = trial(adaptation__kind="none", task__target="tiny-tested")
    oracle = run_trial(config, place(folder, "tested"), Recorder()).oracle
    assert oracle is not None
    assert oracle.to_mapping().keys() == {"test"}


# Workers


def leave_predictions(folder: Path) -> None:
    for name in ("gaussian", "streets"):
        reports = run(KINDS[name], folder, name)[1]
        torch.save([report.predictions.tolist() for report in reports], folder / f"{name}-{rank()}")


def test_two_workers_do_what_one_does(
    folder: Path, whole: dict[str, Found], tmp_path: Path
) -> None:
    """From one source network: of a bias before BatchNorm, Adam makes noise larger."""
    shutil.copytree(folder / "sources", tmp_path / "sources")
    start_workers(leave_predictions, 2, tmp_path)
    for name in ("gaussian", "streets"):
        found = torch.load(tmp_path / f"{name}-0")
        for one, other in zip(whole[name][1], found, strict=True):
            np.testing.assert_allclose(other, one.predictions, atol=1e-4)
        assert torch.load(tmp_path / f"{name}-1") == []
