"""What differs on a GPU: captured steps, images that lie there, precision, memory."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_task import BASE, COUNT, STREET, Pausing, Recorder, differing, trial
from torch import Tensor
from torch.nn.functional import conv2d

from gam_ray.adaptation import Adam, ChannelMatching, Moments
from gam_ray.config import AugmentationConfig, TrialConfig
from gam_ray.networks import LeNet, build_network, register_network
from gam_ray.networks.erfnet import ColumnConv
from gam_ray.training import captured, data
from gam_ray.training.batch_augmentation import BatchAugmentation
from gam_ray.training.captured import CapturedSteps
from gam_ray.training.data import load_task
from gam_ray.training.pretraining import train_source
from gam_ray.training.reports import TrialPausedError
from gam_ray.training.trial import Place, run_trial

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = torch.device("cuda")
CASES = {
    "paper": trial(BASE, steps=12, report_every=5),
    "lsgan": trial(
        BASE, steps=12, report_every=5, adaptation__adversary="lsgan", adaptation__gaussian=False
    ),
    "batch norm": trial(BASE, steps=12, report_every=5, task__network="lenet-bn"),
    "streets": trial(STREET, steps=12, report_every=5),
    "augmented": trial(BASE, steps=6, report_every=3, augmentation__shift=0.1),
    "augmented streets": trial(
        STREET,
        steps=6,
        report_every=3,
        augmentation={"crop": [8, 12], "flip": True, "rotate": 20.0, "colour": 0.3},
    ),
}


@register_network("waiting")
class Waiting(LeNet):
    """Asks the GPU for a number in every pass, which no graph can hold."""

    name = "waiting"

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images * float(images.max().clamp(max=1).ceil()))
        return logits


def run(config: TrialConfig, folder: Path, reporter: Recorder | None = None) -> dict[str, Any]:
    """A trial on the GPU; its last checkpoint."""
    place = Place(folder / "trial", folder.parent / "sources", folder, GPU)
    run_trial(config, place, reporter or Recorder())
    state: dict[str, Any] = torch.load(place.checkpoint, weights_only=True)
    return state


def never_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "WARM_UP", 10**9)


@pytest.mark.parametrize("name", CASES)
def test_captured_steps_do_what_launched_ones_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(CASES[name], tmp_path / "captured")
    again = run(CASES[name], tmp_path / "again")
    never_captured(monkeypatch)
    expected = run(CASES[name], tmp_path / "launched")
    assert not differing(found, again)
    assert not differing(found, expected)


@pytest.mark.parametrize("question", [2, 3])
def test_a_trial_that_was_paused_ends_as_one_that_ran_through(
    question: int, tmp_path: Path
) -> None:
    config = trial(BASE, steps=35, report_every=100)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(TrialPausedError):
        run(config, tmp_path / "parts", Pausing(question))
    parts = run(config, tmp_path / "parts")
    assert not differing(whole["target"], parts["target"])


def test_a_network_that_waits_for_the_gpu_is_launched_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = run(trial(BASE, steps=12, task__network="waiting"), tmp_path / "waiting")
    assert "cannot be captured in a CUDA graph" in caplog.text
    assert all(value.isfinite().all() for value in waiting["target"].values())


def test_a_step_that_fails_while_it_is_captured_leaves_the_gpu_usable() -> None:
    weight, seen = torch.ones(3, device=GPU), []

    def step(value: Tensor) -> None:
        seen.append(float(weight.sum() * value.sum()))

    steps = CapturedSteps(step, lambda n: (torch.full((2,), n),), steps=6, device=GPU)
    for number in range(6):
        steps(number)
    # Once more in the attempt, which asked for a number and was not given one.
    assert seen == [6.0 * n for n in range(6)]


@pytest.mark.parametrize("first", [0, 5])
def test_every_step_gets_its_inputs_whatever_the_blocks(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "BLOCK_STEPS", 4)
    total, steps = torch.zeros(20, dtype=torch.int64, device=GPU), 20
    place = torch.zeros(1, dtype=torch.int64, device=GPU)

    def step(value: Tensor, factor: Tensor) -> None:
        total.index_copy_(0, place, (value * factor).sum().view(1))
        place.add_(1)

    asked: list[int] = []

    def inputs(n: int) -> tuple[Tensor, Tensor]:
        asked.append(n)
        return torch.tensor([n, 2 * n]), torch.tensor(n + 1)

    take = CapturedSteps(step, inputs, steps=steps, device=GPU)
    for number in range(first, steps):
        take(number)
    expected = [3 * n * (n + 1) for n in range(first, steps)]
    assert total[: len(expected)].tolist() == expected
    assert max(asked) == steps - 1


@pytest.mark.parametrize("config", [BASE, STREET])
@pytest.mark.parametrize("schedule", ["constant", "poly"])
@pytest.mark.parametrize("flip", [False, True])
def test_captured_pretraining_is_the_launched_one(
    config: TrialConfig, schedule: str, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(config.task, None)
    settings = trial(
        config,
        pretraining__schedule=schedule,
        pretraining__steps=9,
        pretraining__augmentation__flip=flip,
    ).pretraining
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_network(
            config.task.network, in_channels=task.in_channels, classes=len(task.class_names)
        ).to(GPU)
        train_source(network, task, settings, device=GPU, progress=lambda *_: None)
        states.append(network.state_dict())
        never_captured(monkeypatch)
    for name, value in states[0].items():
        # cuDNN and torch add up in any order where maps are resized.
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-5)
    if config is BASE:
        assert not differing(*states)


def test_images_that_do_not_fit_are_sent_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(CASES["paper"], tmp_path / "there")
    monkeypatch.setattr(data, "_residents", {})
    monkeypatch.setattr(data, "RESIDENT_SHARE", 0.0)
    assert not differing(run(CASES["paper"], tmp_path / "sent"), expected)


def test_images_lie_on_the_gpu_once() -> None:
    images = torch.zeros(COUNT, 1, 28, 28, dtype=torch.uint8)
    found = data.resident(images, GPU)
    assert found is not None
    assert found.is_cuda
    assert data.resident(images, GPU) is found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adam_in_pieces_is_torchs_to_the_last_bit(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = LeNet().to(GPU).to(memory_format=layout)
    theirs = deepcopy(ours)
    adam = Adam(ours.parameters(), lr=1e-3, betas=(0.5, 0.999))
    peer = torch.optim.Adam(theirs.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
    for step in range(6):
        if step == 3:  # as a checkpoint, once from a CPU
            kept = adam.state_dict()
            adam = Adam(ours.parameters(), lr=1e-3, betas=(0.5, 0.999))
            adam.load_state_dict(deepcopy(kept))
        images = torch.rand(16, 1, 28, 28, device=GPU)
        for network, optimizer in ((ours, adam), (theirs, peer)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            one.grad.copy_(other.grad)
        adam.step()
        peer.step()
        assert not differing(ours.state_dict(), theirs.state_dict())
    assert not differing(
        [dict(each) for each in adam.state.values()],
        [dict(each) for each in peer.state.values()],
    )


@pytest.mark.parametrize("shape", [(32, 7), (6, 7, 9, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matching_by_the_batch_is_the_same_on_both(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    kind = torch.float64
    activation = torch.randn(shape, dtype=kind)
    activation[:, 2] = 0.0  # a channel that does not vary
    if len(shape) == 4:
        activation = activation.to(memory_format=layout)
    source = Moments(torch.randn(7, dtype=kind), torch.rand(7, dtype=kind))
    start = Moments(torch.zeros(7, dtype=kind), torch.ones(7, dtype=kind))
    direction = torch.randn(shape, dtype=kind)
    seen = []
    for device in ("cpu", "cuda"):
        matching = ChannelMatching(source, start, momentum=0.3, dtype=kind).to(device)
        given = activation.to(device).detach().requires_grad_()
        matched = matching(given)
        (matched * direction.to(device)).sum().backward()
        assert given.grad is not None
        found = matched.detach(), given.grad, matching.target_mean, matching.target_std
        seen.append([each.cpu() for each in found])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dilation", [2, 4, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dilated_columns_are_the_same_on_both(dilation: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    column = ColumnConv(8, dilation=dilation).double()
    maps = torch.rand(2, 8, 16, 6, dtype=torch.float64).to(memory_format=layout)
    expected = conv2d(
        maps, column.weight, column.bias, padding=(dilation, 0), dilation=(dilation, 1)
    )
    torch.testing.assert_close(column.to(GPU)(maps.to(GPU)).cpu(), expected)


def test_augmentation_is_the_same_on_both() -> None:
    config = AugmentationConfig(rotate=30, shift=0.2, zoom=0.3, crop=(8, 11), flip=True, colour=0.4)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 3, 20, 26, generator=generator)
    labels = torch.randint(0, 4, (32, 20, 26), generator=generator, dtype=torch.uint8)
    augmentation = BatchAugmentation(config, 5, 32)
    drawn = augmentation.draw(3)
    expected, maps = augmentation.images(images, drawn), augmentation.labels(labels, drawn)
    assert expected.std() > 0.1
    found = augmentation.images(images.to(GPU), drawn.to(GPU)).cpu()
    # A hue near the seam, or a place between two pixels, may round to the other side.
    apart = (found - expected).abs()
    assert (apart > 1e-4).float().mean() < 1e-3
    judged = augmentation.labels(labels.to(GPU), drawn.to(GPU)).cpu()
    assert (judged != maps).float().mean() < 1e-2


def test_bfloat16_comes_near_and_is_told_apart(tmp_path: Path) -> None:
    config = trial(STREET, steps=12, report_every=4)
    exact, rough = Recorder(), Recorder()
    run(config, tmp_path / "exact", exact)
    coarse = trial(config, precision="bfloat16")
    state = run(coarse, tmp_path / "rough", rough)
    assert coarse.key() != config.key()
    assert {value.dtype for value in state["target"].values()} == {torch.float32}
    one, other = exact.reports[-1].metrics, rough.reports[-1].metrics
    names = [name for name in one if name.startswith("loss/")]
    assert [one[name] for name in names] != [other[name] for name in names]
    np.testing.assert_allclose(
        [one[name] for name in names], [other[name] for name in names], rtol=0.1, atol=1e-3
    )


def test_compiled_layers_come_near_and_reports_run_the_layers_as_written(tmp_path: Path) -> None:
    config = trial(STREET, steps=12, report_every=4)
    plain, compiled = Recorder(), Recorder()
    expected = run(config, tmp_path / "plain", plain)
    found = run(trial(config, compiled=True), tmp_path / "compiled", compiled)
    assert found["target"].keys() == expected["target"].keys()
    one, other = plain.reports[-1].metrics, compiled.reports[-1].metrics
    names = [name for name in one if name.startswith("loss/")]
    np.testing.assert_allclose(
        [one[name] for name in names], [other[name] for name in names], rtol=0.02, atol=1e-4
    )


def test_gpu_memory_returns_to_its_level_after_each_of_twenty_trials(tmp_path: Path) -> None:
    levels = []
    for number in range(20):
        layers = [["fc3"], ["conv2", "fc4"], ["conv1", "fc3"]][number % 3]
        run(trial(BASE, seed=number, adaptation__layers=layers), tmp_path / str(number))
        torch.cuda.synchronize()
        levels.append(torch.cuda.memory_allocated())
    assert max(levels[-6:]) <= max(levels[3:9]) + 2**20
    assert max(levels) < 2**29, "more than one trial's graph is there"
    assert torch.cuda.memory_reserved() < 2**30
