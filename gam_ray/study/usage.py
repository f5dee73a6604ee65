"""What a trial's worker takes of its machine, for MLflow's page of system metrics."""

from __future__ import annotations

import os
import time
from pathlib import Path

MEGABYTE = 10**6


class Usage:
    """Measures this process from one call to the next.

    Args:
        is_on_gpu: Whether the worker has a GPU, whose memory is measured too.
    """

    def __init__(self, *, is_on_gpu: bool) -> None:
        self._is_on_gpu = is_on_gpu
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def metrics(self) -> dict[str, float]:
        """By MLflow's kind of names: CPU time, memory now, and the most of the GPU's memory.

        Returns:
            ``system/cpu_utilization_percentage``: CPU time of all threads since the last call, 100
            for one core; ``system/memory_usage_megabytes``: resident; on a GPU
            ``system/gpu_memory_usage_megabytes``: the most that torch's tensors took since then.
        """
        wall, cpu = time.monotonic(), time.process_time()
        share = (cpu - self._cpu) / max(wall - self._wall, 1e-9)
        self._wall, self._cpu = wall, cpu
        found = {
            "system/cpu_utilization_percentage": 100 * share,
            "system/memory_usage_megabytes": resident_bytes() / MEGABYTE,
        }
        if self._is_on_gpu:
            import torch

            most = torch.cuda.max_memory_allocated()
            found["system/gpu_memory_usage_megabytes"] = most / MEGABYTE
            torch.cuda.reset_peak_memory_stats()
        return found


def resident_bytes() -> int:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
