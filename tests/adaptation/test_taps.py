"""Activations by layer name."""

import pytest
import torch
from tiny_network import random_images, tiny_network

from gam_ray.adaptation import TappedNetwork, Taps, choose_layers

IMAGES = random_images(4, seed=0)


def test_taps_see_what_layers_give_out_in_the_order_they_ran() -> None:
    network = tiny_network()
    backwards = dict(reversed(network.layers.items()))
    with Taps(backwards) as taps:
        logits = network(IMAGES)
    assert list(taps.seen) == ["conv1", "fc2", "fc3"]
    assert torch.equal(taps.seen["fc3"], logits)
    assert torch.equal(taps.seen["fc2"], network.fc2(network.conv1(IMAGES)))


def test_taps_are_gone_when_closed_and_after_an_error() -> None:
    network = tiny_network()
    with Taps(network.layers) as taps:
        pass
    with pytest.raises(RuntimeError), Taps(network.layers) as broken:
        network(IMAGES[:, :, :5])
    broken.seen.clear()
    network(IMAGES)
    assert taps.seen == broken.seen == {}


def test_a_tapped_network_gives_the_chosen_activations_with_gradients() -> None:
    network = tiny_network()
    activations = TappedNetwork(network, choose_layers(network.layers, ("fc2", "conv1")))(IMAGES)
    assert list(activations) == ["conv1", "fc2"]
    torch.autograd.backward(activations["fc2"].sum())
    assert network.conv1[0].weight.grad is not None
    assert network.fc3.weight.grad is None


def test_a_pass_ends_at_the_last_tapped_layer_and_the_next_one_is_whole() -> None:
    network = tiny_network()
    ran: list[str] = []
    network.fc3.register_forward_hook(lambda *_: ran.append("fc3"))
    with Taps({"fc2": network.fc2, "conv1": network.conv1}) as taps:
        seen = taps.run(network, IMAGES)
        assert list(seen) == ["fc2", "conv1"]
        assert ran == []
        assert torch.equal(network.fc3(seen["fc2"]), network(IMAGES))
    assert ran == ["fc3", "fc3"]


def test_raw_taps_see_an_activation_before_it_is_matched() -> None:
    network = tiny_network()
    plain = network.fc2(network.conv1(IMAGES))
    network.fc2.register_forward_hook(lambda _module, _inputs, output: output + 1)
    with Taps({"fc2": network.fc2}, raw=True) as raw, Taps({"fc2": network.fc2}) as matched:
        network(IMAGES)
    assert torch.equal(raw.seen["fc2"], plain)
    assert torch.equal(matched.seen["fc2"], plain + 1)


def test_layers_are_chosen_in_the_networks_order() -> None:
    layers = tiny_network().layers
    assert list(choose_layers(layers, ("fc3", "conv1"))) == ["conv1", "fc3"]


def test_an_unknown_layer_is_named_with_those_there_are() -> None:
    message = "the network has no layer 'conv3', 'fc9'; its layers: conv1, fc2, fc3"
    with pytest.raises(ValueError, match=message):
        choose_layers(tiny_network().layers, ("conv3", "fc2", "fc9"))
