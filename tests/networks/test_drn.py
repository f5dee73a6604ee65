"""DRN-26 as its paper and its authors' code have it."""

import torch
from torch import nn

from gam_ray.adaptation import Taps
from gam_ray.networks import DRN26


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def block(k: int, out: int, *, shortcut: bool = False) -> int:
    """Two convolutions 3×3 and their BatchNorms; on the shortcut a 1×1 and its BatchNorm."""
    return 9 * k * out + 9 * out * out + 2 * 2 * out + shortcut * (k * out + 2 * out)


def pair(k: int, out: int) -> int:
    return block(k, out, shortcut=True) + block(out, out)


def test_the_parameters_follow_from_the_architecture() -> None:
    for channels, classes in ((3, 19), (1, 7)):
        with torch.device("meta"):
            network = DRN26(channels, classes)
        counts = [parameters(layer) for layer in network.layers.values()]
        assert counts == [
            49 * channels * 16 + 2 * 16 + block(16, 16),
            block(16, 32, shortcut=True),
            pair(32, 64),
            pair(64, 128),
            pair(128, 256),
            pair(256, 512),
            block(512, 512),
            block(512, 512),
            (512 + 1) * classes,
        ]


def test_the_parameters_are_as_many_as_the_authors_network_has() -> None:
    with torch.device("meta"):
        network = DRN26(classes=1000)
    assert parameters(network) == 21_126_584
    assert parameters(network) - parameters(network.layers["head"]) == 20_613_584


def test_twenty_six_layers_have_weights() -> None:
    with torch.device("meta"):
        parts = DRN26().named_modules()
    weighted = [
        name for name, part in parts if isinstance(part, nn.Conv2d) and "shortcut" not in name
    ]
    assert len(weighted) == 26


def test_activations_have_the_documented_shapes() -> None:
    network = DRN26().eval()
    with Taps(network.layers) as taps, torch.no_grad():
        network(torch.rand(2, 3, 64, 32))
    assert {name: tuple(value.shape) for name, value in taps.seen.items()} == {
        "layer1": (2, 16, 64, 32),
        "layer2": (2, 32, 32, 16),
        "layer3": (2, 64, 16, 8),
        "layer4": (2, 128, 8, 4),
        "layer5": (2, 256, 8, 4),
        "layer6": (2, 512, 8, 4),
        "layer7": (2, 512, 8, 4),
        "layer8": (2, 512, 8, 4),
        "head": (2, 19, 8, 4),
    }


def test_dilation_grows_and_shrinks_again() -> None:
    with torch.device("meta"):
        network = DRN26()
    dilations = {
        name: {
            part.dilation[0]
            for part in layer.modules()
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)
        }
        for name, layer in network.layers.items()
    }
    assert dilations == {
        "layer1": {1},
        "layer2": {1},
        "layer3": {1},
        "layer4": {1},
        "layer5": {2},
        "layer6": {4},
        "layer7": {2},
        "layer8": {1},
        "head": set(),
    }


def test_only_the_last_two_blocks_pass_nothing_by() -> None:
    network = DRN26().eval()
    for name, passes in (("layer6", True), ("layer7", False), ("layer8", False)):
        layer = network.layers[name]
        for part in layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.data.zero_()
        blocks = list(layer.children()) if name == "layer6" else [layer]
        maps = torch.rand(1, 512, 8, 4)
        assert torch.equal(blocks[-1](maps), maps if passes else torch.zeros_like(maps))
