"""The consensus student: what it learns from, where it starts, and that no label reaches it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_task import (
    STREET,
    Failing,
    PowerCutError,
    Recorder,
    assert_same,
    differing,
    place,
    start_workers,
    trial,
)
from torch.nn.functional import cross_entropy, interpolate

from gam_ray.adaptation import rank
from gam_ray.config import AugmentationConfig, TrialConfig, derive_seed
from gam_ray.training.augmentation import Augmentation
from gam_ray.training.data import IndexStream, load_task, to_float
from gam_ray.training.reports import DivergedError
from gam_ray.training.student import consensus_labels
from gam_ray.training.trial import TrialOutcome, check_trial, load_adapted, run_trial

CPU = torch.device("cpu")
TEACHERS = ("first", "second")
TEACHING = [trial(seed=seed, steps=3, optimizer__target_lr=0.003) for seed in (1, 2)]
STREET_TEACHING = [trial(STREET, seed=seed, steps=2) for seed in (1, 2)]


def student_of(teaching: TrialConfig, **settings: object) -> TrialConfig:
    taught = {"teachers": list(TEACHERS), "steps": 4, "batch_size": 8, **settings}
    return trial(teaching, adaptation__kind="none", fine_tuning=None, student=taught)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of digits, finished."""
    there = tmp_path_factory.mktemp("digits")
    teach(TEACHING, there)
    return there


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trials of streets, finished."""
    there = tmp_path_factory.mktemp("streets")
    teach(STREET_TEACHING, there)
    return there


def teach(configs: list[TrialConfig], folder: Path) -> None:
    for name, config in zip(TEACHERS, configs, strict=True):
        run_trial(config, place(folder, name), Recorder())


def run(config: TrialConfig, folder: Path, name: str) -> tuple[TrialOutcome, Recorder]:
    reporter = Recorder()
    return run_trial(config, place(folder, name), reporter), reporter


def test_the_consensus_is_the_mean_softmax_of_the_teachers(folder: Path) -> None:
    teachers = [
        load_adapted(config, folder / name / "adapted.pt", CPU)
        for name, config in zip(TEACHERS, TEACHING, strict=True)
    ]
    images = load_task(TEACHING[0].task, None).target_train.images
    with torch.no_grad():
        each = [teacher(images.float() / 255).softmax(1) for teacher in teachers]
    assert (each[0] - each[1]).abs().max() > 1e-3
    found = consensus_labels(teachers, images, CPU)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)


def test_the_consensus_of_streets_is_a_map_of_the_images_size(streets: Path) -> None:
    teachers = [
        load_adapted(config, streets / name / "adapted.pt", CPU)
        for name, config in zip(TEACHERS, STREET_TEACHING, strict=True)
    ]
    images = load_task(STREET.task, None).target_train.images
    found = consensus_labels(teachers, images, CPU)
    with torch.no_grad():
        logits = [teacher(images.float() / 255) for teacher in teachers]
    size = images.shape[-2:]
    full = [interpolate(each, size=size, mode="bilinear", align_corners=False) for each in logits]
    mean = torch.stack([each.softmax(1) for each in full]).mean(0)
    assert found.dtype == torch.uint8
    assert found.shape == (len(images), *size)
    assert (found == mean.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("batch_size", [8, None])
def test_a_student_is_trained_as_written_out_in_plain_torch(
    folder: Path, batch_size: int | None
) -> None:
    settings = {"augmentation": {}, "learning_rate": 0.01, "batch_size": batch_size}
    config = student_of(TEACHING[0], **settings)
    name = f"student of {batch_size}"
    outcome, reporter = run(config, folder, name)
    teachers = [
        load_adapted(each, folder / name / "adapted.pt", CPU)
        for name, each in zip(TEACHERS, TEACHING, strict=True)
    ]
    images = load_task(config.task, None).target_train.images
    with torch.no_grad():
        labels = sum(teacher(to_float(images)).softmax(1) for teacher in teachers) / 2
    student = load_adapted(TEACHING[0], folder / "first" / "adapted.pt", CPU)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    seed = derive_seed(derive_seed(config.seed, "student"), "batches")
    stream = IndexStream(len(images), batch_size or config.batch_size, seed)
    for step in range(4):
        rows = stream.batch(step)
        # Cross-entropy with a distribution, from its definition.
        loss = -(labels[rows] * student(to_float(images[rows])).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = load_adapted(config, folder / name / "adapted.pt", CPU).state_dict()
    for name, value in student.state_dict().items():
        # Adam makes rounding of a tiny gradient larger; a step is 0.01.
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4)
    assert (outcome.step, outcome.stopped) == (4, False)
    assert [report.step for report in reporter.reports] == [4]
    assert reporter.reports[0].metrics["loss/student"] == pytest.approx(loss.item(), rel=1e-4)


def test_a_student_comes_nearer_to_the_consensus_than_its_first_teacher(folder: Path) -> None:
    # Not displaced: a bar two rows lower is of the next class.
    config = student_of(TEACHING[0], steps=60, batch_size=32, augmentation={})
    images = load_task(config.task, None).target_train.images
    run(config, folder, "long")
    networks = {
        name: load_adapted(config, folder / name / "adapted.pt", CPU)
        for name in (*TEACHERS, "long")
    }
    consensus = consensus_labels([networks[name] for name in TEACHERS], images, CPU)
    with torch.no_grad():
        loss = {
            n: float(cross_entropy(net(to_float(images)), consensus)) for n, net in networks.items()
        }
    assert loss["long"] < loss["first"]


def test_displaced_images_change_what_is_learned_and_not_what_is_taught(folder: Path) -> None:
    still, moved = (
        student_of(TEACHING[0], augmentation=augmentation) for augmentation in ({}, {"shift": 0.1})
    )
    reports = [
        run(config, folder, f"moved-{n}")[1].reports[0] for n, config in enumerate((still, moved))
    ]
    assert reports[0].metrics["loss/student"] != reports[1].metrics["loss/student"]


def test_maps_move_with_their_images() -> None:
    labels = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4)
    mirrored = Augmentation(AugmentationConfig(flip=True), 0)
    images = labels.reshape(1, 1, 4, 4)
    for step in range(8):
        image, label = mirrored.pairs(images, labels, step=step)
        assert torch.equal(image[:, 0], label)


@pytest.mark.parametrize("kind", ["digits", "streets"])
def test_the_same_seed_gives_the_same_student(kind: str, request: pytest.FixtureRequest) -> None:
    digits = kind == "digits"
    there = request.getfixturevalue("folder" if digits else "streets")
    config = student_of((TEACHING if digits else STREET_TEACHING)[0])
    once, twice = (run(config, there, name)[1].reports[0] for name in ("once", "twice"))
    assert_same(once, twice)
    saved = [torch.load(there / name / "checkpoint.pt") for name in ("once", "twice")]
    assert differing(*saved) == []


def test_a_student_that_was_cut_off_after_its_report_says_it_again(folder: Path) -> None:
    config = student_of(TEACHING[0])
    whole = run(config, folder, "uncut")[1].reports
    with pytest.raises(PowerCutError):
        run_trial(config, place(folder, "cut"), Failing("after the report", 4))
    (again,) = run(config, folder, "cut")[1].reports
    assert_same(again, whole[0])


def test_labels_of_the_target_are_not_needed(folder: Path) -> None:
    with_labels = run(student_of(TEACHING[0]), folder, "labelled")
    without = run(student_of(trial(TEACHING[0], task__target="tiny-unlabelled")), folder, "without")
    assert without[0].oracle is None
    metrics = [found[1].reports[0].metrics for found in (with_labels, without)]
    assert metrics[0] == metrics[1]


def test_a_teacher_that_left_nothing_is_named(folder: Path) -> None:
    config = student_of(TEACHING[0], teachers=["first", "nobody"])
    with pytest.raises(FileNotFoundError, match="nobody"):
        run(config, folder, "orphan")


def test_a_loss_that_is_not_finite_names_what_to_lower(folder: Path) -> None:
    with pytest.raises(DivergedError, match=r"lower student\.learning_rate"):
        run(student_of(TEACHING[0], learning_rate=1e38), folder, "wild")


def test_adaptation_and_fine_tuning_do_not_go_with_a_student() -> None:
    taught = {"teachers": ["first"]}
    with pytest.raises(ValueError, match=r"adaptation\.kind none"):
        trial(TEACHING[0], student=taught)
    with pytest.raises(ValueError, match="fine_tuning"):
        trial(TEACHING[0], adaptation__kind="none", student=taught, fine_tuning={"images": 2})


def test_the_batch_must_be_a_multiple_of_the_workers() -> None:
    with pytest.raises(ValueError, match=r"student\.batch_size must be a multiple"):
        check_trial(student_of(TEACHING[0], batch_size=3), workers=2)


def leave_predictions(folder: Path) -> None:
    """Train students on this worker's share, and leave what is reported."""
    for name, teaching in (("digits", TEACHING), ("streets", STREET_TEACHING)):
        config = student_of(teaching[0], learning_rate=0.003)
        found = run(config, folder / name, "shared")[1].reports
        torch.save([(r.metrics, r.predictions) for r in found], folder / f"{name}-{rank()}")


def test_two_workers_train_the_student_as_one_does(
    folder: Path, streets: Path, tmp_path: Path
) -> None:
    for name, there in (("digits", folder), ("streets", streets)):
        shutil.copytree(there, tmp_path / name)
    start_workers(leave_predictions, 2, tmp_path)
    for name, teaching, there in (
        ("digits", TEACHING, folder),
        ("streets", STREET_TEACHING, streets),
    ):
        config = student_of(teaching[0], learning_rate=0.003)
        alone = run(config, there, "alone")[1].reports[0]
        ((metrics, predictions),) = torch.load(tmp_path / f"{name}-0", weights_only=False)
        np.testing.assert_allclose(predictions, alone.predictions, atol=1e-4)
        assert metrics["score/entropy"] == pytest.approx(alone.metrics["score/entropy"], abs=1e-4)
        assert torch.load(tmp_path / f"{name}-1") == []
