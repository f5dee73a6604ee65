"""In which numbers trials compute; what only a GPU does is in tests/training/test_gpu.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import STREET, Recorder, place, trial
from torch import Tensor

from gam_ray.networks import LeNet
from gam_ray.training.precision import CompiledLayers, tensor_cores
from gam_ray.training.trial import run_trial


@pytest.mark.parametrize(("kind", "within"), [("cpu", "highest"), ("cuda", "high")])
def test_matrices_are_multiplied_in_tf32_on_gpus_alone_and_for_a_while(
    kind: str, within: str
) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with tensor_cores(torch.device(kind)):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "highest"


def test_bfloat16_comes_near_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    losses = []
    for number, precision in enumerate(("float32", "bfloat16")):
        where, told = place(tmp_path, str(number)), Recorder()
        run_trial(trial(STREET, precision=precision), where, told)
        metrics = told.reports[-1].metrics
        losses.append({k: v for k, v in metrics.items() if k.startswith("loss/")})
        kept = torch.load(where.checkpoint)["target"]
        assert {value.dtype for value in kept.values()} == {torch.float32}
    exact, rough = losses
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.05, abs=1e-3)


def test_layers_run_compiled_in_steps_alone_and_as_written_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def compiled(written: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        assert not dynamic

        def made(values: Tensor) -> Tensor:
            ran.append("made")
            result: Tensor = written(values)
            return result

        return made

    monkeypatch.setattr(torch, "compile", compiled)
    network, images = LeNet(), torch.rand(2, 1, 28, 28)
    expected = network(images)
    layers = CompiledLayers(network)
    with layers:
        network(images)
        assert ran == []
        with layers.in_steps():
            assert torch.equal(network(images), expected)
        assert ran == ["made"] * 4
        with pytest.raises(ValueError, match="28"), layers.in_steps():
            network(images[:, :, 1:])
        network(images)
    with layers.in_steps():
        network(images)
    assert ran == ["made"] * 4
    assert all("forward" not in layer.__dict__ for layer in network.layers.values())
