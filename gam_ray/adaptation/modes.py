"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
