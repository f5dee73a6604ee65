"""One step of general activation matching, Eq. 3 of the paper.

The target network minimises ``‖θs − θt‖² + λ Σ_i J(P(A_i^s), P(A_i^t))``, where J is judged
by one discriminator a layer; both players step together, each against the other as it was
before the step, as in the authors' digits code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from gam_ray.adaptation.collectives import sum_over_workers, world_size
from gam_ray.adaptation.discriminators import Discriminators
from gam_ray.adaptation.objectives import ADVERSARIAL_LOSSES, DECISION_BOUNDARY, drift
from gam_ray.adaptation.taps import TappedNetwork


@dataclass(frozen=True)
class Players:
    """The networks of general matching and the optimizers of the two that learn.

    Attributes:
        source: Frozen network; its parameters pair with the target's in order.
        target: The network that adapts, matchings inserted where they are wanted.
        source_layers: Chosen layer name → submodule of `source`.
        target_layers: The same names → submodules of `target`.
        discriminators: One for each of these names.
        target_optimizer: Over the target network's parameters.
        discriminator_optimizer: Over the discriminators' parameters.
    """

    source: nn.Module
    target: nn.Module
    source_layers: Mapping[str, nn.Module]
    target_layers: Mapping[str, nn.Module]
    discriminators: Discriminators
    target_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer


class GeneralMatching:
    """Steps both players; with a process group, data-parallel over its workers.

    N workers on a global batch do the mathematics of one worker on it, when their shares of
    the batch are of equal size: gradients are averaged, and moments are taken over all.

    Args:
        players: What is stepped.
        weight: λ, the weight of each layer's adversarial loss; at least 0.
        adversary: ``gan`` or ``lsgan``.
        drift_weight: Weight of ‖θs − θt‖²; 1 is Eq. 3, 0 leaves it out.
    """

    def __init__(
        self, players: Players, *, weight: float, adversary: str, drift_weight: float
    ) -> None:
        self._players = players
        self._weight = weight
        self._drift_weight = drift_weight
        self._loss = ADVERSARIAL_LOSSES[adversary]
        self._boundary = DECISION_BOUNDARY[adversary]
        self._source = TappedNetwork(players.source, players.source_layers)
        tapped = TappedNetwork(players.target, players.target_layers)
        # Without drift, parameters behind the last chosen layer get no gradient.
        self._target = _data_parallel(tapped, find_unused_parameters=drift_weight == 0)
        self._discriminators = _data_parallel(players.discriminators, find_unused_parameters=False)

    def step(self, source_images: Tensor, target_images: Tensor) -> dict[str, Tensor]:
        """Step both players once.

        Args:
            source_images: This worker's share, float [N, C, H, W].
            target_images: As many target images.

        Returns:
            What the step saw, as scalars of this worker, detached: ``loss/target``,
            ``loss/drift``, and for each layer ``loss/discriminator/L``,
            ``loss/adversarial/L``, ``accuracy/source/L`` and ``accuracy/target/L``, the
            shares of activations that its discriminator placed right.
        """
        players = self._players
        with torch.no_grad():
            source = self._source(source_images)
        target = self._target(target_images)
        discriminator_losses, health = self._judge(source, target)
        target_loss, adversarial = self._target_loss(target)
        players.target_optimizer.zero_grad(set_to_none=True)
        players.discriminator_optimizer.zero_grad(set_to_none=True)
        judging_loss = torch.stack(list(discriminator_losses.values())).sum()
        torch.autograd.backward([judging_loss, target_loss])
        players.discriminator_optimizer.step()
        players.target_optimizer.step()
        return {name: value.detach() for name, value in {**health, **adversarial}.items()}

    def _judge(
        self, source: dict[str, Tensor], target: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        both = {name: torch.cat([source[name], target[name].detach()]) for name in source}
        losses, health = {}, {}
        for name, logits in self._discriminators(both).items():
            on_source, on_target = logits.chunk(2)
            losses[name] = self._loss.discriminator(on_source, on_target)
            health[f"loss/discriminator/{name}"] = losses[name]
            health[f"accuracy/source/{name}"] = (on_source > self._boundary).float().mean()
            health[f"accuracy/target/{name}"] = (on_target <= self._boundary).float().mean()
        return losses, health

    def _target_loss(self, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        players = self._players
        # Detached parameters: the target's loss must leave no gradient on its judges.
        judges = {name: value.detach() for name, value in players.discriminators.named_parameters()}
        logits = functional_call(players.discriminators, judges, (target,))
        losses = {name: self._loss.target(value) for name, value in logits.items()}
        total = self._weight * torch.stack(list(losses.values())).sum()
        distance = drift(players.source.parameters(), players.target.parameters())
        if self._drift_weight > 0:
            total = total + self._drift_weight * distance
        health = {f"loss/adversarial/{name}": value for name, value in losses.items()}
        return total, {**health, "loss/drift": distance, "loss/target": total}


class HealthMeter:
    """Means of scalars over steps and workers, without a host synchronisation a step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count in one step's scalars; the same names at every step."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if self._steps else value
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The means since the last call, over all workers; the meter starts anew."""
        if not self._steps:
            return {}
        totals = torch.stack([value.double() for value in self._sums.values()])
        means = sum_over_workers(totals) / (world_size() * self._steps)
        result = dict(zip(self._sums, means.tolist(), strict=True))
        self._sums, self._steps = {}, 0
        return result


def _data_parallel(module: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )
