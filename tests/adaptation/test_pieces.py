"""Flat pieces of tensors; where they are cut is tried on a GPU (tests/training/test_gpu.py)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.adaptation.pieces import (
    add_to_gradients,
    flat,
    lie_alike,
    piece_size,
    pieces,
    pieces_of,
)


@given(size=st.integers(1, 50))
def test_pieces_are_views_that_together_are_the_tensor(size: int) -> None:
    tensor = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
    parts = pieces_of(tensor, size)
    assert max(len(part) for part in parts) <= size
    assert sorted(torch.cat(parts).tolist()) == list(range(24))
    for part in parts:
        part.add_(100)
    assert (tensor >= 100).all()


def test_on_a_cpu_tensors_are_left_whole() -> None:
    tensors = [torch.rand(3, 4), torch.rand(5)]
    assert piece_size(tensors) is None
    assert piece_size([]) is None
    assert [each is one for each, one in zip(pieces(tensors), tensors, strict=True)] == [True] * 2


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ((4, 3, 2, 2), (4, 3, 2, 2), False),
        ((4, 1, 2, 2), (4, 1, 2, 2), True),
        ((4, 3, 1, 1), (4, 3, 1, 1), True),
    ],
)
def test_layouts_that_differ_in_name_alone_lie_alike(
    one: tuple[int, ...], other: tuple[int, ...], alike: bool
) -> None:
    first = torch.rand(one)
    second = torch.rand(other).to(memory_format=torch.channels_last)
    assert lie_alike(first, second) is alike
    assert lie_alike(first, first)
    if alike:
        second.copy_(first)
        assert torch.equal(flat(first), flat(second))


def test_gradients_are_added_to_what_is_there_or_become_it() -> None:
    having, without = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    having.grad = torch.ones(2)
    add_to_gradients([having, without], [torch.full((2,), 0.5), torch.full((3,), 2.0)])
    assert having.grad.tolist() == [1.5, 1.5]
    assert without.grad is not None
    assert without.grad.tolist() == [2.0, 2.0, 2.0]
    add_to_gradients([], [])
