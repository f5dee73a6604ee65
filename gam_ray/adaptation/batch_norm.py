"""BatchNorm over all workers, and its adaptation to another domain (AdaBN).

AdaBN (Li, Wang, Shi, Liu and Hou 2016) is what Gaussian matching becomes where a layer is
normalised already: the statistics of the target domain take the place of the source's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gam_ray.adaptation.collectives import sum_over_workers, world_size
from gam_ray.adaptation.modes import evaluating


class SharedBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all workers, differentiable, for any backend.

    torch's own SyncBatchNorm works on GPUs only. With one worker it is torch's BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's signature
        if input.dim() < 2:
            raise ValueError(f"BatchNorm takes [N, K, …], but got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalised [N, K, …]."""
        kept = self.running_mean
        if world_size() == 1 or not (self.training or kept is None):
            normalised: Tensor = super().forward(input)
            return normalised
        centre = input.new_zeros(input.shape[1]) if kept is None else kept
        mean, variance, count = batch_moments(input, centre)
        if kept is not None:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        shape = (1, -1) + (1,) * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return input * scale.view(shape) + shift.view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch does; a momentum of None averages them all."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def batch_moments(activation: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance [K] of a batch over all workers, differentiable, and its size.

    One reduction for all; sums around `centre` [K], a value near the mean that all workers
    share, lose no digits. The variance is the population's (divided by n).

    Args:
        activation: This worker's [N, K, …]; N may differ between workers, and be 0.
        centre: [K].
    """
    values = channels_last(activation) - centre
    count = values.new_full((1,), len(values))
    sums = sum_over_workers(torch.cat([values.sum(0), values.square().sum(0), count]))
    channels = len(centre)
    total = sums[-1].detach()
    first, second = sums[:channels] / total, sums[channels:-1] / total
    return centre + first, (second - first.square()).clamp(min=0), total


def channels_last(activation: Tensor) -> Tensor:
    """[N, K, …] → [N·…, K]."""
    return activation.movedim(1, -1).reshape(-1, activation.shape[1])


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms of a network that keep running statistics, in the order of its modules."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def share_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm a `SharedBatchNorm`, in place; its state and its name stay.

    Look layers up by name afterwards: a layer that was a BatchNorm itself is a new module.
    """
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, _BatchNorm) and not isinstance(module, SharedBatchNorm):
                setattr(parent, name, _shared(module))


def _shared(module: _BatchNorm) -> SharedBatchNorm:
    shared = SharedBatchNorm(
        module.num_features,
        module.eps,
        module.momentum,
        module.affine,
        module.track_running_stats,
    )
    # The same tensors, so that optimizers that hold them go on.
    shared._parameters, shared._buffers = module._parameters, module._buffers  # noqa: SLF001
    return shared.train(module.training)


@torch.no_grad()
def adapt_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """AdaBN: give every BatchNorm the statistics of `batches`, each batch counting alike.

    The running statistics start anew and average over the whole pass (``momentum=None``): a
    momentum over a few batches would leave a part of the initial variance 1, which swamps the
    small variances. Each BatchNorm sees activations that the ones before it normalised by
    the batch; dropout is off.

    Args:
        network: Changed in place; training modes and momenta are restored.
        batches: This worker's shares of float images [N, C, H, W]; the same number of batches
            on all workers.
    """
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for images in batches:
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
