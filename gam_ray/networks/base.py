"""What a network must offer to be adapted, and the table of known networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Literal

from torch import Tensor, nn


class MatchableNetwork(nn.Module, ABC):
    """A classifier of images or pixels whose activations can be matched layer by layer.

    Forward hooks on the layers read their outputs and may replace them: what a hook returns is
    what every later layer sees, so nothing goes past a layer, and no layer changes its inputs
    in place.

    Attributes:
        layers: Name → submodule, in the order of the forward pass. The output of that
            submodule is the layer's activation: [N, K] or [N, K, H, W], channels second.
            The last entry gives the logits.
        features: Name of the layer whose activations describe an image, or each place of it,
            in some hundreds of numbers, for scores that cluster; usually the last before the
            logits.
        stride: None for a classifier of images. For one of pixels, how many pixels of the
            image a logit stands for, in each direction; 1 is full resolution.
        multiple: What the sides of images must be multiples of, in a network with a `stride`; one
            without takes a single size.
        is_chain: Whether `forward` is its layers, each called with what the one before gave; some
            work is then done once for all of them.
    """

    features: str
    stride: int | None = None
    multiple: int = 1
    is_chain: bool = False

    @property
    @abstractmethod
    def layers(self) -> dict[str, nn.Module]:
        """Name → submodule, in the order of the forward pass."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits of float images [N, C, H, W] in [0, 1].

        Returns:
            [N, classes], or with a `stride` [N, classes, H / stride, W / stride].
        """


def require_multiples(network: str, images: Tensor, multiple: int) -> None:
    """Refuse images [N, C, H, W] whose sides are not multiples of `multiple`.

    Raises:
        ValueError: With the rule, the sides, and sides near them that do.
    """
    sides = images.shape[-2:]
    if any(side % multiple or not side for side in sides):
        nearest = [max(1, round(side / multiple)) * multiple for side in sides]
        raise ValueError(
            f"{network} takes images whose sides are multiples of {multiple}, but got "
            f"{_size(sides)}; resize or crop them, for instance to {_size(nearest)}"
        )


def _size(sides: Sequence[int]) -> str:
    return "×".join(str(side) for side in sides)


NetworkWeights = Literal["random", "imagenet"]
NetworkBuilder = Callable[[int, int], MatchableNetwork]
_BUILDERS: dict[str, NetworkBuilder] = {}
_IMAGENET_BUILDERS: dict[str, NetworkBuilder] = {}


def register_network(
    name: str, *, imagenet: NetworkBuilder | None = None
) -> Callable[[NetworkBuilder], NetworkBuilder]:
    """Decorator: make a builder ``(in_channels, classes) -> network`` known as `name`.

    Args:
        name: What users write.
        imagenet: Another such builder, whose network comes with weights trained on ImageNet.

    Raises:
        ValueError: If another builder has the name already.
    """

    def register(builder: NetworkBuilder) -> NetworkBuilder:
        if _BUILDERS.get(name, builder) is not builder:
            raise ValueError(f"the network name {name!r} is taken; choose another")
        _BUILDERS[name] = builder
        if imagenet is not None:
            _IMAGENET_BUILDERS[name] = imagenet
        return builder

    return register


def network_names() -> tuple[str, ...]:
    """All known names, sorted."""
    return tuple(sorted(_BUILDERS))


def build_network(
    name: str, *, in_channels: int, classes: int, weights: NetworkWeights = "random"
) -> MatchableNetwork:
    """A new network.

    Args:
        name: One of `network_names`.
        in_channels: Of the images.
        classes: How many logits an image, or a pixel, gets.
        weights: ``random`` draws all of them from torch's global generator; ``imagenet`` only
            those of layers that the network trained on ImageNet has not, and downloads the
            others once.

    Raises:
        ValueError: If no network has the name, or it has no such weights.
        WeightsUnavailableError: If weights could not be downloaded.
    """
    if name not in _BUILDERS:
        nearest = get_close_matches(name, _BUILDERS, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown network {name!r}; {hint}known: {', '.join(network_names())}")
    if weights == "random":
        return _BUILDERS[name](in_channels, classes)
    if weights != "imagenet":
        raise ValueError(f"unknown weights {weights!r}; known: random, imagenet")
    if name not in _IMAGENET_BUILDERS:
        raise ValueError(
            f"{name} has no imagenet weights; take weights='random', or a network that has: "
            f"{', '.join(sorted(_IMAGENET_BUILDERS))}"
        )
    return _IMAGENET_BUILDERS[name](in_channels, classes)


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights could not be downloaded or read."""
