"""What the two players minimise: the adversarial losses and the drift."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus


class AdversarialLoss(Protocol):
    """An estimate of the divergence between source and target activations, for two players."""

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """The discriminator's loss, from its logits on both domains; a scalar."""

    def target(self, target: Tensor) -> Tensor:
        """The target network's loss, from the logits on its activations; a scalar."""


class GANLoss:
    """Goodfellow et al. 2014, with the non-saturating loss for the target network.

    The discriminator's loss is the cross-entropy over both halves of the batch; the target
    network's is the cross-entropy with inverted labels, as in the authors' digits code.
    """

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """½ (−log D(source) − log(1 − D(target))), D the sigmoid of the logits."""
        return (softplus(-source).mean() + softplus(target).mean()) / 2

    def target(self, target: Tensor) -> Tensor:
        """−log D(target)."""
        return softplus(-target).mean()


class LeastSquaresLoss:
    """LSGAN, Mao et al. 2017, with labels 1 for source and 0 for target."""

    def discriminator(self, source: Tensor, target: Tensor) -> Tensor:
        """½ ((D(source) − 1)² + D(target)²), D the raw output."""
        return ((source - 1).square().mean() + target.square().mean()) / 2

    def target(self, target: Tensor) -> Tensor:
        """(D(target) − 1)²."""
        return (target - 1).square().mean()


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {"gan": GANLoss(), "lsgan": LeastSquaresLoss()}
# Logit above which a discriminator says "source".
DECISION_BOUNDARY = {"gan": 0.0, "lsgan": 0.5}


def drift(source: Iterable[Tensor], target: Iterable[Tensor]) -> Tensor:
    """‖θs − θt‖² of Eq. 3: the sum of squared differences over all parameters; a scalar."""
    distances = [(t - s).square().sum() for s, t in zip(source, target, strict=True)]
    return torch.stack(distances).sum()
