"""Flat pieces of tensors, for operations that a GPU does on whole lists of them.

torch's operations on lists give every 65,536 numbers one block of threads. LeNet's parameters make
seven of these, on a card that runs hundreds at a time: cut up, they take less than half of the
time. What is done element by element stays the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers in a piece, at least: LeNet's then are stepped in one launch, which takes 36 pieces.
PIECE = 16384
# Above so many pieces larger ones are cut; from torch's own size on there is nothing to cut.
MOST_PIECES = 256
TORCH_BLOCK = 65536


def pieces(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views that together are the tensors; the tensors themselves on a CPU or if they are large.

    Args:
        tensors: On one device, each dense in memory in whatever order of its dimensions.
    """
    size = piece_size(tensors)
    return [part for tensor in tensors for part in pieces_of(tensor, size)]


@torch.no_grad()
def add_to_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add to the gradient of each parameter; where there is none, this one becomes it."""
    sums: list[Tensor] = []
    addends: list[Tensor] = []
    for parameter, more in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = more
        else:
            sums.append(parameter.grad)
            addends.append(more)
    if all(lie_alike(one, other) for one, other in zip(sums, addends, strict=True)):
        sums, addends = pieces(sums), pieces(addends)
    if sums:
        torch._foreach_add_(sums, addends)


def pieces_of(tensor: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """One tensor in flat pieces of `size` numbers, or whole if that is None."""
    return (tensor,) if size is None else torch.split(flat(tensor), size)


def piece_size(tensors: Sequence[Tensor]) -> int | None:
    """Numbers in each piece of these tensors, or None if they are better left whole."""
    if not tensors or not tensors[0].is_cuda:
        return None
    total = sum(tensor.numel() for tensor in tensors)
    wanted = -(-total // MOST_PIECES)
    size = max(PIECE, -(-wanted // PIECE) * PIECE)
    return size if size < TORCH_BLOCK else None


def flat(tensor: Tensor) -> Tensor:
    """A dense tensor's numbers as they lie in memory, [n]; a view."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def lie_alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape have their numbers in the same order in memory."""
    strides = zip(first.stride(), second.stride(), first.shape, strict=True)
    return all(one == other or size == 1 for one, other, size in strides)
