"""LeNet as the paper's digits code has it, and networks by name."""

import pytest
import torch
from torch.nn import functional

from gam_ray.adaptation import Taps
from gam_ray.networks import (
    LeNet,
    LeNetBN,
    MatchableNetwork,
    base,
    build_network,
    network_names,
    register_network,
)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_parameters_are_as_many_as_the_papers_network_has() -> None:
    network = LeNet()
    counts = {name: parameters(layer) for name, layer in network.layers.items()}
    assert counts == {"conv1": 520, "conv2": 25_050, "fc3": 400_500, "fc4": 5_010}
    assert parameters(network) == 431_080


def test_channels_and_classes_change_the_first_and_the_last_layer() -> None:
    network = LeNet(in_channels=3, classes=7)
    counts = {name: parameters(layer) for name, layer in network.layers.items()}
    assert counts == {"conv1": 1_520, "conv2": 25_050, "fc3": 400_500, "fc4": 3_507}
    assert network(torch.rand(2, 3, 28, 28)).shape == (2, 7)


def test_activations_have_the_documented_shapes() -> None:
    network = LeNet()
    with Taps(network.layers) as taps:
        network(torch.rand(2, 1, 28, 28))
    assert {name: tuple(value.shape) for name, value in taps.seen.items()} == {
        "conv1": (2, 20, 12, 12),
        "conv2": (2, 50, 4, 4),
        "fc3": (2, 500),
        "fc4": (2, 10),
    }


def test_the_forward_pass_is_the_written_out_one() -> None:
    network = LeNet().double()
    p = dict(network.named_parameters())
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    maps = functional.conv2d(images, p["conv1.0.weight"], p["conv1.0.bias"])
    maps = functional.max_pool2d(maps, 2).clamp(min=0)
    maps = functional.conv2d(maps, p["conv2.0.weight"], p["conv2.0.bias"])
    maps = functional.max_pool2d(maps, 2).clamp(min=0)
    hidden = (maps.reshape(2, 800) @ p["fc3.1.weight"].T + p["fc3.1.bias"]).clamp(min=0)
    logits = hidden @ p["fc4.weight"].T + p["fc4.bias"]
    torch.testing.assert_close(network(images), logits)


def test_batch_norm_comes_between_weights_and_pool_or_relu() -> None:
    network = LeNetBN().eval()
    counts = {name: parameters(layer) for name, layer in network.layers.items()}
    assert counts == {"conv1": 560, "conv2": 25_150, "fc3": 401_500, "fc4": 5_010}
    kinds = {
        name: [type(part).__name__ for part in layer.children()]
        for name, layer in network.layers.items()
    }
    assert kinds == {
        "conv1": ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"],
        "conv2": ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"],
        "fc3": ["Flatten", "Linear", "BatchNorm1d", "ReLU"],
        "fc4": [],
    }


def test_batch_norm_equalises_the_contrast_of_batches() -> None:
    torch.manual_seed(0)
    network, images = LeNetBN().train(), torch.rand(64, 1, 28, 28)
    dim = 0.5 * images + 0.1
    torch.testing.assert_close(network(dim), network(images), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(LeNet()(dim), LeNet()(images), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 27), (16, 16)])
@pytest.mark.parametrize(("name", "network"), [("lenet", LeNet), ("lenet-bn", LeNetBN)])
def test_another_size_is_refused(
    name: str, network: type[MatchableNetwork], height: int, width: int
) -> None:
    message = f"{name} takes 28×28 images, but got {height}×{width}; resize them"
    with pytest.raises(ValueError, match=message):
        network()(torch.rand(1, 1, height, width))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'lennet'; did you mean 'lenet'\? known: .*lenet"):
        build_network("lennet", in_channels=1, classes=2)
    with pytest.raises(ValueError, match=r"unknown network 'zzz'; known: "):
        build_network("zzz", in_channels=1, classes=2)


def test_a_taken_name_is_refused_and_the_same_builder_is_not() -> None:
    assert "lenet" in network_names()
    with pytest.raises(ValueError, match="'lenet' is taken"):
        register_network("lenet")(lambda _channels, _classes: LeNet())
    assert register_network("lenet")(LeNet) is LeNet


def test_a_plain_builder_of_the_users_own_is_built_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_BUILDERS", dict(base._BUILDERS))

    @register_network("mine")
    def build(in_channels: int, classes: int) -> MatchableNetwork:
        return LeNet(in_channels, classes)

    network = build_network("mine", in_channels=3, classes=4)
    assert network(torch.rand(2, 3, 28, 28)).shape == (2, 4)
    assert network.stride is None
    assert build in base._BUILDERS.values()
