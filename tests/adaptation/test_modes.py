"""Evaluation mode for a while."""

import pytest
from torch import nn

from gam_ray.adaptation import evaluating


def test_every_module_gets_its_own_mode_back_even_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    network[1][0].eval()
    before = [module.training for module in network.modules()]
    assert before == [True, True, True, False, True]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert [module.training for module in network.modules()] == before
