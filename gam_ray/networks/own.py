"""A network that was written elsewhere, made matchable."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from gam_ray.networks.base import MatchableNetwork


class OwnNetwork(MatchableNetwork):
    """Any network, with some of its modules as the layers that can be matched.

    The network runs as it is, but for ReLUs and the like that would overwrite their input, which
    no longer do.

    Args:
        network: Takes float images [N, C, H, W] in [0, 1] and gives logits [N, classes], or for
            segmentation [N, classes, H / stride, W / stride]. Taken over, not copied.
        layers: Names of its modules as ``named_modules`` has them, two at least; one of them gives
            the logits. In `layers` a dot is written as an underscore.
        example: Two images or more, to see in which order the layers run.

    Raises:
        ValueError: A name is unknown, a layer does not run exactly once, gives something else than
            [N, K] or [N, K, H, W], or none of them gives the logits.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], example: Tensor) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            if getattr(module, "inplace", False) is True:
                setattr(module, "inplace", False)  # noqa: B010 - declared by some modules alone
        _check_names(network, layers)
        logits, in_order = _order(network, layers, example)
        self._places = {name.replace(".", "_"): name for name in in_order}
        self.features = list(self._places)[-2]
        self.stride = example.shape[-1] // logits.shape[-1] if logits.dim() == 4 else None

    @property
    def layers(self) -> dict[str, nn.Module]:
        """Those that were named, in the order in which they run."""
        return {name: self.network.get_submodule(place) for name, place in self._places.items()}

    def forward(self, images: Tensor) -> Tensor:
        """What the network gives."""
        logits: Tensor = self.network(images)
        return logits


def _check_names(network: nn.Module, layers: Sequence[str]) -> None:
    known = [name for name, _ in network.named_modules() if name]
    for name in layers:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"the network has no layer {name!r}; {hint}")
    if len(set(layers)) < max(2, len(layers)):
        raise ValueError(
            "layers takes two names at least, all distinct: a layer to match and the one that "
            f"gives the logits, but got {', '.join(layers) or 'none'}"
        )


@torch.no_grad()
def _order(
    network: nn.Module, layers: Sequence[str], example: Tensor
) -> tuple[Tensor, tuple[str, ...]]:
    """What the network gives for an example, and the layers in the order in which they run."""
    seen: list[tuple[str, object]] = []

    def reader(name: str) -> object:
        return network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output: seen.append((name, output))
        )

    handles = [reader(name) for name in layers]
    modes = {module: module.training for module in network.modules()}
    try:
        logits = network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
        for module, training in modes.items():
            module.training = training
    _check_seen(seen, layers, logits)
    return logits, tuple(name for name, _ in seen)


def _check_seen(seen: list[tuple[str, object]], layers: Sequence[str], logits: object) -> None:
    names = [name for name, _ in seen]
    for name in layers:
        if names.count(name) != 1:
            raise ValueError(
                f"a layer runs once for each batch, but {name!r} ran {names.count(name)} times; "
                "name another"
            )
    for name, output in seen:
        if not isinstance(output, Tensor) or output.dim() not in {2, 4}:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a layer gives a tensor [N, K] or [N, K, H, W], but {name!r} gives {shape}; "
                "name another"
            )
    last, output = seen[-1]
    if output is not logits:
        raise ValueError(
            f"the last of the layers gives the logits, but what {last!r} gives is worked on by the "
            "network; name the module that gives the logits, too"
        )
