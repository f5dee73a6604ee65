"""Losses and discriminators, against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from gam_ray.adaptation import (
    Discriminators,
    Drift,
    GANLoss,
    InvertedLabelsLoss,
    LeastSquaresLoss,
    build_discriminator,
)

logits = st.lists(st.floats(-50, 50), min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)[:, None]
)


@given(source=logits, target=logits)
def test_the_gan_loss_is_the_cross_entropy(source: torch.Tensor, target: torch.Tensor) -> None:
    ones, zeros = torch.ones_like, torch.zeros_like
    judge = binary_cross_entropy_with_logits(source, ones(source))
    judge = (judge + binary_cross_entropy_with_logits(target, zeros(target))) / 2
    torch.testing.assert_close(GANLoss().discriminator(source, target), judge)
    inverted = binary_cross_entropy_with_logits(target, ones(target))
    torch.testing.assert_close(GANLoss().target(target), inverted)


@given(source=logits, target=logits)
def test_the_least_squares_loss_is_the_squared_error_to_1_and_0(
    source: torch.Tensor, target: torch.Tensor
) -> None:
    judge = mse_loss(source, torch.ones_like(source)) + mse_loss(target, torch.zeros_like(target))
    torch.testing.assert_close(LeastSquaresLoss().discriminator(source, target), judge / 2)
    torch.testing.assert_close(
        LeastSquaresLoss().target(target), mse_loss(target, torch.ones_like(target))
    )


@given(source=logits, target=logits)
def test_inverted_labels_are_the_gan_loss_of_the_difference_of_two_outputs(
    source: torch.Tensor, target: torch.Tensor
) -> None:
    pairs = [torch.cat([x / 3, 4 * x / 3], dim=1) for x in (source, target)]
    two, one = InvertedLabelsLoss(), GANLoss()
    torch.testing.assert_close(two.discriminator(*pairs), one.discriminator(source, target))
    torch.testing.assert_close(two.target(pairs[1]), one.target(target))
    # Rounding may decide at the boundary itself.
    clear = source[:, 0].abs() > 1e-9
    says = two.says_source(pairs[0])[clear], one.says_source(source)[clear, 0]
    assert torch.equal(*says)


def test_an_undecided_discriminator_has_the_known_losses() -> None:
    undecided = torch.zeros(4, 1)
    assert float(GANLoss().discriminator(undecided, undecided)) == pytest.approx(0.6931472)
    assert float(LeastSquaresLoss().discriminator(undecided + 0.5, undecided + 0.5)) == 0.25


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    extreme = torch.tensor([[-1e4], [1e4]], requires_grad=True)
    loss = GANLoss().discriminator(extreme, extreme) + GANLoss().target(extreme)
    torch.autograd.backward(loss)
    assert bool(loss.isfinite())
    assert extreme.grad is not None
    assert bool(extreme.grad.isfinite().all())


def test_drift_is_the_squared_distance_over_all_parameters() -> None:
    source = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    target = [torch.tensor(x).requires_grad_() for x in ([2.0, 0.0], [[6.0]])]
    for reduction, expected in (("sum", 1 + 4 + 9), ("mean", (1 + 4) / 2 + 9)):
        distance, _ = Drift(source, target, reduction=reduction, weight=0.5)()
        assert float(distance) == pytest.approx(expected)
    assert float(Drift(target, target, reduction="sum", weight=1.0)()[0]) == 0
    with pytest.raises(ValueError, match="shorter"):
        Drift(source, target[:1], reduction="sum", weight=1.0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_drift_is_what_autograd_finds(reduction: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,), ())
    source = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    target = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    by_hand = [(t - s).square() for s, t in zip(source, target, strict=True)]
    summed = torch.stack([x.sum() if reduction == "sum" else x.mean() for x in by_hand]).sum()
    expected = torch.autograd.grad(0.3 * summed, target)
    _, found = Drift(source, target, reduction=reduction, weight=0.3)()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_frozen_does_not_drift() -> None:
    source = [torch.zeros(2), torch.zeros(3)]
    target = [torch.ones(2, requires_grad=True), torch.ones(3)]
    drift = Drift(source, target, reduction="sum", weight=1.0)
    distance, (gradient,) = drift()
    assert float(distance) == pytest.approx(2)
    assert gradient.tolist() == [2, 2]
    assert [each is target[0] for each in drift.learners] == [True]


def test_vectors_get_the_authors_discriminator() -> None:
    discriminator = build_discriminator(torch.Size([2, 10]))
    assert sum(p.numel() for p in discriminator.parameters()) == 11 * 500 + 501 * 500 + 501
    assert discriminator(torch.rand(3, 10)).shape == (3, 1)


def test_maps_are_judged_patch_by_patch() -> None:
    discriminator = build_discriminator(torch.Size([2, 5, 12, 8]))
    assert discriminator(torch.rand(3, 5, 12, 8)).shape == (3, 1, 3, 2)


def test_other_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, K\] or \[N, K, H, W\], but got \(2, 3, 4\)"):
        build_discriminator(torch.Size([2, 3, 4]))


def test_each_layer_has_its_own_discriminator() -> None:
    shapes = {"map": (2, 4, 6, 6), "vector": (2, 7)}
    built = {name: build_discriminator(torch.Size(shape)) for name, shape in shapes.items()}
    activations = {name: torch.rand(shape) for name, shape in shapes.items()}
    outputs = Discriminators(built)(activations)
    assert all(torch.equal(outputs[name], built[name](activations[name])) for name in shapes)
