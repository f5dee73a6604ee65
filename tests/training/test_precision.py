"""In which numbers trials compute; what only a GPU does is in tests/training/test_gpu.py."""

from pathlib import Path

import pytest
import torch
from tiny_task import STREET, Recorder, place, trial

from gam_ray.training.precision import tensor_cores
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
