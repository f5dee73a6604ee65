"""What the two players minimise: the adversarial losses and the drift."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

from gam_ray.adaptation.pieces import piece_size, pieces_of


class AdversarialLoss(Protocol):
    """An estimate of the divergence between source and target activations, for two players.

    Discriminators give logits [N, outputs] or [N, outputs, h, w].
    """

    outputs: int

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """The discriminator's loss, from its logits on both domains; a scalar."""

    def target(self, target: Tensor) -> Tensor:
        """The target network's loss, from the logits on its activations; a scalar."""

    def says_source(self, logits: Tensor) -> Tensor:
        """Whether each activation, or place of a map, is taken for a source's."""


class GANLoss:
    """Goodfellow et al. 2014, with the non-saturating loss for the target network."""

    outputs = 1

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """½ (−log D(source) − log(1 − D(target))), D the sigmoid of the logits."""
        return (softplus(-source).mean() + softplus(target).mean()) / 2

    def target(self, target: Tensor) -> Tensor:
        """−log D(target)."""
        return softplus(-target).mean()

    def says_source(self, logits: Tensor) -> Tensor:
        """D > ½."""
        return logits > 0


class InvertedLabelsLoss:
    """The authors' digits code: two outputs (target, source), cross-entropy, labels inverted.

    With d the difference of the two outputs this is `GANLoss` of d. It learns otherwise: each
    output has weights of its own, so that d moves about twice as far in one step of Adam.
    """

    outputs = 2

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of both halves of the batch with their true labels."""
        return (_cross_entropy(source, label=1) + _cross_entropy(target, label=0)) / 2

    def target(self, target: Tensor) -> Tensor:
        """Cross-entropy of target activations with the source's label."""
        return _cross_entropy(target, label=1)

    def says_source(self, logits: Tensor) -> Tensor:
        """The second output is the larger one."""
        return logits[:, 1] > logits[:, 0]


class LeastSquaresLoss:
    """LSGAN, Mao et al. 2017, with labels 1 for source and 0 for target."""

    outputs = 1

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """½ ((D(source) − 1)² + D(target)²), D the raw output."""
        return ((source - 1).square().mean() + target.square().mean()) / 2

    def target(self, target: Tensor) -> Tensor:
        """(D(target) − 1)²."""
        return (target - 1).square().mean()

    def says_source(self, logits: Tensor) -> Tensor:
        """D > ½."""
        return logits > 0.5


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "gan": GANLoss(),
    "inverted": InvertedLabelsLoss(),
    "lsgan": LeastSquaresLoss(),
}


def _cross_entropy(logits: Tensor, *, label: int) -> Tensor:
    return -log_softmax(logits, dim=1)[:, label].mean()


class Drift:
    """How far the target network's parameters are from the source's, and the way back.

    The gradient is written out, with operations on lists: a GPU needs a few kernels however many
    tensors there are, and waits for none of them in its backward pass.

    Args:
        source: θs, tensor by tensor.
        target: θt, in the same order.
        reduction: ``sum`` of squared differences over all parameters, the ‖θs − θt‖² of Eq. 3;
            or ``mean``: the sum over tensors of each one's mean, as the authors' digits code.
        weight: Of the distance in what the target network minimises.

    Attributes:
        learners: Those of θt that are not frozen. The others count for nothing.
    """

    def __init__(
        self,
        source: Iterable[Tensor],
        target: Iterable[Tensor],
        *,
        reduction: str,
        weight: float,
    ) -> None:
        pairs = [pair for pair in zip(source, target, strict=True) if pair[1].requires_grad]
        self._sources = [one for one, _ in pairs]
        self.learners = [other for _, other in pairs]
        self._is_mean = reduction == "mean"
        self._shares = [self._share(each, weight) for each in self.learners]

    def _share(self, parameter: Tensor, weight: float) -> float:
        """Of θt − θs in the gradient, rounded as the parameter's numbers are."""
        exact = torch.tensor(weight, dtype=parameter.dtype)
        return 2 * float(exact / parameter.numel() if self._is_mean else exact)

    @torch.no_grad()
    def __call__(self) -> tuple[Tensor, Sequence[Tensor]]:
        """The distance, without its weight; and its gradient, with it, for each of `learners`."""
        differences = torch._foreach_sub(self.learners, self._sources)  # noqa: SLF001 - torch's name
        gradient = torch._foreach_mul(differences, self._shares)  # noqa: SLF001
        return self._distance(differences), gradient

    def _distance(self, differences: Sequence[Tensor]) -> Tensor:
        size = piece_size(differences)
        parts = [pieces_of(each, size) for each in differences]
        norms = torch._foreach_norm([part for each in parts for part in each])  # noqa: SLF001
        if self._is_mean:
            roots = [each.numel() ** 0.5 for each in differences]
            spread = [root for root, own in zip(roots, parts, strict=True) for _ in own]
            norms = torch._foreach_div(norms, spread)  # noqa: SLF001
        return torch.stack(norms).square().sum()
