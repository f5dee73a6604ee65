"""One step of general activation matching, Eq. 3 of the paper.

The target network minimises ``‖θs − θt‖² + Σ_i λ_i J(P(A_i^s), P(A_i^t))``, where J is judged
by one discriminator a layer (Eq. 3 has one λ, the authors' digits code one a layer); both players
step together, each against the other as it was before the step, as in that code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from gam_ray.adaptation.pieces import pieces
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
        precision: Of the networks' passes, forward and back. In ``bfloat16``, by torch's autocast,
            parameters, losses and both optimizers stay in float32.
    """

    def __init__(
        self,
        players: Players,
        *,
        weights: Mapping[str, float],
        adversary: str,
        drift_weight: float,
        drift_reduction: str = "sum",
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._players = players
        self._device = next(players.target.parameters()).device
        self._precision = precision
        self._weights = dict(weights)
        self._drift_weight = drift_weight
        self._drift_reduction = drift_reduction
        self._loss = ADVERSARIAL_LOSSES[adversary]
        self._source = TappedNetwork(players.source, players.source_layers)
        tapped = TappedNetwork(players.target, players.target_layers)
        # Without drift, parameters behind the last chosen layer get no gradient.
        self._target = _data_parallel(tapped, find_unused_parameters=drift_weight == 0)
        self._discriminators = _data_parallel(players.discriminators, find_unused_parameters=False)
        self._side = _side_stream(self._device)

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
        with self._in_precision():
            target = self._target(target_images)
        # Neither half needs anything of the other's.
        with self._beside():
            judged = self._train_discriminators(source, target)
        adapted = self._train_target(target)
        self._meet()
        players.discriminator_optimizer.step()
        players.target_optimizer.step()
        return {name: value.detach() for name, value in {**judged, **adapted}.items()}

    @torch.no_grad()
    def source_activations(self, images: Tensor) -> dict[str, Tensor]:
        """Chosen layer name → activation of the source network on images [N, C, H, W]."""
        with self._in_precision():
            activations: dict[str, Tensor] = self._source(images)
        return activations

    def _in_precision(self) -> torch.autocast:
        return torch.autocast(
            self._device.type, self._precision, enabled=self._precision != torch.float32
        )

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On a GPU, work on a stream of its own, from where the current one is."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            yield

    def _meet(self) -> None:
        """Go on when what was done `_beside` is done as well."""
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._side)

    def _train_discriminators(
        self, source: Mapping[str, Tensor], target: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Their gradients; what was seen."""
        players = self._players
        losses, health = self._judge(source, target)
        players.discriminator_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._weighted(losses))
        return {**health, **_gradient_norms(dict(players.discriminators.by_layer.items()))}

    def _train_target(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its gradients; what was seen."""
        players = self._players
        loss, health = self._target_loss(target)
        players.target_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        return {**health, **_gradient_norms({"target": players.target})}

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[name] * loss for name, loss in losses.items()]).sum()

    def _judge(
        self, source: Mapping[str, Tensor], target: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        both = {name: torch.cat([source[name], target[name].detach()]) for name in target}
        losses, health = {}, {}
        with self._in_precision():
            judged = self._discriminators(both)
        for name, logits in judged.items():
            on_source, on_target = _widened(logits).chunk(2)
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
        with self._in_precision():
            logits = functional_call(players.discriminators, judges, (target,))
        losses = {name: self._loss.target(_widened(value)) for name, value in logits.items()}
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
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count in one step's scalars; the same names at every step."""
        newest = torch.stack(list(values.values()))
        self._names = tuple(values)
        self._sums = newest if self._sums is None else self._sums + newest
        self._steps += 1

    def means(self) -> dict[str, float]:
        """The means since the last `take`, over all workers."""
        if self._sums is None:
            return {}
        means = sum_over_workers(self._sums.double()) / (world_size() * self._steps)
        return dict(zip(self._names, means.tolist(), strict=True))

    def take(self) -> dict[str, float]:
        """`means`, after which the meter starts anew."""
        means = self.means()
        self._sums, self._steps = None, 0
        return means

    def state(self) -> dict[str, Any]:
        """Sums over all workers since the last `take`; all workers call it together."""
        sums = [] if self._sums is None else sum_over_workers(self._sums).unbind()
        named = {name: value.clone() for name, value in zip(self._names, sums, strict=False)}
        return {"steps": self._steps, "sums": named}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with any number of workers."""
        self._steps = state["steps"]
        sums = state["sums"]
        self._names = tuple(sums)
        self._sums = torch.stack(list(sums.values())) / world_size() if sums else None


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


def _widened(logits: Tensor) -> Tensor:
    """At least float32: losses are means of differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _gradient_norms(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """``gradient_norm/NAME`` of each: the length of its gradient over all parameters."""
    found = {}
    for name, module in modules.items():
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        found[f"gradient_norm/{name}"] = get_total_norm(pieces(gradients))
    return found


def _side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the current one; None on CPUs, and with workers, whose sums are in turn."""
    if device.type != "cuda" or world_size() > 1:
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _data_parallel(module: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )
