"""Networks whose layers run one after another."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gam_ray.networks.base import MatchableNetwork, require_multiples


class ChainNetwork(MatchableNetwork):
    """A classifier of pixels whose layers each take what the one before gives.

    Attributes:
        name: As users write it, for messages.
    """

    name: str
    is_chain = True

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._names = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """All of them."""
        return {name: self.get_submodule(name) for name in self._names}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes, H / stride, W / stride] of images [N, in_channels, H, W].

        Raises:
            ValueError: If H or W is not a multiple of `multiple`.
        """
        require_multiples(self.name, images, self.multiple)
        for layer in self.layers.values():
            images = layer(images)
        return images


def numbered(layers: list[nn.Module]) -> dict[str, nn.Module]:
    """The layers as layer1, layer2 and so on."""
    return {f"layer{number}": layer for number, layer in enumerate(layers, start=1)}
