"""Sums and broadcasts over the workers of a trial; the identity where there is one worker."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of data-parallel workers, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number in [0, world_size)."""
    return dist.get_rank() if world_size() > 1 else 0


class _SumOverWorkers(torch.autograd.Function):
    """y = Σ_r x_r on every worker; so ∂L/∂x_r = Σ_s ∂L_s/∂y, again a sum over workers."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_workers(tensor: Tensor) -> Tensor:
    """The sum of every worker's `tensor`, differentiable."""
    if world_size() == 1:
        return tensor
    total: Tensor = _SumOverWorkers.apply(tensor)
    return total


def gather_rows(rows: Tensor, count: int) -> Tensor:
    """The rows of all workers in the order of the whole set.

    Worker r holds rows r, r + W, r + 2W, … of `count` rows, as `shard` gives them.

    Args:
        rows: [n_r, …], this worker's rows.
        count: Number of rows over all workers.

    Returns:
        [count, …], equal on all workers.
    """
    workers = world_size()
    if workers == 1:
        return rows
    per_worker = -(-count // workers)
    padded = rows.new_zeros((per_worker, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(workers)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).reshape(-1, *rows.shape[1:])[:count].contiguous()


def shard(rows: Tensor) -> Tensor:
    """This worker's rows of a tensor that all workers hold: r, r + W, r + 2W, …."""
    return rows[rank() :: world_size()]


def broadcast_object(value: Any) -> Any:
    """Rank 0's `value` on every worker (pickled; only between the workers of one trial)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
