"""Moments and Gaussian matching, against numpy and against what the closed form promises."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_network import (
    TinyBatchNormNet,
    TinyNet,
    random_images,
    tiny_batch_norm_network,
    tiny_network,
)
from torch import Tensor, nn

from gam_ray.adaptation import (
    ChannelMatching,
    Moments,
    layer_moments,
    match_network,
    remeasure,
    restore_matching,
    train_mode,
)

SOURCE = random_images(30, seed=1)
TARGET = random_images(30, seed=2, contrast=0.3) + 0.3


def moments_of(activations: list[Tensor]) -> tuple[Any, Any]:
    """Mean and deviation of each channel, by numpy, of all batches at once."""
    values = np.concatenate([a.double().numpy() for a in activations])
    axes = (0, *range(2, values.ndim))
    return values.mean(axes), values.std(axes)


def measured(network: TinyNet, images: Tensor) -> dict[str, tuple[Any, Any]]:
    """Moments of what every layer gives out, by a loop that knows nothing of the library."""
    seen: dict[str, list[Tensor]] = {name: [] for name in network.layers}
    handles = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out))
        for name, layer in network.layers.items()
    ]
    with torch.no_grad():
        for part in images.split(7):
            network(part)
    for handle in handles:
        handle.remove()
    return {name: moments_of(parts) for name, parts in seen.items()}


def batches(images: Tensor) -> Iterator[Tensor]:
    yield from images.split([11, 1, 18])


def matched_pair(momentum: float = 0.0) -> tuple[TinyNet, TinyNet]:
    source, target = tiny_network(0).eval(), tiny_network(1).eval()
    moments = layer_moments(source, source.layers, batches(SOURCE))
    match_network(target, target.layers, moments, lambda: batches(TARGET), momentum=momentum)
    return source, target


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    size=st.sampled_from([(), (1, 1), (3, 2)]),
    offset=st.sampled_from([0.0, -3.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_moments_are_those_of_all_batches_at_once(
    sizes: list[int], size: tuple[int, ...], offset: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 4, *size, generator=generator) + offset for n in sizes]
    layer = nn.Identity()
    found = layer_moments(layer, {"layer": layer}, parts)["layer"]
    mean, std = moments_of(parts)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, std, rtol=1e-7, atol=1e-12)


def test_matched_layers_have_the_source_moments_one_behind_the_other() -> None:
    source, target = matched_pair()
    wanted, before = measured(source, SOURCE), measured(tiny_network(1), TARGET)
    for name, (mean, std) in measured(target, TARGET).items():
        alive = target.matching[name].target_std.numpy() > 1e-5
        assert alive.sum() >= 3
        np.testing.assert_allclose(mean, wanted[name][0], atol=1e-5)
        np.testing.assert_allclose(std[alive], wanted[name][1][alive], atol=1e-5)
        assert np.abs(before[name][0] - wanted[name][0]).max() > 0.01


@pytest.mark.parametrize("training", [False, True])
def test_matching_leaves_the_mode_as_it_was_and_weights_alone(training: bool) -> None:
    target = tiny_network(1).train(training)
    weights = deepcopy(list(target.parameters()))
    moments = layer_moments(target, target.layers, batches(SOURCE))
    match_network(target, target.layers, moments, lambda: batches(TARGET), momentum=0.3)
    assert {module.training for module in target.modules()} == {training}
    assert all(torch.equal(a, b) for a, b in zip(weights, target.parameters(), strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.3])
def test_a_channel_that_never_varies_is_moved_to_the_source_mean(momentum: float) -> None:
    source = Moments(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 5.0]))
    target = Moments(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
    matching = ChannelMatching(source, target, momentum=momentum, dtype=torch.float32)
    activation = torch.tensor([[0.0, 0.5], [0.0, 1.5]], requires_grad=True)
    output = matching(activation)
    torch.testing.assert_close(output.detach(), torch.tensor([[2.0, -2.0], [2.0, 8.0]]))
    torch.autograd.backward(output.square().sum())
    assert activation.grad is not None
    assert bool(activation.grad.isfinite().all())
    assert all(bool(buffer.isfinite().all()) for buffer in matching.buffers())


def test_running_moments_train_on_the_batch_and_follow_it() -> None:
    _, target = matched_pair(momentum=0.3)
    matching, layer = target.matching["fc3"], nn.Identity()
    kept = {name: value.clone() for name, value in matching.named_buffers()}
    activation = torch.randn(6, 5, dtype=torch.float64)
    output = matching.train()(layer(activation))
    mean, std = moments_of([output])
    np.testing.assert_allclose(mean, kept["source_mean"], atol=1e-8)
    np.testing.assert_allclose(std, kept["source_std"], atol=1e-8)
    moved = {"target_mean": activation.mean(0), "target_std": activation.std(0, unbiased=False)}
    for name, value in moved.items():
        torch.testing.assert_close(getattr(matching, name), 0.7 * kept[name] + 0.3 * value)
    assert torch.equal(matching.source_std, kept["source_std"])


def test_running_moments_let_the_gradient_through() -> None:
    """A shift or a scale of the batch changes nothing, so it gets no gradient."""
    _, target = matched_pair(momentum=0.3)
    matching = target.matching["fc3"].train()
    activation = torch.randn(6, 5, dtype=torch.float64)
    shift, scale = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    shift.requires_grad_()
    scale.requires_grad_()
    torch.autograd.backward((matching(activation * scale + shift) ** 3).sum())
    torch.testing.assert_close(shift.grad, torch.zeros_like(shift), rtol=0, atol=1e-9)
    torch.testing.assert_close(scale.grad, torch.zeros_like(scale), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("momentum", "training"), [(0.0, True), (0.3, False)])
def test_kept_moments_do_not_change(momentum: float, training: bool) -> None:
    _, target = matched_pair(momentum)
    target.train(training)
    before = deepcopy(target.state_dict())
    torch.testing.assert_close(target(TARGET[:5])[:3], target(TARGET[:3]))
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_a_restored_network_gives_identical_outputs_and_goes_its_own_way() -> None:
    _, target = matched_pair(momentum=0.3)
    fresh = tiny_network(5).eval()
    restore_matching(fresh, fresh.layers, target.state_dict(), momentum=0.3)
    fresh.load_state_dict(target.state_dict())
    before = target(TARGET)
    assert torch.equal(fresh(TARGET), before)
    fresh.train()(TARGET[:9])
    assert torch.equal(target(TARGET), before)
    target.train()(TARGET[:9])
    assert torch.equal(fresh.eval()(TARGET), target.eval()(TARGET))
    assert not torch.allclose(target(TARGET), before)


def test_moments_taken_anew_are_those_of_now() -> None:
    """After training, one remeasuring makes matched layers have the source moments again."""
    source, target = matched_pair(momentum=0.3)
    with torch.no_grad():
        for weight in target.parameters():
            weight.mul_(1.1)
    target.train()(SOURCE)
    target.eval()
    off, wanted = measured(target, TARGET), measured(source, SOURCE)
    remeasure(target, target.layers, lambda: batches(TARGET))
    for name, (mean, std) in measured(target, TARGET).items():
        alive = target.matching[name].target_std.numpy() > 1e-5
        np.testing.assert_allclose(mean, wanted[name][0], atol=1e-5)
        np.testing.assert_allclose(std[alive], wanted[name][1][alive], atol=1e-5)
        assert np.abs(off[name][1] - wanted[name][1]).max() > 1e-3


# conv1 gives 15,360 bytes of 30 images, fc2 2,880, fc3 1,200.
@pytest.mark.parametrize(
    ("kept_bytes", "passes"), [(0, 3), (3_000, 2), (2**20, 1)], ids=["none", "vectors", "all"]
)
def test_one_pass_over_a_chain_does_what_many_do(
    monkeypatch: pytest.MonkeyPatch, kept_bytes: int, passes: int
) -> None:
    monkeypatch.setattr("gam_ray.adaptation.moments.KEPT_BYTES", kept_bytes)
    source, expected = matched_pair(momentum=0.3)
    found = tiny_network(1).eval()
    seen: list[int] = []
    found.conv1[0].register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    moments = layer_moments(source, source.layers, batches(SOURCE))

    def again() -> Iterator[Tensor]:
        return batches(TARGET)

    match_network(found, found.layers, moments, again, momentum=0.3, is_chain=True)
    assert sum(seen) == passes * len(TARGET)
    for network in (found, expected):
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1.1)
        network.train()(SOURCE)
    remeasure(found, found.layers, again, is_chain=True)
    remeasure(expected, expected.layers, again)
    assert all(module.training for module in found.modules())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-12, atol=1e-14)


def test_nothing_is_taken_anew_where_nothing_is_matched() -> None:
    plain = tiny_network(1)
    before = deepcopy(plain.state_dict())
    remeasure(plain, plain.layers, lambda: batches(TARGET))
    assert plain.state_dict().keys() == before.keys()


def test_a_network_that_was_not_matched_is_restored_without_matching() -> None:
    plain, fresh = tiny_network(1), tiny_network(5)
    restore_matching(fresh, fresh.layers, plain.state_dict())
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(TARGET), plain(TARGET))


def test_a_copy_of_a_matched_network_is_independent() -> None:
    _, target = matched_pair()
    twin = deepcopy(target)
    before = target(TARGET)
    assert torch.equal(twin(TARGET), before)
    twin.matching["conv1"].source_mean += 1
    assert torch.equal(target(TARGET), before)
    assert not torch.allclose(twin(TARGET), before)


def thirds(images: Tensor) -> Iterator[Tensor]:
    yield from images.split(10)


def batch_norm_pair(momentum: float = 0.0) -> tuple[TinyBatchNormNet, TinyBatchNormNet]:
    """Source and target network, BatchNorm behind two layers, the head without."""
    source, target = tiny_batch_norm_network(0), tiny_batch_norm_network(1)
    moments = layer_moments(source, {"fc3": source.fc3}, thirds(SOURCE))
    match_network(target, target.layers, moments, lambda: thirds(TARGET), momentum=momentum)
    return source, target


def normalised(network: TinyBatchNormNet, images: Tensor) -> dict[str, tuple[Any, Any]]:
    """Moments of what each BatchNorm gives out for one batch, its weight and bias taken off."""
    seen: dict[str, Tensor] = {}
    handles = [
        norm.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name, norm in network.norms.items()
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    found = {}
    for name, norm in network.norms.items():
        mean, std = moments_of([seen[name]])
        weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        found[name] = (mean - bias) / weight, std / weight
    return found


def test_batch_norms_are_matched_by_the_target_statistics_and_the_head_in_closed_form() -> None:
    source, target = batch_norm_pair()
    for mean, std in normalised(target, TARGET).values():
        np.testing.assert_allclose(mean, 0, atol=0.1)
        np.testing.assert_allclose(std, 1, atol=0.1)
    before = normalised(tiny_batch_norm_network(1), TARGET)
    assert max(np.abs(std - 1).max() for _, std in before.values()) > 0.5
    assert list(target.matching) == ["fc3"]
    for found, wanted in zip(
        measured(target, TARGET)["fc3"], measured(source, SOURCE)["fc3"], strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_statistics_of_one_batch_normalise_it() -> None:
    """But for what torch adds (eps) and divides by (n − 1), which fc2 sees through conv1."""
    target = tiny_batch_norm_network(1)
    moments = layer_moments(target, {"fc3": target.fc3}, [SOURCE])
    match_network(target, target.layers, moments, lambda: [TARGET])
    counts, tolerances = {"conv1": 30 * 8 * 8, "fc2": 30}, {"conv1": 1e-10, "fc2": 3e-3}
    for name, (mean, std) in normalised(target, TARGET).items():
        kept = target.norms[name].running_var.numpy()
        variance = kept * (counts[name] - 1) / counts[name]
        np.testing.assert_allclose(mean, 0, atol=tolerances[name])
        wanted = variance / (kept + 1e-5)
        np.testing.assert_allclose(std**2, wanted, rtol=tolerances[name])


@pytest.mark.parametrize(("momentum", "expected"), [(0.0, 0.1), (0.3, 0.3)])
def test_batch_norms_follow_as_matchings_do(momentum: float, expected: float) -> None:
    _, target = batch_norm_pair(momentum)
    assert [norm.momentum for norm in target.norms.values()] == [expected, expected]
    fresh = tiny_batch_norm_network(5)
    restore_matching(fresh, fresh.layers, target.state_dict(), momentum=momentum)
    assert [norm.momentum for norm in fresh.norms.values()] == [expected, expected]


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_training_moves_moments_and_drops_only_if_told_to(statistics: bool, dropout: bool) -> None:
    _, target = batch_norm_pair(momentum=0.3)
    target.fc2[1].p = 0.5
    train_mode(target, statistics=statistics, dropout=dropout)
    before = deepcopy(target.state_dict())
    kept, noise = [*target.norms.values(), target.matching["fc3"]], target.fc2[1]
    assert {module.training for module in kept} == {statistics}
    assert noise.training == dropout
    assert all(module.training for module in target.modules() if module not in [*kept, noise])
    optimizer = torch.optim.SGD(target.parameters(), 0.1)
    torch.autograd.backward(target(TARGET).square().sum())
    optimizer.step()
    weights = dict(target.named_parameters())
    for name, value in target.state_dict().items():
        moves = name in weights or (statistics and "source" not in name)
        assert torch.equal(value, before[name]) != moves, name
    once, again = target.fc2(target.conv1(TARGET)), target.fc2(target.conv1(TARGET))
    assert torch.equal(once, again) != dropout
    noise.p = 0.0
    alone, among = target(TARGET[:2]), target(TARGET)[:2]
    assert torch.allclose(alone, among) != statistics


def test_a_restored_network_with_batch_norm_goes_on_alike() -> None:
    _, target = batch_norm_pair(momentum=0.3)
    fresh = tiny_batch_norm_network(5)
    restore_matching(fresh, fresh.layers, target.state_dict(), momentum=0.3)
    fresh.load_state_dict(target.state_dict())
    before = target(TARGET)
    assert torch.equal(fresh(TARGET), before)
    for network in (target, fresh):
        train_mode(network, statistics=True, dropout=False)
        network(SOURCE[:9])
        network.eval()
    assert torch.equal(fresh(TARGET), target(TARGET))
    assert not torch.allclose(target(TARGET), before)


def test_statistics_taken_anew_are_those_of_now() -> None:
    """As if the network of now were matched for the first time; what it had is forgotten."""
    source, target = batch_norm_pair(momentum=0.3)
    with torch.no_grad():
        for weight in target.parameters():
            weight.mul_(1.1)
    train_mode(target, statistics=True, dropout=False)
    target(SOURCE)
    target.eval()
    anew = tiny_batch_norm_network(2)
    anew.load_state_dict({n: v for n, v in target.state_dict().items() if "matching" not in n})
    moments = layer_moments(source, {"fc3": source.fc3}, thirds(SOURCE))
    match_network(anew, anew.layers, moments, lambda: thirds(TARGET), momentum=0.3)
    assert not torch.allclose(target(TARGET), anew(TARGET), rtol=0.01)
    remeasure(target, target.layers, lambda: thirds(TARGET))
    torch.testing.assert_close(target.state_dict(), anew.state_dict(), rtol=1e-9, atol=1e-9)
    for mean, std in normalised(target, TARGET).values():
        np.testing.assert_allclose(mean, 0, atol=0.1)
        np.testing.assert_allclose(std, 1, atol=0.1)
    for found, wanted in zip(
        measured(target, TARGET)["fc3"], measured(source, SOURCE)["fc3"], strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


class MixedNet(TinyBatchNormNet):
    """A plain layer, one with BatchNorm, a plain head."""

    def __init__(self) -> None:
        super().__init__()
        del self.conv1[1]

    @property
    def norms(self) -> dict[str, nn.BatchNorm1d | nn.BatchNorm2d]:
        return {"fc2": self.fc2[3]}


def test_a_batch_norm_behind_a_matching_has_the_statistics_of_what_is_matched() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source, target = MixedNet().double().eval(), MixedNet().double().eval()
    moments = layer_moments(source, source.layers, thirds(SOURCE))
    match_network(target, target.layers, moments, lambda: thirds(TARGET))
    wanted = measured(source, SOURCE)
    for moved in (False, True):
        if moved:
            with torch.no_grad():
                target.conv1[0].weight.copy_(target.conv1[0].weight.flip(0).neg())
            remeasure(target, target.layers, lambda: thirds(TARGET))
        found = measured(target, TARGET)
        for name in ("conv1", "fc3"):
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
        mean, std = normalised(target, TARGET)["fc2"]
        np.testing.assert_allclose(mean, 0, atol=0.1)
        np.testing.assert_allclose(std, 1, atol=0.1)
