"""One step of general activation matching, Eq. 3 of the paper.

The target network minimises ``‖θs − θt‖² + Σ_i λ_i J(P(A_i^s), P(A_i^t))``, where J is judged
by one discriminator a layer (Eq. 3 has one λ, the authors' digits code one a layer); both players
step together, each against the other as it was before the step, as in that code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from gam_ray.adaptation.collectives import sum_over_workers, world_size
from gam_ray.adaptation.discriminators import Discriminators
from gam_ray.adaptation.modes import in_precision
from gam_ray.adaptation.objectives import ADVERSARIAL_LOSSES, Drift
from gam_ray.adaptation.pieces import add_to_gradients, pieces
from gam_ray.adaptation.streams import Streams
from gam_ray.adaptation.taps import TappedNetwork

# A discriminator's loss below this is as good as none; it keeps ratios finite.
SMALLEST_LOSS = 1e-12
# Streams of a step: of what the discriminators do together, of the source network, of the target
# network's drift and norm; then one that judges each layer, and one that fools its judge.
_DISCRIMINATORS, _SOURCE, _TARGET, _FIRST_LAYER = range(4)
# Images, activations, or what gives these, which is called beside the target network's pass.
Source = Tensor | Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]


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
        drift_reduction: ``sum`` (Eq. 3) or ``mean``; see `objectives.Drift`.
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
        device = next(players.target.parameters()).device
        self._in_precision = partial(in_precision, device, precision)
        self._weights = dict(weights)
        self._drift_weight = drift_weight
        self._drift = Drift(
            players.source.parameters(),
            players.target.parameters(),
            reduction=drift_reduction,
            weight=drift_weight,
        )
        self._loss = ADVERSARIAL_LOSSES[adversary]
        self._source = TappedNetwork(players.source, players.source_layers)
        tapped = TappedNetwork(players.target, players.target_layers)
        # Without drift, parameters behind the last chosen layer get no gradient.
        self._target = _data_parallel(tapped, find_unused_parameters=drift_weight == 0)
        self._discriminators = _data_parallel(players.discriminators, find_unused_parameters=False)
        names = tuple(players.target_layers)
        # Workers add up all discriminators' gradients together, and in turn with the target's.
        self._is_alone = world_size() == 1
        self._groups = tuple((name,) for name in names) if self._is_alone else (names,)
        count = len(self._groups)
        self._judging = range(_FIRST_LAYER, _FIRST_LAYER + count)
        self._fooling = range(_FIRST_LAYER + count, _FIRST_LAYER + 2 * count)
        self._streams = Streams(device, "step", self._fooling.stop if self._is_alone else 0)

    def step(self, source: Source, target_images: Tensor) -> dict[str, Tensor]:
        """Step both players once.

        Args:
            source: This worker's share of source images, float [N, C, H, W]; or what
                `source_activations` gives of them, or a function that gives it.
            target_images: As many target images.

        Returns:
            What the step saw, as scalars of this worker, detached: ``loss/target``,
            ``loss/drift``, ``gradient_norm/target``, and for each layer L
            ``loss/discriminator/L``, ``loss/adversarial/L`` (both without λ),
            ``gradient_norm/L`` of its discriminator (λ as well), and ``accuracy/source/L`` and
            ``accuracy/target/L``, the shares of activations that it placed right.
        """
        players, streams = self._players, self._streams
        with streams.beside(_SOURCE):
            real = self._activations(source)
        with self._in_precision():
            target = self._target(target_images)
        for optimizer in (players.discriminator_optimizer, players.target_optimizer):
            optimizer.zero_grad(set_to_none=True)
        with streams.beside(_TARGET):
            distance, back = self._drift()
        # Neither player's gradient needs anything of the other's.
        judged = self._judge(real, target)
        losses, pulls = self._fool(target)
        streams.meet(_TARGET, *self._fooling)
        # From here on the target's gradient needs no discriminator any more, so that they may step.
        with streams.beside(_DISCRIMINATORS):
            streams.meet(*self._judging)
            norms = self._norms(players.discriminators.by_layer)
            players.discriminator_optimizer.step()
            total = self._total(losses, distance)
        self._backward(target, pulls, back)
        with streams.beside(_TARGET):
            norms |= self._norms({"target": players.target})
        players.target_optimizer.step()
        streams.meet()
        adversarial = {f"loss/adversarial/{name}": loss for name, loss in losses.items()}
        return {
            **judged,
            **adversarial,
            "loss/drift": distance,
            "loss/target": total,
            **norms,
        }

    @torch.no_grad()
    def source_activations(self, images: Tensor) -> dict[str, Tensor]:
        """Chosen layer name → activation of the source network on images [N, C, H, W]."""
        with self._in_precision():
            activations: dict[str, Tensor] = self._source(images)
        return activations

    def _activations(self, source: Source) -> Mapping[str, Tensor]:
        if isinstance(source, Tensor):
            return self.source_activations(source)
        return source() if callable(source) else source

    def _judge(self, source: Mapping[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make the discriminators' gradients; what was seen."""
        health: dict[str, Tensor] = {}
        for number, group in zip(self._judging, self._groups, strict=True):
            with self._streams.beside(number):
                self._streams.meet(_SOURCE)
                both = {name: torch.cat([source[name], target[name].detach()]) for name in group}
                with self._in_precision():
                    judged = self._discriminators(both)
                losses = {
                    name: self._judgement(name, _widened(logits), health)
                    for name, logits in judged.items()
                }
                torch.autograd.backward(self._weighted(losses))
        return {name: value.detach() for name, value in health.items()}

    def _judgement(self, name: str, logits: Tensor, health: dict[str, Tensor]) -> Tensor:
        """A discriminator's loss; what else is seen goes into `health`."""
        on_source, on_target = logits.chunk(2)
        loss = self._loss.discriminator(on_source, on_target)
        health[f"loss/discriminator/{name}"] = loss
        for side, right in (
            ("source", self._loss.says_source(on_source)),
            ("target", ~self._loss.says_source(on_target)),
        ):
            health[f"accuracy/{side}/{name}"] = right.mean(dtype=torch.float32)
        return loss

    def _fool(self, target: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Layer name → the target network's loss, without λ; and λ ∂J/∂A of each activation."""
        losses: dict[str, Tensor] = {}
        pulls: list[Tensor] = []
        for number, group in zip(self._fooling, self._groups, strict=True):
            with self._streams.beside(number):
                seen = {name: target[name].detach().requires_grad_() for name in group}
                own = {name: self._fooled(name, activation) for name, activation in seen.items()}
                torch.autograd.backward(self._weighted(own))
                pulls += [_gradient(activation) for activation in seen.values()]
                losses |= {name: loss.detach() for name, loss in own.items()}
        return losses, pulls

    def _fooled(self, name: str, activation: Tensor) -> Tensor:
        """The target network's loss at a layer."""
        judge = self._players.discriminators.by_layer[name]
        # Detached parameters: the target's loss must leave no gradient on its judges.
        held = {key: value.detach() for key, value in judge.named_parameters()}
        with self._in_precision():
            logits = functional_call(judge, held, (activation,))
        return self._loss.target(_widened(logits))

    def _backward(
        self, target: Mapping[str, Tensor], pulls: Sequence[Tensor], back: Sequence[Tensor]
    ) -> None:
        """Make the target network's gradients, from those of its activations and of the drift."""
        known = [*pulls]
        values = list(target.values())
        is_drifting = self._drift_weight > 0
        if is_drifting and not self._is_alone:
            # Workers wait for a gradient of every parameter, of those behind the layers as well.
            values, known = [*values, *self._drift.learners], [*known, *back]
        torch.autograd.backward(_Known.apply(known, *values))
        if is_drifting and self._is_alone:
            add_to_gradients(self._drift.learners, back)

    def _weighted(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        return [self._weights[name] * loss for name, loss in losses.items()]

    def _total(self, losses: Mapping[str, Tensor], distance: Tensor) -> Tensor:
        """What the target network minimises."""
        total = torch.stack(self._weighted(losses)).sum()
        return total + self._drift_weight * distance if self._drift_weight > 0 else total

    def _norms(self, modules: Mapping[str, nn.Module] | nn.ModuleDict) -> dict[str, Tensor]:
        """Length of each player's gradient over all its parameters."""
        return {
            f"gradient_norm/{name}": get_total_norm(
                pieces([p.grad for p in module.parameters() if p.grad is not None])
            )
            for name, module in modules.items()
        }


class HealthMeter:
    """Means of scalars over steps and workers, without a host synchronisation a step.

    All that it counts is in one tensor, changed in place, so that `add` can be part of a captured
    step.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        # Of each name over the steps, and last the steps themselves.
        self._sums: Tensor | None = None

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count in one step's scalars; the same names at every step until the next `take`."""
        scalars = list(values.values())
        newest = torch.stack([*scalars, torch.ones_like(scalars[0])])
        if self._sums is None or self._names != tuple(values):
            self._names, self._sums = tuple(values), torch.zeros_like(newest)
        self._sums += newest

    def means(self) -> dict[str, float]:
        """The means since the last `take`, over all workers."""
        if self._sums is None:
            return {}
        *sums, steps = sum_over_workers(self._sums.double()).tolist()
        return {name: value / steps for name, value in zip(self._names, sums, strict=True) if steps}

    def take(self) -> dict[str, float]:
        """`means`, after which the meter starts anew."""
        means = self.means()
        if self._sums is not None:
            self._sums.zero_()
        return means

    def state(self) -> dict[str, Any]:
        """Sums over all workers since the last `take`; all workers call it together."""
        if self._sums is None:
            return {"steps": 0, "sums": {}}
        *sums, steps = sum_over_workers(self._sums).unbind()
        named = {name: value.clone() for name, value in zip(self._names, sums, strict=True)}
        return {"steps": round(float(steps) / world_size()), "sums": named if steps else {}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with any number of workers."""
        if not state["sums"]:
            return
        sums, steps = state["sums"], state["steps"]
        self._names = tuple(sums)
        shares = torch.stack(list(sums.values())) / world_size()
        self._sums = torch.cat([shares, shares.new_tensor([steps])])


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


class _Known(torch.autograd.Function):
    """A scalar from which gradients go back that are known already.

    torch takes such gradients itself, too, but imports sympy when it does: a second of a core in
    every worker.
    """

    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *values: Tensor) -> Tensor:
        ctx.gradients = gradients
        return values[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


def _gradient(activation: Tensor) -> Tensor:
    assert activation.grad is not None, "its judge has looked at it"
    return activation.grad


def _widened(logits: Tensor) -> Tensor:
    """At least float32: losses are means of differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _data_parallel(module: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )
