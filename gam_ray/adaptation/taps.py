"""Reading activations by layer name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class _AllSeenError(Exception):
    """Ends a forward pass whose rest nobody looks at."""


class Taps:
    """While open, keeps what each layer last gave out.

    Opened after matchings were inserted, it sees matched activations.

    Args:
        layers: Layer name → submodule.
        raw: To see what layers give out before their matchings change it.

    Attributes:
        seen: Layer name → activation of the last forward pass, in the order they were made.
    """

    def __init__(self, layers: Mapping[str, nn.Module], *, raw: bool = False) -> None:
        self._layers = dict(layers)
        self._raw = raw
        self._handles: list[RemovableHandle] = []
        self._stops = False
        self.seen: dict[str, Tensor] = {}

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            hook = self._reader(name)
            self._handles.append(layer.register_forward_hook(hook, prepend=self._raw))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def run(self, network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Run a network as far as its last tapped layer, and no further.

        Args:
            network: Runs each tapped layer once.
            images: [N, C, H, W].

        Returns:
            Layer name → activation, in the order of `layers`.
        """
        self.seen, self._stops = {}, True
        try:
            network(images)
        except _AllSeenError:
            pass
        finally:
            self._stops = False
        return {name: self.seen[name] for name in self._layers}

    def _reader(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def read(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.seen[name] = output
            if self._stops and len(self.seen) == len(self._layers):
                raise _AllSeenError

        return read


class TappedNetwork(nn.Module):
    """A network whose output is the activations of chosen layers; it runs no further than these.

    A module of its own, so that one `DistributedDataParallel` can hold it.

    Args:
        network: Any network.
        layers: Chosen layer name → submodule of `network`.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self._tapped = dict(layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Layer name → activation, for images [N, C, H, W]."""
        with Taps(self._tapped) as taps:
            return taps.run(self.network, images)


def choose_layers(layers: Mapping[str, nn.Module], names: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers called `names`, in the network's order.

    Raises:
        ValueError: If the network has no layer of a name.
    """
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise ValueError(
            f"the network has no layer {', '.join(map(repr, unknown))}; its layers: "
            f"{', '.join(layers)}"
        )
    return {name: layer for name, layer in layers.items() if name in names}
