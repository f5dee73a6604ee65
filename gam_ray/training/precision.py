"""In which numbers, and by whose kernels, networks compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch

from gam_ray.networks import MatchableNetwork

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Let a GPU multiply matrices as torch lets it convolve: in TF32, 10 bits of the 23.

    On a CPU, and on a GPU that has it not, nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# Variants of one layer's code that torch.compile may make: of dilations, shapes, what learns.
_MOST_VARIANTS = 256


class CompiledLayers:
    """While open, steps run kernels that torch.compile makes of each layer when it is first needed.

    Outside of `in_steps`, as in reports, which have too many shapes for it, layers run as they are
    written. Hooks on the layers stay as they are, outside.

    Args:
        networks: Whose layers are compiled; the instances alone, not their classes.
    """

    def __init__(self, *networks: MatchableNetwork) -> None:
        self._layers = [layer for network in networks for layer in network.layers.values()]
        self._is_step = False

    def __enter__(self) -> Self:
        for layer in self._layers:
            layer.__dict__["forward"] = self._either(layer.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            del layer.__dict__["forward"]

    def _either(self, written: Callable[..., Any]) -> Callable[..., Any]:
        made = torch.compile(written, dynamic=False)

        def forward(*inputs: Any) -> Any:
            return (made if self._is_step else written)(*inputs)

        return forward

    @contextmanager
    def in_steps(self) -> Iterator[None]:
        """For the time of a step."""
        import torch._dynamo.config

        with torch._dynamo.config.patch(recompile_limit=_MOST_VARIANTS):  # noqa: SLF001
            self._is_step = True
            try:
                yield
            finally:
                self._is_step = False
