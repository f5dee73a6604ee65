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

from gam_ray.adaptation import Adam
from gam_ray.config import TrialConfig
from gam_ray.networks import LeNet, register_network
from gam_ray.networks.erfnet import ColumnConv
from gam_ray.training import captured, data
from gam_ray.training.captured import CapturedSteps
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
    weight = torch.ones(3, device=GPU)

    def step(inputs: tuple[Tensor]) -> dict[str, Tensor]:
        return {"sum": weight.sum() * float(inputs[0].sum())}

    steps = CapturedSteps(step, GPU)
    assert [float(steps((torch.full((2,), n),))["sum"]) for n in range(6)] == [
        6.0 * n for n in range(6)
    ]


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


def test_gpu_memory_returns_to_its_level_after_each_of_twenty_trials(tmp_path: Path) -> None:
    levels = []
    for number in range(20):
        layers = [["fc3"], ["conv2", "fc4"], ["conv1", "fc3"]][number % 3]
        run(trial(BASE, seed=number, adaptation__layers=layers), tmp_path / str(number))
        torch.cuda.synchronize()
        levels.append(torch.cuda.memory_allocated())
    reserved = torch.cuda.memory_reserved()
    assert max(levels[-6:]) - max(levels[3:9]) < 2**20
    assert reserved < 2**30
