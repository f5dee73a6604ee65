"""On a CPU captured steps are the function itself; tests/training/test_gpu.py has the rest."""

import torch
from torch import Tensor

from gam_ray.training.captured import CapturedSteps
from gam_ray.training.data import resident

CPU = torch.device("cpu")


def test_each_step_gets_its_own_inputs_once() -> None:
    asked: list[int] = []
    seen: list[list[int]] = []

    def inputs(step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return torch.tensor([step]), torch.tensor([10 * step, 1])

    def function(one: Tensor, two: Tensor) -> None:
        seen.append([*one.tolist(), *two.tolist()])

    take = CapturedSteps(function, inputs, steps=9, device=CPU)
    for step in range(3, 9):
        take(step)
    assert asked == list(range(3, 9))
    assert seen == [[step, 10 * step, 1] for step in range(3, 9)]


def test_on_a_cpu_images_lie_nowhere_else() -> None:
    assert resident(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), CPU) is None
