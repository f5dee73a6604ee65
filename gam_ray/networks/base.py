"""What a network must offer to be adapted, and the table of known networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor, nn


class MatchableNetwork(nn.Module, ABC):
    """A classifier whose activations can be matched layer by layer.

    Attributes:
        layers: Name → submodule, in the order of the forward pass. The output of that
            submodule is the layer's activation: [N, K] or [N, K, H, W], channels second.
            The last entry gives the logits.
        features: Name of the layer whose activations describe an image in a few hundred
            numbers, for scores that cluster; usually the last but one.
    """

    features: str

    @property
    @abstractmethod
    def layers(self) -> dict[str, nn.Module]:
        """Name → submodule, in the order of the forward pass."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of float images [N, C, H, W] in [0, 1]."""


NetworkBuilder = Callable[[int, int], MatchableNetwork]
_BUILDERS: dict[str, NetworkBuilder] = {}


def register_network(name: str) -> Callable[[NetworkBuilder], NetworkBuilder]:
    """Decorator: make a builder ``(in_channels, classes) -> network`` known as `name`.

    Raises:
        ValueError: If another builder has the name already.
    """

    def register(builder: NetworkBuilder) -> NetworkBuilder:
        if _BUILDERS.get(name, builder) is not builder:
            raise ValueError(f"the network name {name!r} is taken; choose another")
        _BUILDERS[name] = builder
        return builder

    return register


def network_names() -> tuple[str, ...]:
    """All known names, sorted."""
    return tuple(sorted(_BUILDERS))


def build_network(name: str, *, in_channels: int, classes: int) -> MatchableNetwork:
    """A new network with fresh weights, drawn from torch's global generator.

    Raises:
        ValueError: If no network has the name.
    """
    if name not in _BUILDERS:
        nearest = get_close_matches(name, _BUILDERS, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown network {name!r}; {hint}known: {', '.join(network_names())}")
    return _BUILDERS[name](in_channels, classes)
