"""Gaussian i.i.d. matching: give target activations the source's channel moments.

For layer i and channel k the paper (ECCV 2018) matches in closed form::

    Â^t = α A^t + β,   α = σ^s / σ^t,   β = μ^s − α μ^t

with mean μ and standard deviation σ over batch and pixels, layer by layer: the target
moments of layer i are measured with layers 1 … i−1 already matched. A layer that has BatchNorm
is matched by AdaBN instead, which the paper lets stand in for the closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gam_ray.adaptation.batch_norm import (
    adapt_batch_norm,
    batch_moments,
    batch_norms,
    channels_last,
)
from gam_ray.adaptation.collectives import sum_over_workers, world_size
from gam_ray.adaptation.modes import evaluating
from gam_ray.adaptation.taps import Taps

# A channel that never varies (a dead ReLU) has σ = 0; this keeps α finite, and such a
# channel is moved to the source's mean only.
SMALLEST_STD = 1e-5
# The same of 1 / (1 / σ), which is not σ to the last bit.
STILL_STD = 1.001 * SMALLEST_STD
# What one layer gives out over all batches of a worker is kept for the next layer up to this size:
# 80,000 digits behind LeNet's second convolution. Larger ones are computed again.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation [K] of each channel (population form, divided by n)."""

    mean: Tensor
    std: Tensor


class MomentsMeter:
    """Accumulates the moments of each channel over batches, positions and workers.

    Sums are kept in float64 around the first batch's mean, so that a large mean beside a
    small deviation loses nothing.
    """

    def __init__(self) -> None:
        self._shift: Tensor | None = None
        self._sums: Tensor | None = None

    def add(self, activation: Tensor) -> None:
        """Count in this worker's activation, [N, K] or [N, K, H, W]."""
        values = channels_last(activation.detach()).double()
        if self._shift is None or self._sums is None:
            self._shift = sum_over_workers(values.mean(0)) / world_size()
            self._sums = values.new_zeros(3, values.shape[1])
        centred = values - self._shift
        count = torch.full_like(self._shift, len(centred))
        self._sums += torch.stack([count, centred.sum(0), centred.square().sum(0)])

    def result(self) -> Moments:
        """Moments over everything that all workers added (each at least one batch)."""
        assert self._shift is not None
        assert self._sums is not None
        count, first, second = sum_over_workers(self._sums)
        variance = (second / count - (first / count).square()).clamp(min=0)
        return Moments(mean=self._shift + first / count, std=variance.sqrt())


class ChannelMatching(nn.Module):
    """A layer's matching Â = α A + β, with the moments of both domains as buffers.

    With a `momentum` above zero it trains as BatchNorm does: on the moments of the batch (over
    all workers), with the gradient through them, while the kept target moments follow:
    m ← (1 − momentum) m + momentum m_batch. Without that gradient the network can drift without
    bound, since the matching hides it from the discriminators.

    Args:
        source: Moments of the source network on source data.
        target: Moments of the target network on target data, layers before matched.
        momentum: Share of the newest batch, in [0, 1]; 0 keeps the target moments, in training
            as well.
        dtype: Of the buffers: the network's.
    """

    source_mean: Tensor
    source_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, source: Moments, target: Moments, *, momentum: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.momentum = momentum
        for name, value in (
            ("source_mean", source.mean),
            ("source_std", source.std),
            ("target_mean", target.mean),
            ("target_std", target.std),
        ):
            self.register_buffer(name, value.to(dtype, copy=True))

    def forward(self, activation: Tensor) -> Tensor:
        """α A + β for an activation [N, K] or [N, K, H, W]."""
        mean, std = self.target_mean, self.target_std
        if self.training and self.momentum > 0:
            if activation.is_cuda and world_size() == 1:
                return self._on_gpu(activation)
            mean, variance, _ = batch_moments(activation, self.target_mean)
            std = (variance + SMALLEST_STD**2).sqrt()
            self._follow(mean.detach(), std.detach())
        scale, shift = self._affine(mean, std)
        shape = (1, -1) + (1,) * (activation.dim() - 2)
        return activation * scale.view(shape) + shift.view(shape)

    def _on_gpu(self, activation: Tensor) -> Tensor:
        """On the moments of the batch, with the kernels of BatchNorm."""
        matched: Tensor
        matched, mean, std = _BatchMatching.apply(activation, self.source_mean, self.source_std)
        self._follow(mean, std)
        return matched

    @torch.no_grad()
    def _follow(self, mean: Tensor, std: Tensor) -> None:
        kept, newest = [self.target_mean, self.target_std], [mean, std]
        torch._foreach_lerp_(kept, newest, self.momentum)

    def _affine(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(α, β) for these target moments; α is never zero, so that it can be undone."""
        scale = self.source_std.clamp(min=SMALLEST_STD) / std.clamp(min=SMALLEST_STD)
        scale = torch.where(std <= SMALLEST_STD, torch.ones_like(scale), scale)
        return scale, self.source_mean - scale * mean

    @torch.no_grad()
    def retarget(self, target: Moments) -> None:
        """Replace the target moments by these, of A before it is matched."""
        self.target_mean.copy_(target.mean)
        self.target_std.copy_(target.std)

    def hook(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG002
        """`forward` as a forward hook of the layer (a method, so that copies stay apart)."""
        matched: Tensor = self(output)
        return matched


class _BatchMatching(torch.autograd.Function):
    """α A + β with the moments of the batch, and the gradient through them, in a few kernels.

    It is BatchNorm with the source's moments for weight and bias, but for a channel that does not
    vary, which is moved and not scaled. The moments that come with it have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, ...]:
        values = activation.to(mean.dtype)
        own, inverse = torch.batch_norm_stats(values, SMALLEST_STD**2)
        spread = inverse.reciprocal()
        weight = torch.where(spread <= STILL_STD, spread, std.clamp(min=SMALLEST_STD))
        matched = torch.batch_norm_elemt(values, weight, mean, own, inverse, 0.0)
        ctx.save_for_backward(activation, own, inverse, weight)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(own, spread)
        return matched, own, spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        activation, own, inverse, weight = ctx.saved_tensors
        values = activation.to(own.dtype)
        given = gradients[0].contiguous(memory_format=_layout(values))
        summed, products, _, _ = torch.batch_norm_backward_reduce(
            given, values, own, inverse, weight, True, False, False
        )
        count = torch.full((1,), values.numel() // len(own), dtype=torch.int32, device=own.device)
        found = torch.batch_norm_backward_elemt(
            given, values, own, inverse, weight, summed, products, count
        )
        return found.to(activation.dtype), None, None


def _layout(values: Tensor) -> torch.memory_format:
    is_channels_last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format


Batches = Callable[[], Iterable[Tensor]]


def match_network(
    target: nn.Module,
    target_layers: Mapping[str, nn.Module],
    source_moments: Mapping[str, Moments],
    target_batches: Batches,
    *,
    momentum: float = 0.0,
    is_chain: bool = False,
) -> None:
    """Match every layer in closed form: by AdaBN where it has BatchNorm, else by a matching.

    BatchNorm takes one pass over the target data, and one more wherever it follows a matching;
    each layer without it takes a pass with the layers before already matched, in evaluation
    mode. The matchings become the submodule
    ``target.matching``, so that they travel with the network's state and device.

    Args:
        target: The target network, changed in place; its modes are restored.
        target_layers: Layer name → submodule of `target`, in the order of the forward pass.
        source_moments: Of the source network on source data, for `layers_to_match` at least.
        target_batches: Called for each pass, gives this worker's float images [N, C, H, W].
        momentum: As in `ChannelMatching`; BatchNorm gets it too, where it is above zero.
        is_chain: Whether each layer takes what the one before gives, the first one the images.
            Without BatchNorm, one pass then does for all layers.
    """
    for norm in batch_norms(target):
        norm.momentum = momentum or norm.momentum
    passes = _passes(target, target_layers, target_batches, is_chain=is_chain)
    for name, layer in _behind_batch_norms(target, target_layers, target_batches):
        measured = passes.moments(name)
        dtype = next(target.parameters()).dtype
        matching = ChannelMatching(source_moments[name], measured, momentum=momentum, dtype=dtype)
        _insert(target, name, layer, matching)


def layers_to_match(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The layers that get a `ChannelMatching`: those without BatchNorm inside."""
    return {name: layer for name, layer in layers.items() if not batch_norms(layer)}


def _behind_batch_norms(
    target: nn.Module, layers: Mapping[str, nn.Module], batches: Batches
) -> Iterator[tuple[str, nn.Module]]:
    """The `layers_to_match` in turn, each once the BatchNorms before it are adapted.

    A BatchNorm that follows such a layer is adapted anew: its input has changed.
    """
    if batch_norms(target):
        adapt_batch_norm(target, batches())
    stale = False
    for name, layer in layers.items():
        if not batch_norms(layer):
            yield name, layer
            stale = True
        elif stale:
            adapt_batch_norm(target, batches())
            stale = False


def remeasure(
    target: nn.Module,
    target_layers: Mapping[str, nn.Module],
    target_batches: Batches,
    *,
    is_chain: bool = False,
) -> None:
    """Take the target moments of all matchings and BatchNorms anew, over whole passes.

    What a running average keeps lags behind the weights; evaluation wants what is true now.
    For a network that `match_network` matched.

    Args:
        target: Changed in place; its modes are restored.
        target_layers: Layer name → submodule of `target`, in the order of the forward pass.
        target_batches: Called for each pass, gives this worker's float images [N, C, H, W].
        is_chain: As in `match_network`.
    """
    passes = _passes(target, target_layers, target_batches, is_chain=is_chain)
    matchings = _matchings(target)
    for name, _ in _behind_batch_norms(target, target_layers, target_batches):
        if name in matchings:
            matchings[name].retarget(passes.moments(name))


def _matchings(target: nn.Module) -> dict[str, ChannelMatching]:
    """Layer name → matching, of the layers that have one."""
    return dict(getattr(target, "matching", {}).items())


class _Passes:
    """Measures one layer after another over the same batches, those before as they are now.

    Args:
        target: Run in evaluation mode; its modes are restored.
        layers: Layer name → submodule of `target`.
        batches: Called for each pass.
    """

    def __init__(
        self, target: nn.Module, layers: Mapping[str, nn.Module], batches: Batches
    ) -> None:
        self._target = target
        self._layers = dict(layers)
        self._batches = batches

    @torch.no_grad()
    def moments(self, name: str) -> Moments:
        """Of what a layer gives out before it is matched; the layers in their order."""
        meter = MomentsMeter()
        with evaluating(self._target):
            for activation in self._activations(name):
                meter.add(activation)
        return meter.result()

    def _activations(self, name: str) -> Iterator[Tensor]:
        with Taps({name: self._layers[name]}, raw=True) as taps:
            for images in self._batches():
                yield taps.run(self._target, images)[name]


class _ChainPasses(_Passes):
    """The same for layers each of which takes what the one before gives.

    What a layer gave is kept where it is small enough, and the next measurement goes on from there.
    """

    def __init__(
        self, target: nn.Module, layers: Mapping[str, nn.Module], batches: Batches
    ) -> None:
        super().__init__(target, layers, batches)
        self._names = list(layers)
        # Inputs of the layer after `_last`; None for the images, before the first.
        self._kept: list[Tensor] | None = None
        self._last: str | None = None

    def _activations(self, name: str) -> Iterator[Tensor]:
        first = self._names.index(self._last) + 1 if self._last else 0
        before = nn.Sequential(
            *(self._layers[each] for each in self._names[first : self._names.index(name)])
        )
        given: list[Tensor] = []
        size = 0
        with Taps({name: self._layers[name]}, raw=True) as taps:
            for values in self._inputs():
                raw = taps.run(self._layers[name], before(values))[name]
                yield raw
                size += raw.nbytes
                if size <= KEPT_BYTES:
                    given.append(raw)
                else:
                    given.clear()
        if size <= KEPT_BYTES:
            self._kept, self._last = given, name

    def _inputs(self) -> Iterator[Tensor]:
        """What the layer after the last kept one gets, now that that one is matched."""
        if self._kept is None:
            yield from self._batches()
            return
        assert self._last is not None
        matching = _matchings(self._target).get(self._last)
        for raw in self._kept:
            yield raw if matching is None else matching(raw)


def _passes(
    target: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, *, is_chain: bool
) -> _Passes:
    # AdaBN moves a BatchNorm that was passed already: nothing kept would stay true.
    kind = _ChainPasses if is_chain and not batch_norms(target) else _Passes
    return kind(target, layers, batches)


def train_mode(network: nn.Module, *, statistics: bool, dropout: bool) -> None:
    """Set a network to training, and what behaves otherwise in training as it is wanted.

    Args:
        network: Changed in place.
        statistics: Whether BatchNorms and matchings use the batch's moments, and follow them; if
            not, they use those they have kept, as in evaluation.
        dropout: Whether dropout drops. In general matching it must not: the source network runs
            without, and discriminators would learn to tell the noise.
    """
    network.train()
    for norm in batch_norms(network):
        norm.train(statistics)
    for module in network.modules():
        if isinstance(module, ChannelMatching):
            module.train(statistics)
        if isinstance(module, _DropoutNd):
            module.train(dropout)


@torch.no_grad()
def layer_moments(
    network: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, Moments]:
    """Moments of the activations of `layers` over one pass, in evaluation mode.

    Args:
        network: Run on every batch; its modes are restored.
        layers: Layer name → submodule of `network`.
        batches: This worker's float images [N, C, H, W].
    """
    meters = {name: MomentsMeter() for name in layers}
    with evaluating(network), Taps(layers) as taps:
        for images in batches:
            for name, activation in taps.run(network, images).items():
                meters[name].add(activation)
    return {name: meter.result() for name, meter in meters.items()}


def restore_matching(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    state: Mapping[str, Tensor],
    *,
    momentum: float = 0.0,
) -> None:
    """Insert the matchings that a saved network had, so that `state` can be loaded into it.

    Args:
        network: Freshly built, changed in place.
        layers: Layer name → submodule of `network`.
        state: A ``state_dict`` of a network that `match_network` changed, or did not.
        momentum: As in `match_network`.
    """
    for norm in batch_norms(network):
        norm.momentum = momentum or norm.momentum
    for name, layer in layers.items():
        prefix = f"matching.{name}."
        if f"{prefix}source_mean" not in state:
            continue
        source = Moments(state[f"{prefix}source_mean"], state[f"{prefix}source_std"])
        target = Moments(state[f"{prefix}target_mean"], state[f"{prefix}target_std"])
        dtype = source.mean.dtype
        _insert(
            network, name, layer, ChannelMatching(source, target, momentum=momentum, dtype=dtype)
        )


def _insert(network: nn.Module, name: str, layer: nn.Module, matching: ChannelMatching) -> None:
    if not hasattr(network, "matching"):
        network.add_module("matching", nn.ModuleDict().train(network.training))
    assert isinstance(network.matching, nn.ModuleDict)
    network.matching[name] = matching.train(network.training)
    layer.register_forward_hook(matching.hook)
