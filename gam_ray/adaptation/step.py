"""One step of general activation matching, Eq. 3 of the paper.

The target network minimises ``‖θs − θt‖² + Σ_i λ_i J(P(A_i^s), P(A_i^t))``, where J is judged
by one discriminator a layer (Eq. 3 has one λ, the authors' digits code one a layer); both players
step together, each against the other as it was before the step, as in that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from gam_ray.adaptation.collectives import sum_over_workers, world_size
from gam_ray.adaptation.discriminators import Discriminators
from gam_ray.adaptation.objectives import ADVERSARIAL_LOSSES, drift
from gam_ray.adaptation.taps import TappedNetwork

# A discriminator's loss below this is as good as none; it keeps ratios finite.
SMALLEST_LOSS = 1e-12


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
        weights: Layer name → λ_i of its adversarial loss, at least 0, for every chosen layer.
            Both players' shares of J_i have this weight, as in the authors' code.
        adversary: A key of `ADVERSARIAL_LOSSES`: ``gan``, ``inverted`` or ``lsgan``.
        drift_weight: Weight of the drift; 1 is Eq. 3, 0 leaves it out.
        drift_reduction: ``sum`` (Eq. 3) or ``mean``; see `objectives.drift`.
    """

    def __init__(
        self,
        players: Players,
        *,
        weights: Mapping[str, float],
        adversary: str,
        drift_weight: float,
        drift_reduction: str = "sum",
    ) -> None:
        self._players = players
        self._weights = dict(weights)
        self._drift_weight = drift_weight
        self._drift_reduction = drift_reduction
        self._loss = ADVERSARIAL_LOSSES[adversary]
        self._source = TappedNetwork(players.source, players.source_layers)
        tapped = TappedNetwork(players.target, players.target_layers)
        # Without drift, parameters behind the last chosen layer get no gradient.
        self._target = _data_parallel(tapped, find_unused_parameters=drift_weight == 0)
        self._discriminators = _data_parallel(players.discriminators, find_unused_parameters=False)

    def step(
        self, source: Tensor | Mapping[str, Tensor], target_images: Tensor
    ) -> dict[str, Tensor]:
        """Step both players once.

        Args:
            source: This worker's share of source images, float [N, C, H, W]; or what
                `source_activations` gives of them.
            target_images: As many target images.

        Returns:
            What the step saw, as scalars of this worker, detached: ``loss/target``,
            ``loss/drift``, ``gradient_norm/target``, and for each layer L
            ``loss/discriminator/L``, ``loss/adversarial/L`` (both without λ),
            ``gradient_norm/L`` of its discriminator (λ as well), and ``accuracy/source/L`` and
            ``accuracy/target/L``, the shares of activations that it placed right.
        """
        players = self._players
        if isinstance(source, Tensor):
            source = self.source_activations(source)
        target = self._target(target_images)
        discriminator_losses, health = self._judge(source, target)
        target_loss, adversarial = self._target_loss(target)
        players.target_optimizer.zero_grad(set_to_none=True)
        players.discriminator_optimizer.zero_grad(set_to_none=True)
        judging_loss = self._weighted(discriminator_losses)
        torch.autograd.backward([judging_loss, target_loss])
        norms = self._gradient_norms()
        players.discriminator_optimizer.step()
        players.target_optimizer.step()
        seen = {**health, **adversarial, **norms}
        return {name: value.detach() for name, value in seen.items()}

    @torch.no_grad()
    def source_activations(self, images: Tensor) -> dict[str, Tensor]:
        """Chosen layer name → activation of the source network on images [N, C, H, W]."""
        activations: dict[str, Tensor] = self._source(images)
        return activations

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()

    def _gradient_norms(self) -> dict[str, Tensor]:
        """Length of each player's gradient over all its parameters."""
        modules = {"target": self._players.target, **self._players.discriminators.by_layer}
        return {
            f"gradient_norm/{name}": get_total_norm(
                [p.grad for p in module.parameters() if p.grad is not None]
            )
            for name, module in modules.items()
        }

    def _judge(
        self, source: Mapping[str, Tensor], target: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        both = {name: torch.cat([source[name], target[name].detach()]) for name in target}
        losses, health = {}, {}
        for name, logits in self._discriminators(both).items():
            on_source, on_target = logits.chunk(2)
            losses[name] = self._loss.discriminator(on_source, on_target)
            health[f"loss/discriminator/{name}"] = losses[name]
            for side, right in (
                ("source", self._loss.says_source(on_source)),
                ("target", ~self._loss.says_source(on_target)),
            ):
                health[f"accuracy/{side}/{name}"] = right.float().mean()
        return losses, health

    def _target_loss(self, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        players = self._players
        # Detached parameters: the target's loss must leave no gradient on its judges.
        judges = {name: value.detach() for name, value in players.discriminators.named_parameters()}
        logits = functional_call(players.discriminators, judges, (target,))
        losses = {name: self._loss.target(value) for name, value in logits.items()}
        total = self._weighted(losses)
        distance = drift(
            players.source.parameters(),
            players.target.parameters(),
            reduction=self._drift_reduction,
        )
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

    def means(self) -> dict[str, float]:
        """The means since the last `take`, over all workers."""
        if not self._steps:
            return {}
        totals = torch.stack([value.double() for value in self._sums.values()])
        means = sum_over_workers(totals) / (world_size() * self._steps)
        return dict(zip(self._sums, means.tolist(), strict=True))

    def take(self) -> dict[str, float]:
        """`means`, after which the meter starts anew."""
        means = self.means()
        self._sums, self._steps = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """Sums over all workers since the last `take`; all workers call it together."""
        sums = {name: sum_over_workers(value.clone()) for name, value in self._sums.items()}
        return {"steps": self._steps, "sums": sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with any number of workers."""
        self._steps = state["steps"]
        self._sums = {name: value / world_size() for name, value in state["sums"].items()}


def loss_ratios(means: Mapping[str, float]) -> dict[str, float]:
    """``loss_ratio/L`` of each layer: its adversarial loss by its discriminator's.

    1 where the discriminator cannot tell the domains apart; the more it wins, the larger.

    Args:
        means: Of what steps returned.
    """
    prefix = "loss/discriminator/"
    layers = [name.removeprefix(prefix) for name in means if name.startswith(prefix)]
    return {
        f"loss_ratio/{layer}": means[f"loss/adversarial/{layer}"]
        / max(means[f"{prefix}{layer}"], SMALLEST_LOSS)
        for layer in layers
    }


def _data_parallel(module: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )
