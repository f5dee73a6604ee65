"""In which numbers, and by whose kernels, networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

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


def compile_layers(network: MatchableNetwork) -> None:
    """Let torch.compile make kernels of each layer, inside `with_compiled_layers` alone.

    Hooks on the layers stay as they are, outside.
    """
    for layer in network.layers.values():
        # Of the instance: the class, and copies made before, are as they were.
        layer.__dict__["forward"] = torch.compile(layer.forward, dynamic=False)


@contextmanager
def with_compiled_layers() -> Iterator[None]:
    """Run compiled layers' kernels, made when first needed; reports have too many shapes for it."""
    import torch._dynamo.config

    with (
        torch.compiler.set_stance("default"),
        torch._dynamo.config.patch(recompile_limit=_MOST_VARIANTS),  # noqa: SLF001
    ):
        yield


def without_compiled_layers() -> AbstractContextManager[None]:
    """Run what `compile_layers` left as it was written."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
