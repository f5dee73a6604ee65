"""ResNet-18 against torchvision's."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from gam_ray.networks import ResNet18, build_network, resnet
from gam_ray.networks.imagenet import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(0)
    network = resnet18().train()
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # running statistics that are not the first ones
    network.fc = nn.Identity()
    return network.eval()


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, reference: nn.Module) -> None:
    state = {**reference.state_dict(), "fc.weight": torch.zeros(1000, 512)}
    monkeypatch.setattr(resnet, "_download", lambda: state)


@pytest.mark.usefixtures("weights")
def test_with_imagenets_weights_its_features_are_torchvisions(reference: nn.Module) -> None:
    network = build_network("resnet-18", in_channels=3, classes=5, weights="imagenet").eval()
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    features = nn.Sequential(*list(network.layers.values())[:-1])
    with torch.no_grad():
        torch.testing.assert_close(features(images), reference((images - mean) / std))
        assert network(images).shape == (2, 5)


@pytest.mark.usefixtures("weights")
def test_grey_images_get_what_grey_colours_would(reference: nn.Module) -> None:
    network = build_network("resnet-18", in_channels=1, classes=5, weights="imagenet").eval()
    stem = network.layers["stem"]
    images = torch.rand(2, 1, 64, 64)
    normalised = stem[0](images)  # type: ignore[index]
    with torch.no_grad():
        expected = reference.conv1(normalised.expand(-1, 3, -1, -1))  # type: ignore[operator]
        torch.testing.assert_close(stem[1](normalised), expected)  # type: ignore[index]


def test_its_parameters_are_as_many_as_documented() -> None:
    with torch.device("meta"):
        network = ResNet18(classes=7)
    assert sum(p.numel() for p in network.parameters()) == 11_176_512 + 513 * 7
