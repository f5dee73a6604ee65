"""How networks run for a while: in evaluation mode, in other numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set `network` to evaluation mode, and give every module its own mode back afterwards.

    Not by ``network.train(…)``: a network that adapts is in training with some of its modules
    (BatchNorm, dropout) in evaluation.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def in_precision(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Passes of networks inside it compute in these numbers, by torch's autocast."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)
