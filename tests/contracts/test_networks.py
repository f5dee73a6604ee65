"""What every registered network must keep."""

import copy
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from gam_ray.networks import MatchableNetwork, VGG16FCN8s, build_network, network_names
from gam_ray.networks.base import NetworkBuilder

# Small images that each network takes, and those that it refuses.
SIDES = {
    "lenet": (28, 28),
    "lenet-bn": (28, 28),
    "resnet-18": (64, 32),
    "vgg16-fcn8s": (64, 32),
}
SEGMENTATION_SIDES = (32, 16)
REFUSED = {"lenet": (32, 28), "lenet-bn": (32, 28)}
# Built narrow, for all that does not depend on its 134 million parameters.
NARROW: dict[str, NetworkBuilder] = {
    "vgg16-fcn8s": lambda in_channels, classes: VGG16FCN8s(in_channels, classes, width=32)
}
CLASSES = 7

Hook = Callable[[nn.Module, object, Tensor], Tensor | None]


def build(name: str, *, seed: int = 0) -> MatchableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name in NARROW:
            return NARROW[name](1, CLASSES)
        return build_network(name, in_channels=1, classes=CLASSES)


@pytest.fixture(scope="module", params=network_names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(name: str) -> MatchableNetwork:
    return build(name).eval()


@pytest.fixture
def network(built: MatchableNetwork) -> MatchableNetwork:
    """A test's own."""
    return copy.deepcopy(built)


@pytest.fixture
def images(name: str) -> Iterator[Tensor]:
    with torch.no_grad():
        yield draw(name, seed=1)


def draw(name: str, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 1, *SIDES.get(name, SEGMENTATION_SIDES), generator=generator)


def run(
    network: MatchableNetwork, images: Tensor, hooks: Mapping[str, Hook]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output with hooks on some layers, and what all layers gave out, in their order."""
    seen: dict[str, Tensor] = {}

    def keep(layer: str) -> Hook:
        return lambda _module, _inputs, output: seen.update({layer: output})

    handles = [network.layers[layer].register_forward_hook(hook) for layer, hook in hooks.items()]
    handles += [
        layer.register_forward_hook(keep(layer_name))
        for layer_name, layer in network.layers.items()
    ]
    output = network(images)
    for handle in handles:
        handle.remove()
    return output, seen


def activations(network: MatchableNetwork, images: Tensor) -> dict[str, Tensor]:
    return run(network, images, {})[1]


def give(value: Tensor) -> Hook:
    return lambda _module, _inputs, _output: value


def test_layers_are_submodules_named_in_forward_order(
    network: MatchableNetwork, images: Tensor
) -> None:
    assert list(activations(network, images)) == list(network.layers)
    assert set(network.layers.values()) <= set(network.modules())


def test_the_last_layer_gives_the_logits(network: MatchableNetwork, images: Tensor) -> None:
    logits, seen = run(network, images, {})
    assert logits.shape[:2] == (len(images), CLASSES)
    assert torch.equal(list(seen.values())[-1], logits)


def test_a_chain_is_its_layers_one_after_another(network: MatchableNetwork, images: Tensor) -> None:
    values = images
    if network.is_chain:
        for layer in network.layers.values():
            values = layer(values)
        assert torch.equal(values, network(images))


def test_each_layer_runs_once(network: MatchableNetwork, images: Tensor) -> None:
    seen: list[str] = []
    for name, layer in network.layers.items():
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    network(images)
    assert seen == list(network.layers)


def test_the_stride_tells_how_many_pixels_a_logit_stands_for(
    network: MatchableNetwork, images: Tensor
) -> None:
    sides = network(images).shape[2:]
    if network.stride is None:
        assert sides == ()
    else:
        assert tuple(side * network.stride for side in sides) == images.shape[2:]


def test_activations_have_images_first_and_channels_second(
    network: MatchableNetwork, images: Tensor
) -> None:
    for activation in activations(network, images).values():
        assert activation.dim() in {2, 4}
        assert len(activation) == len(images)


def test_the_features_are_a_layer_before_the_logits(network: MatchableNetwork) -> None:
    assert network.features in list(network.layers)[:-1]


def test_later_layers_see_what_hooks_put_in_place_of_activations(
    name: str, network: MatchableNetwork, images: Tensor
) -> None:
    """Given another batch's activations up to any layer, the network answers that batch."""
    others = draw(name, seed=2)
    expected, theirs = run(network, others, {})
    hooks: dict[str, Hook] = {}
    for layer, activation in theirs.items():
        hooks[layer] = give(activation)
        replaced, _ = run(network, images, hooks)
        torch.testing.assert_close(replaced, expected, msg=lambda why, at=layer: f"{at}: {why}")


def test_each_layer_counts(name: str, network: MatchableNetwork, images: Tensor) -> None:
    theirs = activations(network, draw(name, seed=2))
    logits = network(images)
    for layer, activation in theirs.items():
        assert not torch.equal(run(network, images, {layer: give(activation)})[0], logits), layer


def test_no_layer_changes_what_hooks_kept_or_put_in_place(
    name: str, network: MatchableNetwork, images: Tensor
) -> None:
    kept: list[tuple[str, Tensor, Tensor]] = []

    def keep(layer: str) -> Hook:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            shifted = output - output.mean()  # with negative values, which a ReLU would change
            kept.extend((layer, value, value.clone()) for value in (output, shifted))
            return shifted

        return hook

    for training in (False, True):
        network.train(training)
        given = images.clone()
        run(network, given, {layer: keep(layer) for layer in network.layers})
        assert torch.equal(given, images)
    assert [layer for layer, value, before in kept if not torch.equal(value, before)] == []
    assert len(kept) == 4 * len(network.layers), name


def test_a_copy_has_layers_of_its_own_under_the_same_names(
    network: MatchableNetwork, images: Tensor
) -> None:
    before = network(images)
    twin = copy.deepcopy(network)
    assert list(twin.layers) == list(network.layers)
    assert set(twin.layers.values()) <= set(twin.modules())
    assert not set(twin.layers.values()) & set(network.layers.values())
    assert [name for name, _ in twin.named_parameters()] == [
        name for name, _ in network.named_parameters()
    ]
    assert torch.equal(twin(images), before)
    for parameter in twin.parameters():
        parameter.zero_()
    assert not twin(images).any()
    assert torch.equal(network(images), before)


def test_layers_stay_submodules_when_batch_norm_is_synchronised(network: MatchableNetwork) -> None:
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert set(synchronised.layers.values()) <= set(synchronised.modules())


def test_a_seed_gives_one_network_and_another_seed_another(
    name: str, built: MatchableNetwork
) -> None:
    again, other = build(name), build(name, seed=1)
    pairs = list(zip(built.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(built.parameters(), other.parameters(), strict=True)
    )


def test_a_network_does_the_same_twice_and_image_by_image(
    network: MatchableNetwork, images: Tensor
) -> None:
    assert torch.equal(network(images), network(images))
    one_by_one = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(one_by_one, network(images))


@pytest.mark.parametrize("training", [False, True])
def test_every_parameter_takes_part(
    network: MatchableNetwork, images: Tensor, *, training: bool
) -> None:
    network.train(training)
    with torch.enable_grad():
        torch.autograd.backward(network(images).square().sum())
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    if not training:  # BatchNorm on the batch takes away what a bias before it adds
        still = [name for name, gradient in gradients.items() if not gradient.any()]
        assert still == []


def test_training_changes_no_parameter_by_itself(network: MatchableNetwork, images: Tensor) -> None:
    before = copy.deepcopy(dict(network.named_parameters()))
    network.train()(images)
    assert all(torch.equal(before[name], now) for name, now in network.named_parameters())


def test_channels_last_gives_the_same(network: MatchableNetwork, images: Tensor) -> None:
    expected = network(images)
    relaid = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(relaid(images), expected)
    torch.testing.assert_close(relaid(images.to(memory_format=torch.channels_last)), expected)


def test_all_tensors_move_with_the_network(network: MatchableNetwork, images: Tensor) -> None:
    expected = network(images).shape
    moved = network.to("meta")(images.to("meta"))
    assert moved.is_meta
    assert moved.shape == expected


def test_double_precision_gives_the_same_more_precisely(
    network: MatchableNetwork, images: Tensor
) -> None:
    expected = network(images)
    precise = network.double()(images.double())
    assert precise.dtype == torch.float64
    torch.testing.assert_close(precise.float(), expected, rtol=1e-3, atol=1e-4)


def test_the_state_of_one_network_makes_another_equal(
    name: str, network: MatchableNetwork, images: Tensor
) -> None:
    network.train()(images)  # running statistics move
    network.eval()
    other = build(name, seed=1).eval()
    assert not torch.equal(other(images), network(images))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), network(images))


def test_sides_that_do_not_fit_are_refused_with_what_does(
    name: str, network: MatchableNetwork
) -> None:
    height, width = REFUSED.get(name, (64, 36))
    message = rf"{name} takes .*images.*, but got {height}×{width}; resize .*"
    with pytest.raises(ValueError, match=message):
        network(torch.rand(1, 1, height, width))


def test_layer_names_fit_settings_and_metrics(network: MatchableNetwork) -> None:
    assert all(layer.isidentifier() for layer in network.layers)
