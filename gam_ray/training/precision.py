"""In which numbers networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gam_ray.config import TrialConfig

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def in_precision(config: TrialConfig, device: torch.device) -> torch.autocast:
    """Passes of networks inside it compute as the trial says."""
    dtype = PRECISIONS[config.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def tensor_cores() -> Iterator[None]:
    """Let a GPU multiply matrices as torch lets it convolve: in TF32, 10 bits of the 23.

    Without a GPU that has it, nothing changes.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
