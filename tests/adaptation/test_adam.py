"""Adam on CPUs is torch's; what is cut up on a GPU is tried in tests/training/test_gpu.py."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from gam_ray.adaptation import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_steps_as_torchs_with_a_rate_that_changes_and_a_state_that_is_taken_over(
    weight_decay: float,
) -> None:
    torch.manual_seed(0)
    ours = nn.Linear(5, 3)
    theirs = deepcopy(ours)
    settings = {"lr": 0.01, "weight_decay": weight_decay}
    adam = Adam(ours.parameters(), betas=(0.5, 0.999), **settings)
    peer = torch.optim.Adam(theirs.parameters(), betas=(0.5, 0.999), fused=True, **settings)
    for step in range(5):
        if step == 2:
            state = adam.state_dict()
            adam = Adam(ours.parameters(), betas=(0.5, 0.999), **settings)
            adam.load_state_dict(state)
        rate = 0.01 / (1 + step)
        adam.set_learning_rate(rate)
        peer.param_groups[0]["lr"] = rate
        images = torch.rand(4, 5)
        for network, optimizer in ((ours, adam), (theirs, peer)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_a_state_from_a_gpu_goes_on_on_a_cpu() -> None:
    layer = nn.Linear(2, 2)
    adam = Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    adam.step()
    state = adam.state_dict()
    for group in state["param_groups"]:
        group["capturable"] = True
    other = Adam(layer.parameters(), lr=0.1)
    other.load_state_dict(state)
    other.step()
    assert [float(each["step"]) for each in other.state.values()] == [2.0, 2.0]
