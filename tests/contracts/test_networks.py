"""What every registered network must keep."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gam_ray.networks import MatchableNetwork, build_network, network_names

SIDES = {"lenet": 28}
CLASSES = 7


def build(name: str, *, seed: int = 0) -> MatchableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(name, in_channels=1, classes=CLASSES)


@pytest.fixture(params=network_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def network(name: str) -> MatchableNetwork:
    return build(name).eval()


@pytest.fixture
def images(name: str) -> Iterator[Tensor]:
    side = SIDES[name]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        yield torch.rand(3, 1, side, side, generator=generator)


def activations(network: MatchableNetwork, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Layer → activation in the order in which the layers ran, and the network's output."""
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, layer in network.layers.items()
    ]
    output = network(images)
    for handle in handles:
        handle.remove()
    return seen, output


def test_layers_are_submodules_named_in_forward_order(
    network: MatchableNetwork, images: Tensor
) -> None:
    seen, _ = activations(network, images)
    assert list(seen) == list(network.layers)
    assert set(network.layers.values()) <= set(network.modules())


def test_the_last_layer_gives_the_logits(network: MatchableNetwork, images: Tensor) -> None:
    seen, logits = activations(network, images)
    assert logits.shape == (len(images), CLASSES)
    assert torch.equal(list(seen.values())[-1], logits)


def test_activations_have_images_first_and_channels_second(
    network: MatchableNetwork, images: Tensor
) -> None:
    for activation in activations(network, images)[0].values():
        assert activation.dim() in {2, 4}
        assert len(activation) == len(images)


def test_the_features_are_a_layer_before_the_logits(network: MatchableNetwork) -> None:
    assert network.features in list(network.layers)[:-1]


def test_a_seed_gives_one_network_and_another_seed_another(name: str) -> None:
    one, again, other = build(name), build(name), build(name, seed=1)
    pairs = list(zip(one.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_a_network_does_the_same_twice_and_image_by_image(
    network: MatchableNetwork, images: Tensor
) -> None:
    assert torch.equal(network(images), network(images))
    one_by_one = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, network(images))


def test_every_parameter_takes_part(network: MatchableNetwork, images: Tensor) -> None:
    with torch.enable_grad():
        torch.autograd.backward(network(images).square().sum())
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_the_state_of_one_network_makes_another_equal(
    name: str, network: MatchableNetwork, images: Tensor
) -> None:
    other = build(name, seed=1).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), network(images))
