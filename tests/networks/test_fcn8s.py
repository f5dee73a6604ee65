"""VGG16-FCN8s beside torchvision's VGG16, and where its weights come from."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VGG16_Weights, vgg16

from gam_ray.adaptation import Taps
from gam_ray.networks import (
    VGG16FCN8s,
    WeightsUnavailableError,
    build_network,
    fcn8s,
    network_names,
)
from gam_ray.networks.fcn8s import bilinear_upsampling
from gam_ray.networks.imagenet import Normalise

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def network() -> VGG16FCN8s:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VGG16FCN8s(3, 5, width=32).eval()


def test_the_parameters_follow_from_the_architecture() -> None:
    with torch.device("meta"):
        network = VGG16FCN8s()
    convs = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
    sizes = [1, 1, 2, 2, 2]
    pools = [
        (9 * k + 1) * out + more * (9 * out + 1) * out
        for (k, out), more in zip(convs, sizes, strict=True)
    ]
    dense = [(49 * 512 + 1) * 4096, (4096 + 1) * 4096]
    scores = (4096 + 1 + 512 + 1 + 256 + 1) * 19 + 2 * 16 * 19 * 19
    assert [parameters(layer) for layer in network.layers.values()] == [*pools, *dense, scores, 0]
    assert sum(pools) + sum(dense) == 134_260_544
    assert parameters(network) == 134_364_569


def test_activations_have_the_documented_shapes() -> None:
    with torch.device("meta"):
        network = VGG16FCN8s()
        images = torch.rand(2, 3, 512, 1024)
    with Taps(network.layers) as taps, torch.no_grad():
        network(images)
    assert {name: tuple(value.shape) for name, value in taps.seen.items()} == {
        "pool1": (2, 64, 256, 512),
        "pool2": (2, 128, 128, 256),
        "pool3": (2, 256, 64, 128),
        "pool4": (2, 512, 32, 64),
        "pool5": (2, 512, 16, 32),
        "fc6": (2, 4096, 16, 32),
        "fc7": (2, 4096, 16, 32),
        "score": (2, 19, 64, 128),
        "upscore8": (2, 19, 512, 1024),
    }


def test_the_full_width_is_what_is_built_by_name() -> None:
    with torch.device("meta"):
        network = build_network("vgg16-fcn8s", in_channels=3, classes=19)
    assert parameters(network) == 134_364_569


@pytest.mark.parametrize("sides", [(8, 8), (5, 9)])
def test_upsampling_begins_as_bilinear_interpolation(sides: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, *sides)
    expected = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1))
    given = bilinear_upsampling(3)(maps)
    assert given.shape == expected.shape
    torch.testing.assert_close(given[inner], expected[inner])


def test_training_starts_from_fc7s_scores_alone(network: VGG16FCN8s) -> None:
    with Taps(network.layers) as taps, torch.no_grad():
        logits = network(torch.rand(1, 3, 160, 192))
        head = next(part for part in network.score.fc7 if isinstance(part, nn.Conv2d))
        expected = head(taps.seen["fc7"])
        for factor in (2, 2, 8):
            expected = functional.interpolate(expected, scale_factor=factor, mode="bilinear")
    inner = (..., slice(40, -40), slice(40, -40))
    torch.testing.assert_close(logits[inner], expected[inner])


def test_skips_and_upsampling_can_be_trained_and_the_last_one_stays() -> None:
    with torch.device("meta"):
        names = [name for name, _ in VGG16FCN8s(width=8).named_parameters() if "score" in name]
    assert names == [
        "score.fc7.1.weight",
        "score.fc7.1.bias",
        "score.pool4.weight",
        "score.pool4.bias",
        "score.pool3.weight",
        "score.pool3.bias",
        "score.upscore2.weight",
        "score.upscore_pool4.weight",
    ]


def test_activations_are_free_of_dropout_and_the_logits_are_not(network: VGG16FCN8s) -> None:
    images = torch.rand(1, 3, 64, 64)
    seen: list[dict[str, Tensor]] = []
    for _ in range(2):
        with Taps(network.train().layers) as taps, torch.no_grad():
            network(images)
        seen.append(taps.seen)
    network.eval()
    assert torch.equal(seen[0]["fc6"], seen[1]["fc6"])
    assert not torch.equal(seen[0]["fc7"], seen[1]["fc7"])
    assert not torch.equal(seen[0]["score"], seen[1]["score"])


def test_sides_that_do_not_fit_are_answered_with_sides_that_do(network: VGG16FCN8s) -> None:
    message = "multiples of 32, but got 100×64; resize or crop them, for instance to 96×64"
    with pytest.raises(ValueError, match=message):
        network(torch.rand(1, 3, 100, 64))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the downloaded file is looked for; nothing can be downloaded."""

    def unreachable(*_args: Any, **_settings: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "checkpoints" / "vgg16-397923af.pth"


def test_imagenet_weights_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel in the middle of fc7 sees what torchvision's fc7 sees of an image 224×224."""
    with torch.device("meta"):
        reference = vgg16()
        reference.classifier[0] = nn.Linear(512 * 7 * 7, 32)
        reference.classifier[3] = nn.Linear(32, 32)
    reference = reference.to_empty(device="cpu").eval()
    monkeypatch.setattr(fcn8s, "_download", reference.state_dict)
    monkeypatch.setattr(fcn8s, "VGG16FCN8s", partial(VGG16FCN8s, width=32))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for value in reference.parameters():
            bound = (6 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1
            value.uniform_(-bound, bound)
        network = build_network("vgg16-fcn8s", in_channels=3, classes=2, weights="imagenet").eval()
        images = torch.rand(1, 3, 224, 224)
        with Taps(network.layers) as taps:
            assert network(images).shape == (1, 2, 224, 224)
        maps = reference.features((images - MEAN) / STD)
        torch.testing.assert_close(taps.seen["pool5"], maps)
        fc7 = reference.classifier[:5](maps.flatten(1))
        assert fc7.any()
        torch.testing.assert_close(taps.seen["fc7"][:, :, 3, 3], fc7, rtol=1e-4, atol=1e-4)


def test_imagenet_weights_fit_the_full_width() -> None:
    with torch.device("meta"):
        VGG16FCN8s().load_vgg16(vgg16().state_dict())
        with pytest.raises(RuntimeError):
            VGG16FCN8s(width=32).load_vgg16(vgg16().state_dict())


def test_weights_that_cannot_be_had_are_told_with_url_and_remedy(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = re.escape(VGG16_Weights.IMAGENET1K_V1.url)
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(WeightsUnavailableError, match=f"{url} .*no route.*put it at {hub} "),
    ):
        build_network("vgg16-fcn8s", in_channels=3, classes=2, weights="imagenet")
    assert re.search(rf"downloading {url} \(528 MB\) to {hub}", caplog.text)


def test_weights_that_are_there_are_read_without_a_download(
    hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.parent.mkdir()
    torch.save({"features.0.bias": torch.ones(64)}, hub)
    with caplog.at_level(logging.INFO):
        assert torch.equal(fcn8s._download()["features.0.bias"], torch.ones(64))
    assert "downloading" not in caplog.text


def test_a_file_cut_short_is_told_with_its_place(hub: Path) -> None:
    hub.parent.mkdir()
    torch.save({"features.0.bias": torch.ones(64)}, hub)
    hub.write_bytes(hub.read_bytes()[:200])
    with pytest.raises(WeightsUnavailableError, match=str(hub)):
        fcn8s._download()


def test_imagenet_weights_want_images_of_three_channels() -> None:
    with pytest.raises(ValueError, match="images of 3 channels, but got 1; convert"):
        build_network("vgg16-fcn8s", in_channels=1, classes=2, weights="imagenet")


@pytest.mark.parametrize("name", sorted(set(network_names()) - {"resnet-18", "vgg16-fcn8s"}))
def test_networks_without_imagenet_weights_name_those_that_have_them(name: str) -> None:
    message = f"{name} has no imagenet weights; .*: resnet-18, vgg16-fcn8s"
    with pytest.raises(ValueError, match=message):
        build_network(name, in_channels=3, classes=2, weights="imagenet")


def test_unknown_weights_are_refused() -> None:
    weights: Any = "coco"
    with pytest.raises(ValueError, match="'coco'; known: random, imagenet"):
        build_network("lenet", in_channels=1, classes=2, weights=weights)


def test_grey_images_are_normalised_with_the_mean_over_the_colours() -> None:
    image = torch.full((1, 1, 2, 2), 0.5)
    normalised = Normalise(1)(image)
    torch.testing.assert_close(normalised, (image - MEAN.mean()) / STD.mean())
