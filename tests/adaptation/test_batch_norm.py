"""BatchNorm over all workers against torch's on the whole batch, and AdaBN written by hand."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_network import (
    SOURCE_IMAGES,
    TinyBatchNormNet,
    random_images,
    start_workers,
    tiny_batch_norm_network,
)
from torch import Tensor, nn

from gam_ray.adaptation import (
    SharedBatchNorm,
    adapt_batch_norm,
    rank,
    shard,
    share_batch_norm,
    sum_over_workers,
    world_size,
)

TARGET = random_images(31, seed=2, contrast=0.3) + 0.3
# An uneven share may be empty.
SHARES = {
    "even": {1: [12], 2: [6, 6], 4: [3, 3, 3, 3]},
    "uneven": {1: [12], 2: [9, 3], 4: [5, 1, 0, 6]},
}
NORMS = {"1d": (nn.BatchNorm1d, ()), "2d": (nn.BatchNorm2d, (3, 2))}
# With a momentum or the average, without weights, and without running statistics.
KINDS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.3},
    "average": {"momentum": None},
    "plain": {"affine": False},
    "batch": {"track_running_stats": False},
}
CASES = list(product(NORMS, SHARES, KINDS))


def examples(size: tuple[int, ...]) -> list[Tensor]:
    """Three batches of twelve whose channels differ in mean and deviation."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(3, 12, 4, *size, generator=generator, dtype=torch.float64)
    shape = (1, 4) + (1,) * len(size)
    mean = torch.tensor([0.0, -3.0, 50.0, 1.0], dtype=torch.float64).view(shape)
    std = torch.tensor([1.0, 0.01, 2.0, 30.0], dtype=torch.float64).view(shape)
    return list(noise * std + mean)


def torch_norm(dimensions: str, kind: str) -> nn.Sequential:
    """A BatchNorm of torch with weights of its own, in float64."""
    norm = NORMS[dimensions][0](4, eps=1e-3, **KINDS[kind]).double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 1.5]))
            norm.bias.copy_(torch.tensor([0.1, 0.0, -2.0, 1.0]))
    return nn.Sequential(norm)


def train(network: nn.Module, batches: Iterable[Tensor], places: slice) -> dict[str, Tensor]:
    """Outputs and gradients of an uneven loss on these rows, and the state at the end."""
    seen: dict[str, Tensor] = {}
    for number, images in enumerate(batches):
        own = images[places].clone().requires_grad_()
        weights = torch.linspace(-1, 2, images.numel(), dtype=torch.float64).view(images.shape)
        output = network(own)
        torch.autograd.backward((weights[places] * output**3).sum())
        assert own.grad is not None
        seen |= {f"output/{number}": output.detach(), f"gradient/{number}": own.grad}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        seen[f"weight gradient/{name}"] = sum_over_workers(parameter.grad)
    return {**seen, **{name: value.clone() for name, value in network.state_dict().items()}}


def train_shared(folder: Path) -> None:
    """Every case on this worker's rows."""
    for dimensions, split, kind in CASES:
        shares = SHARES[split][world_size()]
        network = torch_norm(dimensions, kind)
        share_batch_norm(network)
        assert isinstance(network[0], SharedBatchNorm)
        first = sum(shares[: rank()])
        seen = train(network, examples(NORMS[dimensions][1]), slice(first, first + shares[rank()]))
        torch.save(seen, folder / f"{dimensions}-{split}-{kind}-{rank()}.pt")


@pytest.fixture(scope="module", params=[1, 2, 4])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What workers, as many as the fixture says, end with."""
    folder = tmp_path_factory.mktemp("trained")
    if request.param == 1:
        train_shared(folder)
    else:
        start_workers(train_shared, request.param, folder)
    return folder


@pytest.mark.parametrize(("dimensions", "split", "kind"), CASES)
def test_all_workers_do_what_torch_does_on_the_whole_batch(
    dimensions: str, split: str, kind: str, trained: Path
) -> None:
    network = torch_norm(dimensions, kind)
    expected = train(network, examples(NORMS[dimensions][1]), slice(None))
    files = sorted(trained.glob(f"{dimensions}-{split}-{kind}-*.pt"))
    found = [torch.load(file) for file in files]
    for name, value in expected.items():
        parts = [one[name] for one in found]
        if name.startswith(("output/", "gradient/")):
            parts = [torch.cat(parts)]
        for part in parts:
            torch.testing.assert_close(part, value, rtol=1e-10, atol=1e-10, msg=name)


def test_shared_norms_keep_state_tensors_and_modes() -> None:
    plain = tiny_batch_norm_network(dropout=0.5).train()
    plain.conv1[1].eval()
    network = deepcopy(plain)
    tensors = network.state_dict(keep_vars=True)
    share_batch_norm(network)
    share_batch_norm(network)
    shared = [m for m in network.modules() if isinstance(m, SharedBatchNorm)]
    assert shared == list(network.norms.values())
    for name, norm in network.norms.items():
        old = plain.norms[name]
        assert (norm.eps, norm.momentum) == (old.eps, old.momentum)
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    assert all(after[name] is value for name, value in tensors.items())
    assert [m.training for m in network.modules()] == [m.training for m in plain.modules()]
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(TARGET), plain.eval()(TARGET), rtol=0, atol=0)


def evaluate(_folder: Path) -> None:
    """In evaluation mode workers do not wait for each other, and nothing moves."""
    plain = tiny_batch_norm_network()
    network = deepcopy(plain)
    share_batch_norm(network)
    for images in [TARGET[:3], TARGET[3:4], TARGET[4:]][: rank() + 1]:
        assert torch.equal(network(images), plain(images))
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_evaluation_uses_what_is_kept(tmp_path: Path) -> None:
    evaluate(tmp_path)
    start_workers(evaluate, 2, tmp_path)


def test_an_input_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4,\)"):
        SharedBatchNorm(4)(torch.zeros(4))


def averaged(network: TinyBatchNormNet, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """The mean over batches of the statistics that torch finds for each alone."""
    means: list[dict[str, Tensor]] = []
    for images in batches:
        alone = deepcopy(network).eval()
        for norm in alone.norms.values():
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            alone(images)
        means.append(statistics(alone))
    return {name: sum(one[name] for one in means) / len(means) for name in means[0]}


def statistics(network: TinyBatchNormNet) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": getattr(norm, key).clone()
        for name, norm in network.norms.items()
        for key in ("running_mean", "running_var")
    }


@pytest.mark.parametrize("sizes", [[31], [8, 8, 8, 7], [20, 2, 9]], ids=str)
def test_adaptation_averages_the_statistics_of_all_batches_alike(sizes: list[int]) -> None:
    network = tiny_batch_norm_network(dropout=0.5)
    before, expected = statistics(network), averaged(network, TARGET.split(sizes))
    adapt_batch_norm(network, iter(TARGET.split(sizes)))
    torch.testing.assert_close(statistics(network), expected, rtol=0, atol=1e-12)
    for name, value in expected.items():
        assert not torch.allclose(value, before[name], rtol=0.1), name
    assert {int(norm.num_batches_tracked) for norm in network.norms.values()} == {len(sizes)}


@pytest.mark.parametrize("training", [True, False])
def test_adaptation_restores_modes_and_momenta_and_leaves_weights(training: bool) -> None:
    network = tiny_batch_norm_network(dropout=0.5).train(training)
    network.norms["fc2"].momentum = None
    network.norms["conv1"].train(not training)
    modes = [module.training for module in network.modules()]
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    adapt_batch_norm(network, TARGET.split(10)[:3])
    assert [module.training for module in network.modules()] == modes
    assert [norm.momentum for norm in network.norms.values()] == [0.1, None]
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.requires_grad
        assert parameter.grad is None


def adapt_shares(folder: Path) -> None:
    """AdaBN on shares of batches that all numbers of workers have in common."""
    network = tiny_batch_norm_network(dropout=0.5)
    share_batch_norm(network)
    adapt_batch_norm(network, (shard(images) for images in TARGET.split([11, 3, 17])))
    torch.save(statistics(network), folder / f"{rank()}.pt")


def test_adaptation_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    network = tiny_batch_norm_network()
    adapt_batch_norm(network, TARGET.split([11, 3, 17]))
    start_workers(adapt_shares, 2, tmp_path)
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(found, statistics(network), rtol=1e-12, atol=1e-12)


def test_a_momentum_over_few_batches_would_keep_the_initial_variance() -> None:
    """Four batches at momentum 0.1 leave 0.9⁴ = 66 % of the 1 that a fresh BatchNorm has."""
    images = (1e-3**0.5) * SOURCE_IMAGES
    norm = nn.BatchNorm2d(1).double()
    network, true = nn.Sequential(norm), images.var()
    naive = deepcopy(network).train()
    for part in images.split(10):
        naive(part)
    assert naive[0].running_var.item() > 500 * true
    adapt_batch_norm(network, images.split(10))
    assert norm.running_var.item() == pytest.approx(true.item(), rel=0.03)
    assert network.eval()(images).var().item() == pytest.approx(1, rel=0.05)
    assert naive.eval()(images).var().item() < 0.002
